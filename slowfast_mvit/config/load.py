"""From a YAML file and overrides to a ``Config``, with all problems in one error.

    file, _BASE_ --> keys with lines --+--> legacy keys --> typed values --> Config --> checks
    KEY VALUE -------------------------+

Warnings and problems are collected first, then logged and raised.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from slowfast_mvit.config.checks import CHECKS
from slowfast_mvit.config.coerce import Mismatch, coerce, shorten
from slowfast_mvit.config.config import ADDRESS, KEYS, Config
from slowfast_mvit.config.legacy import IGNORED, REFUSED, RENAMED, WITHOUT_EFFECT
from slowfast_mvit.config.schema import Settings
from slowfast_mvit.config.setting import Key
from slowfast_mvit.config.shipped import find_config
from slowfast_mvit.config.sources import (
    COMMAND_LINE,
    Findings,
    Location,
    SourceValue,
    read_file,
    read_overrides,
    read_text,
)
from slowfast_mvit.errors import ConfigError, in_one_message, nearest

logger = logging.getLogger(__name__)

KNOWN = (*KEYS, *IGNORED, *REFUSED)
SECTIONS = {name[:dot] for name in KNOWN for dot, letter in enumerate(name) if letter == "."}


MAX_GUESSES = 50  # problems up to which the nearest name of an unknown key is searched for

_are_trusted = ContextVar("are_trusted", default=False)


@contextlib.contextmanager
def trusted_configs() -> Iterator[None]:
    """Let config files name code (``package.module:name``) and addresses, as overrides may.

    Without it, code and downloads are named by overrides only: a config may come from a stranger,
    inside weights or a run folder.
    """
    token = _are_trusted.set(True)
    try:
        yield
    finally:
        _are_trusted.reset(token)


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a config.

    Args:
        path: a YAML file with PySlowFast's keys, or the name of a shipped one (``find_config``);
            None for the defaults.
        overrides: "KEY", "VALUE" pairs and "KEY=VALUE" words, which replace keys of the file.

    Raises:
        ConfigError: the config has problems; lists all of them, each with its file and line.
    """
    findings = Findings()
    keys = {} if path is None else read_file(find_config(path), SECTIONS, findings)
    return _config_of(keys | read_overrides(overrides, findings), findings)


def load_config_text(text: str, *, source: str) -> Config:
    """Read a config that is a text, such as the one inside a checkpoint.

    Args:
        text: YAML of ``Config.to_yaml`` or PySlowFast.
        source: its name in messages.

    Raises:
        ConfigError: as ``load_config``.
    """
    findings = Findings()
    return _config_of(read_text(text, source, SECTIONS, findings), findings)


def _config_of(keys: dict[str, SourceValue], findings: Findings) -> Config:
    """Validate the keys, log the warnings, and raise if there are problems."""
    keys = _without_legacy(keys, findings)
    values = _values(keys, findings)
    config = _assemble(values)
    _check(config, keys, values, findings)

    if findings.problems:
        raise ConfigError(_by_source(findings.problems))
    for location, message in findings.warnings:
        logger.warning("%s: %s", location, message)
    return config


def _without_legacy(keys: dict[str, SourceValue], findings: Findings) -> dict[str, SourceValue]:
    """Remove the keys that are not read, and replace the values that have a new name."""
    current: dict[str, SourceValue] = {}
    # One warning for each reason: a dump of PySlowFast's whole config would give a hundred.
    ignored: dict[tuple[str, str], list[str]] = {}
    for name, item in keys.items():
        if name in REFUSED and not REFUSED[name].is_silent(item.value):
            findings.problem(
                item.location,
                f"{name}: {shorten(item.value)} is outside this project's scope: "
                f"{REFUSED[name].reason}",
            )
        elif name in IGNORED and not IGNORED[name].is_silent(item.value):
            ignored.setdefault((item.location.source, IGNORED[name].reason), []).append(name)
        elif name not in REFUSED and name not in IGNORED:
            if new := RENAMED.get((name, str(item.value))):
                logger.info("%s: %s %s is now %s: %s", item.location, name, item.value, *new)
                item = SourceValue(new[0], new[0], item.location)
            current[name] = item
    for (source, reason), names in ignored.items():
        location = keys[names[0]].location if len(names) == 1 else Location(source)
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        if reason in WITHOUT_EFFECT:
            logger.info("%s: %s: %s", location, shown, reason)
        else:
            findings.warning(location, f"{shown}: {reason}")
    return current


