"""A YAML file, and the files it names as ``_BASE_``, as keys with the place of each.

The file may come from a stranger: it is parsed without running code, opens no other files but
``.yaml`` files named relative to itself, and cannot grow (see the limits below).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

BASE = "_BASE_"
MAX_BYTES = 1 << 20
MAX_NODES = 100_000  # after aliases are written out: a short file can hold a billion
MAX_BASE_DEPTH = 8
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Place:
    """The source of a value: a file and a line, or the command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source} line {self.line}"

    def seen_from(self, other: Place) -> str:
        """This place, without naming the file again if ``other`` is in the same one."""
        same_file = self.source == other.source and self.line is not None
        return f"line {self.line}" if same_file else str(self)


@dataclass(frozen=True)
class Given:
    """A value as the user gave it.

    Attributes:
        value: None, bool, int, float, str, list or dict.
        text: how it is spelled, where it is a single word.
        place: where.
    """

    value: Any
    text: str | None
    place: Place


@dataclass
class Findings:
    """The problems and warnings of a config, collected until all of it is read."""

    problems: list[tuple[Place, str]] = field(default_factory=list)
    warnings: list[tuple[Place, str]] = field(default_factory=list)

    def problem(self, place: Place, message: str) -> None:
        self.problems.append((place, message))

    def warning(self, place: Place, message: str) -> None:
        self.warnings.append((place, message))


def read_file(
    path: Path, sections: set[str], findings: Findings, chain: tuple[Path, ...] = ()
) -> dict[str, Given]:
    """The keys of a file, those of its ``_BASE_`` first and replaced by its own.

    Args:
        path: the file.
        sections: names such as "DATA" and "MVIT.REV", below which there are keys.
        findings: problems and warnings are added to it.
        chain: the files that led here, to notice a circle.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        findings.problem(Place(str(path)), f"cannot be read: {error.strerror}")
        return {}
    own = _keys_of(content, str(path), sections, findings)
    keys: dict[str, Given] = {}
    if BASE in own:
        base = own.pop(BASE)
        for name in base.value if isinstance(base.value, list) else [base.value]:
            base_path = _base_path(name, path, base.place, (*chain, path), findings)
            if base_path is not None:
                keys.update(read_file(base_path, sections, findings, (*chain, path)))
    return {**keys, **own}


def read_text(text: str, source: str, sections: set[str], findings: Findings) -> dict[str, Given]:
    """The keys of a text that is no file, such as the config inside a checkpoint.

    Args:
        text: YAML; it may not name a ``_BASE_``.
        source: what to call it in messages.
        sections, findings: as for ``read_file``.
    """
    keys = _keys_of(text.encode(), source, sections, findings)
    if BASE in keys:
        findings.problem(keys.pop(BASE).place, f"{BASE}: only a file may name others")
    return keys


def _keys_of(
    content: bytes, source: str, sections: set[str], findings: Findings
) -> dict[str, Given]:
    root = _compose(content, source, findings)
    return {} if root is None else _flatten(root, source, sections, findings)


def _compose(content: bytes, source: str, findings: Findings) -> yaml.MappingNode | None:
    """The node tree of a text, or None after a problem was found (or it is empty)."""
    where = Place(source)
    try:
        if len(content) > MAX_BYTES:
            findings.problem(where, f"longer than {MAX_BYTES} bytes: not a config")
            return None
        root = yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        findings.problem(
            Place(source, line),
            f"not YAML: {error.problem}. Check the indentation, brackets and quotes "
            "of this line and of the one before",
        )
        return None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        findings.problem(where, f"cannot be read as YAML: {type(error).__name__}: {error}")
        return None
    if root is None:
        return None
    if _count_nodes(root, {}) > MAX_NODES:
        findings.problem(where, f"more than {MAX_NODES} values once its aliases are written out")
        return None
    if not isinstance(root, yaml.MappingNode):
        findings.problem(where, "not a config: it must hold sections such as DATA, and their keys")
        return None
    return root


def _count_nodes(node: yaml.Node, counts: dict[int, int]) -> int:
    """Nodes below and including ``node``; one that holds itself counts as too many."""
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
) -> dict[str, Given]:
    """Keys with their sections' names before them, "DATA.NUM_FRAMES"."""
    keys: dict[str, Given] = {}
    for key_node, node in _without_duplicates(root, source, prefix, findings):
        name = f"{prefix}{key_node.value}"
        place = Place(source, key_node.start_mark.line + 1)
        if name in sections and isinstance(node, yaml.MappingNode):
            keys.update(_flatten(node, source, sections, findings, f"{name}."))
            continue
        try:
            value = _Values().construct_document(node)
        except yaml.MarkedYAMLError as error:
            findings.problem(place, f"{name}: not a plain value: {error.problem}")
            continue
        except (ValueError, RecursionError) as error:
            findings.problem(place, f"{name}: not a plain value: {error}")
            continue
        if name in sections and value is None:
            continue
        text = node.value if isinstance(node, yaml.ScalarNode) else None
        keys[name] = Given(value, text, place)
    return keys


def _without_duplicates(
    node: yaml.MappingNode, source: str, prefix: str, findings: Findings
) -> list[tuple[yaml.Node, yaml.Node]]:
    """The pairs of a mapping; of a key given twice the last, with a warning, as PyYAML has it."""
    first_lines: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        name = str(key_node.value)
        if name in first_lines and name != "<<":
            findings.warning(
                Place(source, line),
                f"{prefix}{name} is given twice, on lines {first_lines[name]} and {line}. "
                "The last one counts",
            )
        first_lines[name] = line
    try:
        _Values().flatten_mapping(node)  # writes out what "<<: *name" stands for
    except yaml.MarkedYAMLError as error:
        findings.problem(Place(source, node.start_mark.line + 1), f"not YAML: {error.problem}")
    return list({str(pair[0].value): pair for pair in node.value}.values())


class _Values(SafeConstructor):
    """PyYAML's builder of plain values, without the reader it usually comes with."""


def _base_path(
    name: Any, path: Path, place: Place, chain: tuple[Path, ...], findings: Findings
) -> Path | None:
    """The file that ``_BASE_`` names, or None after a problem was found."""
    if not isinstance(name, str) or not name.endswith(SUFFIXES) or "://" in name:
        findings.problem(place, f"{BASE}: expected the name of a .yaml file, got {name!r}")
        return None
    if Path(name).is_absolute() or name.startswith("~"):
        findings.problem(
            place, f"{BASE}: {name!r} must be relative to the folder of the file that names it"
        )
        return None
    base = path.parent / name
    if not base.is_file():
        findings.problem(place, f"{BASE}: there is no file {base}")
        return None
    if base.resolve() in [file.resolve() for file in chain]:
        findings.problem(place, f"{BASE}: {name!r} leads back to itself")
        return None
    if len(chain) > MAX_BASE_DEPTH:
        findings.problem(place, f"{BASE}: more than {MAX_BASE_DEPTH} files deep")
        return None
    return base
