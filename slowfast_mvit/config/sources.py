"""The keys of a YAML file, of the files that it names as ``_BASE_``, and of a command line.

A file may be untrusted: it is parsed without running code, only ``.yaml`` files named relative to
it are opened, and its size is limited (see below).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

BASE = "_BASE_"
MAX_BYTES = 1 << 20
MAX_NODES = 100_000  # with aliases expanded: a short file can contain a billion
MAX_BASE_DEPTH = 8
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Location:
    """The location of a value: a file and a line, or the command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source} line {self.line}"

    def relative_to(self, other: Location) -> str:
        """Return the location as text, without the file if ``other`` is in the same file."""
        same_file = self.source == other.source and self.line is not None
        return f"line {self.line}" if same_file else str(self)


COMMAND_LINE = Location("command line")
_ASSIGNMENT = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class SourceValue:
    """A value as the user wrote it.

    Attributes:
        value: None, bool, int, float, str, list or dict.
        text: the spelling of a scalar.
        location: of the value.
    """

    value: Any
    text: str | None
    location: Location


@dataclass
class Findings:
    """The problems and warnings of a config, collected until all of it is read."""

    problems: list[tuple[Location, str]] = field(default_factory=list)
    warnings: list[tuple[Location, str]] = field(default_factory=list)

    def problem(self, location: Location, message: str) -> None:
        self.problems.append((location, message))

    def warning(self, location: Location, message: str) -> None:
        self.warnings.append((location, message))


