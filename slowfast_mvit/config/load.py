"""From a YAML file and overrides to a ``Config``, with every problem reported at once.

    file, _BASE_ --> keys with lines --+--> legacy keys --> typed values --> Config --> checks
    KEY VALUE -------------------------+

Warnings and problems are collected on the way, and told at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from slowfast_mvit.config.checks import CHECKS
from slowfast_mvit.config.coerce import Mismatch, coerce, shorten
from slowfast_mvit.config.config import KEYS, Config
from slowfast_mvit.config.find import find_config
from slowfast_mvit.config.legacy import IGNORED, REFUSED, RENAMED
from slowfast_mvit.config.overrides import COMMAND_LINE, read_overrides
from slowfast_mvit.config.read import Findings, Given, Place, read_file, read_text
from slowfast_mvit.config.schema import Settings
from slowfast_mvit.errors import ConfigError, in_one_message, nearest

logger = logging.getLogger(__name__)

KNOWN = (*KEYS, *IGNORED, *REFUSED)
SECTIONS = {name[:place] for name in KNOWN for place, letter in enumerate(name) if letter == "."}


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a config.

    Args:
        path: a YAML file with PySlowFast's keys, or the name of a shipped one (``find_config``);
            None for the defaults.
        overrides: "KEY", "VALUE" pairs and "KEY=VALUE" words, which replace what the file says.

    Raises:
        ConfigError: when anything is wrong; holds all problems, each with its file and line.
    """
    findings = Findings()
    given = read_file(find_config(path), SECTIONS, findings) if path is not None else {}
    return _config_of({**given, **read_overrides(overrides, findings)}, findings)


def load_config_text(text: str, *, source: str) -> Config:
    """Read a config that is a text, such as the one inside a checkpoint.

    Args:
        text: what ``Config.to_yaml`` or PySlowFast wrote.
        source: what to call it in messages.

    Raises:
        ConfigError: as ``load_config``.
    """
    findings = Findings()
    return _config_of(read_text(text, source, SECTIONS, findings), findings)


def _config_of(given: dict[str, Given], findings: Findings) -> Config:
    """Judge the keys, tell the warnings, and raise if there are problems."""
    given = _without_legacy(given, findings)
    values = _values(given, findings)
    config = _assemble(values)
    _check(config, given, values, findings)

    if findings.problems:
        raise ConfigError(_by_source(findings.problems))
    for place, message in findings.warnings:
        logger.warning("%s: %s", place, message)
    return config


def _without_legacy(given: dict[str, Given], findings: Findings) -> dict[str, Given]:
    """Sort out the keys that are not read, and replace the values that have a new name."""
    kept: dict[str, Given] = {}
    # One warning for each reason: a dump of PySlowFast's whole config would give a hundred.
    ignored: dict[tuple[str, str], list[str]] = {}
    for name, item in given.items():
        if name in REFUSED and not REFUSED[name].is_silent(item.value):
            findings.problem(
                item.place,
                f"{name}: {shorten(item.value)}: {REFUSED[name].reason} "
                "outside this project's scope",
            )
        elif name in IGNORED and not IGNORED[name].is_silent(item.value):
            ignored.setdefault((item.place.source, IGNORED[name].reason), []).append(name)
        elif name not in REFUSED and name not in IGNORED:
            kept[name] = _renamed(name, item)
    for (source, reason), names in ignored.items():
        place = given[names[0]].place if len(names) == 1 else Place(source)
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        findings.warning(place, f"{shown}: {reason}")
    return kept


def _renamed(name: str, item: Given) -> Given:
    new = RENAMED.get(name, {}).get(str(item.value))
    if new is None:
        return item
    logger.info("%s: %s %s is now %s: %s", item.place, name, item.value, *new)
    return Given(new[0], new[0], item.place)


def _values(given: dict[str, Given], findings: Findings) -> dict[str, Any]:
    """The value of each key that has a right one."""
    values: dict[str, Any] = {}
    for name, item in given.items():
        if name not in KEYS:
            findings.problem(item.place, f"{name}: {_unknown(name)}")
            continue
        try:
            values[name] = coerce(KEYS[name], item.value, item.text)
        except Mismatch as mismatch:
            findings.problem(item.place, f"{name}: {mismatch}")
    # PySlowFast's own switch, in our words.
    if values.get("TRAIN.MIXED_PRECISION") and "TRAIN.PRECISION" not in given:
        values["TRAIN.PRECISION"] = "fp16"
    return values


def _unknown(name: str) -> str:
    if name in SECTIONS:
        return "is a section; expected keys below it"
    same_word = [known for known in KEYS if known.split(".")[-1] == name.split(".")[-1].upper()]
    guess = same_word[0] if len(same_word) == 1 else nearest(name, (*KNOWN, *SECTIONS))
    return f"unknown key. Did you mean {guess}?" if guess else "unknown key. See docs/config.md"


def _assemble(values: dict[str, Any]) -> Config:
    """The defaults with these values in their place."""
    by_section: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        by_section.setdefault(KEYS[name].section, {})[KEYS[name].attribute] = value
    top = by_section.pop("", {})
    defaults = Settings()
    sections = {
        section: type(getattr(defaults, section))(**keys) for section, keys in by_section.items()
    }
    return Config(**top, **sections, set_keys=frozenset(values))


def _check(
    config: Config, given: dict[str, Given], values: dict[str, Any], findings: Findings
) -> None:
    """Run the checks between keys, but for those whose keys are already known to be wrong."""
    for check in CHECKS:
        for keys, message in check(config):
            if any(key in given and key not in values for key in keys):
                continue
            places = {key: given[key].place for key in keys if key in given}
            first = next(iter(places.values()), Place("defaults"))
            others = [
                f"{key}: {place.seen_from(first)}"
                for key, place in places.items()
                if place != first
            ]
            where = f" ({'; '.join(others)})" if others else ""
            findings.problem(first, f"{keys[0]}: {message}{where}")


def _by_source(problems: Iterable[tuple[Place, str]]) -> str:
    """All problems, file by file, in the order of their lines; the command line comes last."""
    by_source: dict[str, list[tuple[int, str]]] = {}
    for place, message in sorted(problems, key=lambda problem: problem[0] == COMMAND_LINE):
        text = message if place.line is None else f"{f'line {place.line}':<9} {message}"
        by_source.setdefault(place.source, []).append((place.line or 0, text))
    return "\n".join(
        in_one_message(source, [text for _, text in sorted(found, key=lambda item: item[0])])
        for source, found in by_source.items()
    )
