"""The HTML page of a report: one file without network requests, images included.

Class names, video names, messages and the config come from users. Jinja2 escapes every value that
``report.html.jinja`` prints, and the page's content security policy forbids requests and all
scripts but our own, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import io
import unicodedata
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

# Control characters, lone surrogates, and format characters, which can reverse text.
INVISIBLE_CATEGORIES = ("Cc", "Cs", "Cf")
HARMLESS = "\n\t\u200c\u200d"  # the last two join or part letters in Persian, Hindi and emoji


def render(template: str, **values: Any) -> str:
    """Fill a template of this package with values, each escaped where it is printed."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("slowfast_mvit.evaluation", ""),
        autoescape=True,
        finalize=visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": "{:.1f}%".format, "thousands": "{:,}".format}
    return environment.get_template(template).render(values)


def visible(value: object) -> object:
    """Return text with its invisible characters escaped, as ``\\x1b``; other values unchanged."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(
        char
        if char in HARMLESS or unicodedata.category(char) not in INVISIBLE_CATEGORIES
        else char.encode("unicode_escape").decode("ascii")
        for char in value
    )


def script_and_hash(name: str) -> tuple[Markup, str]:
    """Return a script of this package, and its hash for the content security policy."""
    text = (importlib.resources.files("slowfast_mvit.evaluation") / name).read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return Markup(text), f"sha256-{digest}"


def address_of(jpeg: str) -> str:
    """Return the address of a JPEG in base64."""
    return Markup("data:image/jpeg;base64,") + jpeg  # escaped by Markup


def lossless(pixels: np.ndarray) -> str:
    """Encode an image (H, W, 3) uint8 RGB as a PNG; returns its address."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png", optimize=True)
    return Markup("data:image/png;base64,") + base64.b64encode(content.getvalue()).decode("ascii")
