"""Write ``docs/config.md`` from the schema: python -m slowfast_mvit.config.document."""

from __future__ import annotations

import sys
import typing
from dataclasses import fields, is_dataclass

from slowfast_mvit.config.coerce import describe, limits_of, shorten
from slowfast_mvit.config.config import KEYS
from slowfast_mvit.config.legacy import IGNORED, REFUSED
from slowfast_mvit.config.schema import Settings
from slowfast_mvit.config.setting import Key

INTRODUCTION = """\
# Keys of a config file

<!-- Written by `python -m slowfast_mvit.config.document > docs/config.md`; do not edit. -->

A config file is YAML with PySlowFast's keys; names and defaults are the same, so a PySlowFast file
has the same meaning here. `DATA.NUM_FRAMES` in a file is `config.data.num_frames` in Python, and
`DATA.NUM_FRAMES 16` or `DATA.NUM_FRAMES=16` on the command line, after the file's name.

* `_BASE_: recipe.yaml`, relative to the file, includes all keys of another file; keys of this file
  replace them. A list of files is included in order.
* `[3, 7, 7]` and `(3, 7, 7)`, `1.0e-4` and `1e-4` are the same, and a whole number is accepted as a
  number. Of a duplicate key the last counts, with a warning unless both are equal.
* An unknown key or an invalid value is an error. All of them are reported in one message, each with
  its file and line.
* A key of PySlowFast that MViT does not read is ignored, with a warning where it would have had an
  effect; where it would have changed the result it is an error. They are listed at the end.

Keys marked * are not PySlowFast's.
"""

REFUSED_TITLE = """
## Keys of PySlowFast that stop a run

They would train or test something that is outside this project's scope.

| key | feature | accepted |
|---|---|---|
"""

IGNORED_TITLE = """
## Keys of PySlowFast and of earlier versions that are ignored

With a warning where PySlowFast would do something else with this value.

| reason | keys |
|---|---|
"""


def document() -> str:
    """Return the text of ``docs/config.md``."""
    parts = [INTRODUCTION, _table("Keys without a section", Settings, "")]
    types = typing.get_type_hints(Settings)
    for item in fields(Settings):
        if is_dataclass(types[item.name]):
            parts.append(_table(item.name.upper(), types[item.name], item.name))
    parts.append(REFUSED_TITLE)
    parts.extend(_refused_row(name) for name in sorted(REFUSED))
    parts.append(IGNORED_TITLE)
    parts.extend(_ignored_rows())
    return "".join(parts)


def _table(title: str, section_class: typing.Any, section: str) -> str:
    meaning = f"{section_class.__doc__}\n\n" if section else ""
    rows = "".join(_row(key) for key in KEYS.values() if key.section == section)
    header = "| key | default | meaning |\n|---|---|---|\n"
    return f"\n## {title}\n\n{meaning}{header}{rows}"


def _row(key: Key) -> str:
    rule = key.rule
    name = f"`{key.attribute.upper()}`{' *' if rule.ours else ''}"
    default = list(key.default) if isinstance(key.default, tuple) else key.default
    return f"| {name} | `{shorten(default)}` | {rule.meaning} {_allowed(key)} |\n"


def _allowed(key: Key) -> str:
    rule = key.rule
    if rule.choices:
        return f"One of {', '.join(f'`{choice!r}`' for choice in rule.choices)}."
    text = describe(key.type)
    limits = " and ".join(f"{words} {limit:g}" for words, limit, _ in limits_of(rule))
    return f"{text[0].upper()}{text[1:]}{', ' if limits else ''}{limits}."


def _refused_row(name: str) -> str:
    accepted = ", ".join(f"`{value!r}`" for value in REFUSED[name].silent)
    return f"| `{name}` | {REFUSED[name].reason} | {accepted} |\n"


def _ignored_rows() -> list[str]:
    """Return a row for each reason; a section of which no key is read is written ``X3D.*``."""
    read = {key.section.upper() for key in KEYS.values()}
    by_reason: dict[str, dict[str, None]] = {}
    for name in sorted(IGNORED):
        section = name.split(".")[0]
        shown = name if section in read or "." not in name else f"{section}.*"
        by_reason.setdefault(IGNORED[name].reason, {})[shown] = None
    return [
        f"| {reason} | {', '.join(f'`{name}`' for name in names)} |\n"
        for reason, names in by_reason.items()
    ]


if __name__ == "__main__":
    sys.stdout.write(document())
