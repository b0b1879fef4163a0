"""Videos and their classes from a table in any common form of CSV."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from slowfast_mvit.annotations import records
from slowfast_mvit.annotations.class_names import clean, composed, spelling_problems
from slowfast_mvit.annotations.columns import KeyIndex
from slowfast_mvit.annotations.files import stem
from slowfast_mvit.annotations.records import Problem, Row
from slowfast_mvit.annotations.table_columns import WHOLE_NUMBER, Columns, TableColumns
from slowfast_mvit.annotations.texts import csv_rows, without_empty_ends
from slowfast_mvit.errors import ListError

_SEPARATORS = "\t;|, "
_EMPTY = {"nan", "<na>", "#n/a"}  # of pandas and Excel


class FilesByName:
    """Files by the names that a table may use: path, name, or either without suffix.

    Paths may be absolute, of another machine, of Windows, or an address as Label Studio writes it:
    of the files that end like a path, or as which it ends, those with most folders in common count.

    Args:
        paths: the files below a folder.
        root: the folder; a table may also give whole paths.
    """

    def __init__(self, paths: Sequence[str], root: Path) -> None:
        self._root = os.path.abspath(root)
        self._example = paths[0]
        self._files = KeyIndex(paths, lambda path: composed(stem(path)))

    def find(self, name: str) -> list[str]:
        """The only file of that name; none where several could be meant."""
        files = self.candidates(name)
        return files if len(files) == 1 else []

    def why_missing(self, name: str) -> str:
        """The files between which a name does not decide."""
        files = self.candidates(name)
        return f"may be any of {', '.join(sorted(files)[:3])}" if files else ""

    def candidates(self, name: str) -> list[str]:
        """The files that a name may mean."""
        return next(filter(None, map(self._ending_like, _spellings(name))), [])

    def example(self) -> str:
        """The path of one of the files."""
        return self._example

    def _ending_like(self, name: str) -> list[str]:
        path = os.path.relpath(name, self._root) if os.path.isabs(name) else os.path.normpath(name)
        files = self._files.find(composed(stem(path)))
        if path in files:
            return [path]
        in_common = {file: _folders_in_common(composed(path), composed(file)) for file in files}
        most = max(in_common.values(), default=-1)
        return [file for file, number in in_common.items() if number == most >= 0]


def _spellings(name: str) -> Iterator[str]:
    """The path that a table gives, also one of Windows, or in an address."""
    yield name
    if "\\" in name:
        yield name.replace("\\", "/")
    if "%" in name or "?d=" in name:
        yield unquote(name.rpartition("?d=")[2])
    uploaded = re.fullmatch(r"[0-9a-f]{8}-(.+)", os.path.basename(name))
    if uploaded:  # Label Studio
        yield uploaded[1]


def _folders_in_common(name: str, file: str) -> int:
    """The folders that both paths end with, or -1 where neither ends like the other."""
    *folders, last = name.split("/")
    *others, base = file.split("/")
    if last not in (base, stem(base)):
        return -1
    number = min(len(folders), len(others))
    return number if folders[len(folders) - number :] == others[len(others) - number :] else -1


@dataclass(frozen=True)
class Table:
    """The content of a table.

    Attributes:
        rows: each file once; without a class name where the table gives none.
        repeated: rows that repeat a file.
        class_names: in the order of the labels.
        notes: sentences on how it was read.
    """

    rows: list[Row]
    repeated: list[Row]
    class_names: tuple[str, ...]
    notes: list[str] = field(default_factory=list)


def read_table(table: Path, files: FilesByName) -> Table:
    """Read files, classes and splits from a table, with a header or without.

    Columns are separated by commas, semicolons, tabs, bars or spaces; ``TableColumns`` identifies
    them. Labels count the classes in the order of their names, of their values where all of them
    are whole numbers, or of a column that numbers them.

    Raises:
        ListError: the columns cannot be identified; or all lines that cannot be used, at once.
    """
    problems: list[Problem] = []
    lines, cells = _cells(table, problems)
    columns = TableColumns(cells, files, table).identify()
    rows: dict[str, Row] = {}
    repeated: list[Row] = []
    numbers: dict[str, int] = {}
    for line, texts in zip(lines, cells, strict=True):
        if texts == columns.header:  # also where two tables were joined
            continue
        if fault := _fault(texts, columns):
            problems.append(Problem(table, line, *fault))
            continue
        row = _row(line, texts, columns)
        if columns.order is not None and row.class_name:
            numbers[row.class_name] = int(texts[columns.order].partition(".")[0] or 0)
        first = rows.setdefault(row.video, row)
        if first is row:
            continue
        repeated.append(row)
        if first[:3] != row[:3]:
            message = f"{row.video!r} is listed before as {first.class_name!r}"
            problems.append(Problem(table, line, "duplicate", message))
    records.raise_problems(problems)
    classes = {row.class_name for row in rows.values() if row.class_name}
    if all(re.fullmatch("[0-9]+", name) for name in classes):
        numbers = {name: int(name) for name in classes}
    in_order = sorted(classes, key=lambda name: (numbers.get(name, 0), name))
    records.raise_problems(spelling_problems(in_order, table, "labels"))
    return Table(list(rows.values()), repeated, tuple(in_order), [f"{table.name}: {columns}"])


def _row(line: int, cells: Sequence[str], columns: Columns) -> Row:
    split = None if columns.split is None else records.split_of_folder(cells[columns.split])
    label = cells[columns.label]
    label = re.sub(r"^([0-9]+)\.0+$", r"\1", label) if label.lower() not in _EMPTY else ""
    return Row(cells[columns.file], split, clean(label) or None, line)


def _fault(cells: Sequence[str], columns: Columns) -> tuple[str, str] | None:
    file, label = cells[columns.file], cells[columns.label]
    split = "" if columns.split is None else cells[columns.split]
    if not file:
        return "path", "names no file"
    if "\n" in file + label:
        return "text", "a cell contains a line end. Are its quotes closed?"
    number = "" if columns.order is None else cells[columns.order]
    if number and not WHOLE_NUMBER.fullmatch(number):
        return "label", f"the class number {number!r} is not a whole number"
    if split and records.split_of_folder(split) is None:
        return "split", f"split {split!r} is none of train, val, test"
    return None


# Cells


def _cells(table: Path, problems: list[Problem]) -> tuple[list[int], list[list[str]]]:
    """The lines and the cells of the rows, as many for each, and problems of the others."""
    rows = [(n, without_empty_ends(row)) for n, row in csv_rows(table, separators=_SEPARATORS)]
    if not rows:
        raise ListError("the table is empty. Write a file and a label on each line", table)
    (width, _), *_ = Counter(len(cells) for _, cells in rows).most_common(1)
    width = max(width, len(rows[0][1]))
    lines, padded = [], []
    for line, cells in rows:
        if "\0" in "".join(cells):
            problems.append(Problem(table, line, "text", "contains a zero byte"))
        elif len(cells) > width:
            message = f"has {len(cells)} columns, the others {width}. Put quotes round its text"
            problems.append(Problem(table, line, "columns", message))
        else:
            lines.append(line)
            padded.append(cells + [""] * (width - len(cells)))
    if not lines:
        records.raise_problems(problems)
    if not padded[0][-1] and [row[0] for row in padded[1:]] == list(
        map(str, range(1, len(padded)))
    ):
        padded[0] = ["", *padded[0][:-1]]  # R names the columns, and not that of the row numbers
    return lines, padded
