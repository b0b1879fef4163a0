"""Videos and their classes from a table ``file,label`` or ``file,label,split``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from slowfast_mvit.annotations import records
from slowfast_mvit.annotations.class_names import clean, composed, spelling_problems
from slowfast_mvit.annotations.columns import KeyIndex
from slowfast_mvit.annotations.files import stem
from slowfast_mvit.annotations.records import Problem, Row
from slowfast_mvit.annotations.texts import csv_rows

# Names of the columns; a line with one of them is a header.
_FILE_WORDS = ("file", "filename", "path", "video", "name")
_LABEL_WORDS = ("label", "class", "category", "class_name", "classname", "class_id", "label_id")


def read_table(table: Path) -> tuple[list[Row], list[Row], tuple[str, ...]]:
    """The videos in a table ``file,label`` or ``file,label,split``, with a header or without.

    Columns are separated by commas, semicolons or tabs. Labels count the classes in the order of
    their names, or of their values where all of them are whole numbers.

    Returns:
        Its rows, each file once; rows that repeat a file; and the class names.

    Raises:
        ListError: all lines that cannot be used, at once.
    """
    rows: dict[str, Row] = {}
    repeated: list[Row] = []
    problems: list[Problem] = []
    for row in records.without_problems(_rows(table), problems):
        first = rows.setdefault(row.video, row)
        if first is row:
            continue
        repeated.append(row)
        if first[:3] != row[:3]:
            message = f"{row.video!r} is listed before as {first.class_name!r}"
            problems.append(Problem(table, row.line, "duplicate", message))
    records.raise_problems(problems)
    classes = {row.class_name for row in rows.values() if row.class_name}
    numbers = all(re.fullmatch("[0-9]+", name) for name in classes)
    in_order = sorted(classes, key=int) if numbers else sorted(classes)
    records.raise_problems(spelling_problems(in_order, table, "labels"))
    return list(rows.values()), repeated, tuple(in_order)


def _rows(table: Path) -> Iterator[Row | Problem]:
    for number, (line, cells) in enumerate(csv_rows(table, separators=",;\t")):
        if number == 0 and _is_header(cells):
            continue
        fault = _fault(cells)
        if fault:
            yield Problem(table, line, *fault)
        else:
            split = records.split_of_folder(cells[2].strip()) if len(cells) == 3 else None
            yield Row(cells[0], split, clean(cells[1]) or None, line)


def _is_header(cells: Sequence[str]) -> bool:
    first, second = cells[0].strip().lower(), "".join(cells[1:2]).strip().lower()
    return first in _FILE_WORDS or (second in _LABEL_WORDS and not os.path.splitext(first)[1])


def _fault(cells: Sequence[str]) -> tuple[str, str] | None:
    if len(cells) not in (2, 3):
        return "columns", f"has {len(cells)} columns, expected file,label or file,label,split"
    if not cells[0].strip():
        return "path", "names no file"
    if "\0" in "".join(cells):
        return "text", "contains a zero byte"
    split = "".join(cells[2:]).strip()
    if split and records.split_of_folder(split) is None:
        return "split", f"split {cells[2]!r} is none of train, val, test"
    return None


class FilesByName:
    """Files by the names that a table may use: path, name, or either without suffix.

    Args:
        paths: the files below a folder.
        root: the folder; a table may also give whole paths.
    """

    def __init__(self, paths: Iterable[str], root: Path) -> None:
        self._root = os.path.abspath(root)
        self._files = KeyIndex(paths, lambda path: composed(stem(path)))

    def find(self, name: str) -> list[str]:
        """The only file of that name; none where several could be meant."""
        path, files = self._candidates(name)
        if path in files:
            return [path]
        return files if len(files) == 1 else []

    def why_missing(self, name: str) -> str:
        """The files between which a name does not decide."""
        _, files = self._candidates(name)
        return f"may be any of {', '.join(sorted(files)[:3])}" if files else ""

    def _candidates(self, name: str) -> tuple[str, list[str]]:
        is_whole = os.path.isabs(name)
        path = os.path.relpath(name, self._root) if is_whole else os.path.normpath(name)
        key = composed(path)
        files = self._files.find(composed(stem(path)))
        return path, [file for file in files if key in self._names(composed(file))]

    @staticmethod
    def _names(path: str) -> tuple[str, ...]:
        bare = os.path.join(os.path.dirname(path), stem(path))
        return path, bare, os.path.basename(path), stem(path)