def _values(keys: dict[str, SourceValue], findings: Findings) -> dict[str, Any]:
    """Convert the values, and report those that are not valid."""
    values: dict[str, Any] = {}
    for name, item in keys.items():
        if name not in KEYS:
            is_one_of_many = len(findings.problems) >= MAX_GUESSES
            text = "unknown key" if is_one_of_many else _unknown(name)
            findings.problem(item.location, f"{name}: {text}")
            continue
        try:
            values[name] = coerce(KEYS[name], item.value, item.text)
            if item.location != COMMAND_LINE and not _are_trusted.get():
                _require_harmless(KEYS[name], values[name])
        except Mismatch as mismatch:
            findings.problem(item.location, f"{name}: {mismatch}")
    # PySlowFast's key for the same setting.
    if values.get("TRAIN.MIXED_PRECISION") and "TRAIN.PRECISION" not in keys:
        values["TRAIN.PRECISION"] = "fp16"
    return values


def _require_harmless(key: Key, value: Any) -> None:
    """Refuse a value from a file that names code to import, or an address to fetch.

    Raises:
        Mismatch: names the key and the ways to allow it.
    """
    for text in value if isinstance(value, tuple) else (value,):
        if not isinstance(text, str):
            continue
        is_address = ADDRESS.match(text) is not None
        if is_address or (key.rule.names_code and ":" in text):
            raise Mismatch(
                f"{shorten(text)} {'is an address to fetch' if is_address else 'is code to run'}, "
                f"which a config file may not name. Give {key.name} on the command line, or add "
                "--trust-config if you trust this config as you trust a program"
            )


def _unknown(name: str) -> str:
    if name in SECTIONS:
        return "is a section; expected keys below it"
    same_word = [known for known in KEYS if known.split(".")[-1] == name.split(".")[-1].upper()]
    guess = same_word[0] if len(same_word) == 1 else nearest(name, (*KNOWN, *SECTIONS))
    return f"unknown key. Did you mean {guess}?" if guess else "unknown key. See docs/config.md"


def _assemble(values: dict[str, Any]) -> Config:
    """Return the defaults with these values in their place."""
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
    config: Config, keys: dict[str, SourceValue], values: dict[str, Any], findings: Findings
) -> None:
    """Run the checks between keys, except for keys that already have a problem."""
    for check in CHECKS:
        for names, message in check(config):
            first_name, *_ = checked = names.split()
            if any(key in keys and key not in values for key in checked):
                continue
            locations = {key: keys[key].location for key in checked if key in keys}
            first = next(iter(locations.values()), Location("defaults"))
            others = [
                f"{key}: {location.relative_to(first)}"
                for key, location in locations.items()
                if location != first
            ]
            suffix = f" ({'; '.join(others)})" if others else ""
            findings.problem(first, f"{first_name}: {message}{suffix}")


def _by_source(problems: Iterable[tuple[Location, str]]) -> str:
    """List all problems by file and line; the command line comes last."""
    by_source: dict[str, list[tuple[int, str]]] = {}
    for location, message in sorted(problems, key=lambda problem: problem[0] == COMMAND_LINE):
        text = message if location.line is None else f"{f'line {location.line}':<9} {message}"
        by_source.setdefault(location.source, []).append((location.line or 0, text))
    return "\n".join(
        in_one_message(source, [text for _, text in sorted(lines, key=lambda item: item[0])])
        for source, lines in by_source.items()
    )
