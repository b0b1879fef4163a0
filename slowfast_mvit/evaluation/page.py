"""The HTML page around a report: one file that asks nothing of any network.

Whatever comes from a user - names of classes and videos, messages, the config - passes through
``escaped``. Beside that, the page forbids itself scripts, forms and anything to be fetched.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
STYLES = ("page.css", "charts.css")
# Control characters, lone surrogates, and format characters, which can turn text around.
UNSEEN_CATEGORIES = ("Cc", "Cs", "Cf")
HARMLESS = "\n\t\u200c\u200d"  # the last two join or part letters in Persian, Hindi and emoji


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: its name in links.
        heading: plain text.
        body: HTML.
        intro: one plain sentence under the heading.
    """

    anchor: str
    heading: str
    body: str
    intro: str = ""


def escaped(text: object) -> str:
    """Text as HTML, safe in elements and in quoted attributes; odd characters as ``\\x1b``."""
    shown = (
        char
        if char in HARMLESS or unicodedata.category(char) not in UNSEEN_CATEGORIES
        else char.encode("unicode_escape").decode("ascii")
        for char in str(text)
    )
    return html.escape("".join(shown), quote=True)


def percent(rate: float) -> str:
    """A rate already in percent, with one decimal."""
    return f"{rate:.1f}%"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], classes: str = "") -> str:
    """A table of cells that are HTML already, under headings that are plain text."""
    head = "".join(f'<th scope="col">{escaped(heading)}</th>' for heading in headings)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for cells in rows
    )
    return (
        f'<div class="scroll"><table class="{classes}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def folded(summary: str, body: str) -> str:
    """HTML that opens on a click on ``summary``, which is plain text."""
    return f"<details><summary>{escaped(summary)}</summary>\n{body}\n</details>"


def page(title: str, *, notes: Sequence[str], headline: str, sections: Sequence[Section]) -> str:
    """A whole HTML document.

    Args:
        title: plain text.
        notes: plain lines under the title.
        headline: HTML between the title and the sections.
        sections: in reading order.
    """
    folder = resources.files(__package__)
    style = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in STYLES)
    links = "\n".join(
        f'<a href="#{section.anchor}">{escaped(section.heading)}</a>' for section in sections
    )
    lines = "\n".join(f"<p>{escaped(note)}</p>" for note in notes)
    parts = "\n".join(_in_html(section) for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(title)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{escaped(title)}</h1>
<div class="notes">{lines}</div>
</header>
<main>
{headline}
<nav aria-label="Sections">
{links}
</nav>
{parts}
</main>
</body>
</html>
"""


def _in_html(section: Section) -> str:
    intro = f'<p class="intro">{escaped(section.intro)}</p>' if section.intro else ""
    return f"""<section id="{section.anchor}">
<h2>{escaped(section.heading)}</h2>
{intro}
{section.body}
</section>"""