def read_file(
    path: Path, sections: set[str], findings: Findings, chain: tuple[Path, ...] = ()
) -> dict[str, SourceValue]:
    """Return the keys of a file, which replace those of its ``_BASE_``.

    Args:
        path: the file.
        sections: names such as "DATA" and "MVIT.REV", below which there are keys.
        findings: problems and warnings are added to it.
        chain: the files that included this one, to detect a cycle.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        findings.problem(Location(str(path)), f"cannot be read: {error.strerror}")
        return {}
    keys = _keys_of(content, str(path), sections, findings)
    base_keys: dict[str, SourceValue] = {}
    if BASE in keys:
        base = keys.pop(BASE)
        for name in base.value if isinstance(base.value, list) else [base.value]:
            base_path = _base_path(name, path, base.location, (*chain, path), findings)
            if base_path is not None:
                base_keys |= read_file(base_path, sections, findings, (*chain, path))
    return base_keys | keys


def read_text(
    text: str, source: str, sections: set[str], findings: Findings
) -> dict[str, SourceValue]:
    """Return the keys of a text, such as the config inside a checkpoint.

    Args:
        text: YAML; it may not name a ``_BASE_``.
        source: its name in messages.
        sections, findings: as for ``read_file``.
    """
    keys = _keys_of(text.encode(), source, sections, findings)
    if BASE in keys:
        findings.problem(keys.pop(BASE).location, f"{BASE}: only a file may name others")
    return keys


def read_overrides(words: Sequence[str], findings: Findings) -> dict[str, SourceValue]:
    """Return the keys of ``KEY VALUE`` and ``KEY=VALUE`` words; the last value of a key counts."""
    keys: dict[str, SourceValue] = {}
    rest = [str(word) for word in words]
    while rest:
        word = rest.pop(0)
        assignment = _ASSIGNMENT.fullmatch(word)
        if assignment:
            name, text = assignment.groups()
        elif rest:
            name, text = word, rest.pop(0)
        else:
            findings.problem(COMMAND_LINE, f"{word}: has no value. Write KEY VALUE or KEY=VALUE")
            break
        keys[name] = SourceValue(text, text, COMMAND_LINE)
    return keys


def _keys_of(
    content: bytes, source: str, sections: set[str], findings: Findings
) -> dict[str, SourceValue]:
    root = _compose(content, source, findings)
    return {} if root is None else _flatten(root, source, sections, findings)


def _compose(content: bytes, source: str, findings: Findings) -> yaml.MappingNode | None:
    """Return the node tree of a text; None if it is empty or has a problem."""
    file = Location(source)
    try:
        if len(content) > MAX_BYTES:
            findings.problem(file, f"longer than {MAX_BYTES} bytes: not a config")
            return None
        root = yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)
        num_nodes = 0 if root is None else _count_nodes(root, {})
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        findings.problem(
            Location(source, line),
            f"not YAML: {error.problem}. Check the indentation, brackets and quotes "
            "of this line and of the one before",
        )
        return None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        findings.problem(file, f"cannot be read as YAML: {type(error).__name__}: {error}")
        return None
    if root is None:
        return None
    if num_nodes > MAX_NODES:
        findings.problem(file, f"more than {MAX_NODES} values with its aliases expanded")
        return None
    if not isinstance(root, yaml.MappingNode):
        findings.problem(
            file, "not a config: it must contain sections such as DATA, and their keys"
        )
        return None
    return root


def _count_nodes(node: yaml.Node, counts: dict[int, int]) -> int:
    """Count the nodes below and including ``node``; one that contains itself counts as too many."""
    if id(node) not in counts:
        counts[id(node)] = MAX_NODES + 1
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        counts[id(node)] = 1 + sum(_count_nodes(child, counts) for child in children)
    return counts[id(node)]


def _flatten(
    root: yaml.MappingNode, source: str, sections: set[str], findings: Findings, prefix: str = ""
) -> dict[str, SourceValue]:
    """Return the keys with the names of their sections, "DATA.NUM_FRAMES"."""
    keys: dict[str, SourceValue] = {}
    for key_node, node in _without_duplicates(root, source, prefix, findings):
        location = Location(source, key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            findings.problem(location, f"{prefix or 'a key'}: expected the name of a key")
            continue
        name = f"{prefix}{key_node.value}"
        if name in sections and isinstance(node, yaml.MappingNode):
            keys.update(_flatten(node, source, sections, findings, f"{name}."))
            continue
        try:
            value = _Values().construct_document(node)
            repr(value)  # ValueError for numbers of thousands of digits, which no message can show
        # Other errors are those of PyYAML for tags such as "!!int ''" and "!!bool x".
        except (
            *(yaml.MarkedYAMLError, ValueError, RecursionError),
            *(LookupError, AttributeError, TypeError),
        ) as error:
            reason = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
            findings.problem(location, f"{name}: not a plain value: {reason}")
            continue
        if name not in sections or value is not None:
            text = node.value if isinstance(node, yaml.ScalarNode) else None
            keys[name] = SourceValue(value, text, location)
    return keys


def _without_duplicates(
    node: yaml.MappingNode, source: str, prefix: str, findings: Findings
) -> list[tuple[yaml.Node, yaml.Node]]:
    """Return the pairs of a mapping; of a duplicate key the last, as PyYAML.

    Another value is a warning; files of PySlowFast repeat a key with the same value.
    """
    earlier: dict[str, tuple[int, yaml.Node]] = {}
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        name = str(key_node.value)
        if name in earlier and name != "<<" and not _are_equal(earlier[name][1], value):
            findings.warning(
                Location(source, line),
                f"{prefix}{name} is set twice, on lines {earlier[name][0]} and {line}. "
                "The last one counts",
            )
        earlier[name] = line, value
    try:
        _Values().flatten_mapping(node)  # expands "<<: *name"
    except yaml.MarkedYAMLError as error:
        findings.problem(Location(source, node.start_mark.line + 1), f"not YAML: {error.problem}")
    return list({str(pair[0].value): pair for pair in node.value}.values())


def _are_equal(node: yaml.Node, other: yaml.Node) -> bool:
    """Return whether both nodes are the same scalar."""
    scalars = isinstance(node, yaml.ScalarNode) and isinstance(other, yaml.ScalarNode)
    return scalars and (node.tag, node.value) == (other.tag, other.value)


class _Values(SafeConstructor):
    """PyYAML's constructor of plain values, without its reader."""


def _base_path(
    name: Any, path: Path, location: Location, chain: tuple[Path, ...], findings: Findings
) -> Path | None:
    """Return the file that ``_BASE_`` names, or None if there is a problem."""
    base = path.parent / str(name)
    if not isinstance(name, str) or not name.endswith(SUFFIXES) or "://" in name:
        problem = f"expected the name of a .yaml file, got {name!r}"
    elif Path(name).is_absolute() or name.startswith("~"):
        problem = f"{name!r} must be relative to the folder of the file that names it"
    elif not base.is_file():
        problem = f"there is no file {base}"
    elif base.resolve() in [file.resolve() for file in chain]:
        problem = f"{name!r} leads back to itself"
    elif len(chain) > MAX_BASE_DEPTH:
        problem = f"more than {MAX_BASE_DEPTH} files deep"
    else:
        return base
    findings.problem(location, f"{BASE}: {problem}")
    return None
