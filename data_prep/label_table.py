"""Videos and their classes from a table ``file,label`` or ``file,label,split``."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_prep.plan import DUPLICATE, NO_LABEL, LeftOut
from data_prep.plan_files import Found
from data_prep.plan_match import clean, composed, spelling_problems, split_of_folder
from data_prep.plan_split import Unsplit
from slowfast_mvit.data.listing.texts import open_text, raise_problems
from slowfast_mvit.errors import ListError, in_one_message

# What the columns are called; a line that calls one so is no video.
_FILE_WORDS = ("file", "filename", "path", "video", "name")
_LABEL_WORDS = ("label", "class", "category", "class_name", "classname", "class_id", "label_id")


def rows_of_table(table: Path) -> tuple[list[Unsplit], list[LeftOut], tuple[str, ...]]:
    """The videos in a table ``file,label`` or ``file,label,split``, with a header or without.

    Columns are separated by commas, semicolons or tabs. Labels count the classes in the order of
    their names, or of their values where all of them are whole numbers.

    Returns:
        Its rows; rows that repeat a file or have no label; and the class names.

    Raises:
        ListError: all lines that cannot be used, at once.
    """
    rows: dict[str, Unsplit] = {}
    left_out: list[LeftOut] = []
    problems: list[tuple[int, str]] = []
    for line, cells in _cells(table):
        if not rows and not problems and _is_header(cells):
            continue
        row = _table_row(cells)
        if isinstance(row, str):
            problems.append((line, row))
            continue
        first = rows.setdefault(row.video, row)
        if first is row:
            continue
        if first != row:
            problems.append((line, f"{row.video!r} is listed before as {first.class_name!r}"))
        left_out.append(
            LeftOut(
                row.split or "train", row.video, row.class_name or "", DUPLICATE, "", f"line {line}"
            )
        )
    raise_problems(table, problems)
    named = [row for row in rows.values() if row.class_name]
    left_out += [
        LeftOut(row.split or "train", row.video, "", NO_LABEL, "", "the table gives no label")
        for row in rows.values()
        if not row.class_name
    ]
    classes = {row.class_name for row in named if row.class_name}
    numbers = all(re.fullmatch("[0-9]+", name) for name in classes)
    in_order = sorted(classes, key=int) if numbers else sorted(classes)
    problems_of_names = list(spelling_problems(in_order, "labels"))
    if problems_of_names:
        raise ListError(in_one_message(str(table), problems_of_names))
    return named, left_out, tuple(in_order)


def _cells(table: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not blank, with their numbers, taken apart where the first one is."""
    with open_text(table, newline="") as lines:
        head = next((line for line in lines if line.strip()), "")
        separator = max(",;\t", key=head.count)
        lines.seek(0)
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise ListError(f"{table}: line {reader.line_num}: not CSV ({error})") from None


def _is_header(cells: Sequence[str]) -> bool:
    first, second = cells[0].strip().lower(), "".join(cells[1:2]).strip().lower()
    return first in _FILE_WORDS or (second in _LABEL_WORDS and not os.path.splitext(first)[1])


def _table_row(cells: Sequence[str]) -> Unsplit | str:
    """A row, or what is wrong with it."""
    if len(cells) not in (2, 3):
        return f"has {len(cells)} columns, expected file,label or file,label,split"
    video, name = cells[0], clean(cells[1])
    if not video.strip():
        return "names no file"
    if "\0" in "".join(cells):
        return "holds a zero byte"
    split = split_of_folder(cells[2].strip()) if len(cells) == 3 and cells[2].strip() else None
    if split is None and len(cells) == 3 and cells[2].strip():
        return f"split {cells[2]!r} is none of train, val, test"
    return Unsplit(video, split, name or None)


class FilesByName:
    """Files by what a table may call them: path, name, or either without suffix.

    Args:
        files: what lies below a folder.
        root: the folder; a table may also give whole paths.
    """

    def __init__(self, files: Iterable[Found], root: Path) -> None:
        self._root = os.path.abspath(root)
        self._by_name: dict[str, dict[str, Found]] = {}
        for file in files:
            name = os.path.basename(file.path)
            bare = os.path.join(os.path.dirname(file.path), file.stem)
            for key in (file.path, name, bare, file.stem):
                self._by_name.setdefault(composed(key), {})[file.path] = file

    def find(self, name: str) -> list[Found]:
        """The only file of that name; none where several could be meant."""
        path = self._below_root(name)
        files = self._by_name.get(composed(path), {})
        exact = files.get(path)
        if exact:
            return [exact]
        return list(files.values()) if len(files) == 1 else []

    def why_missing(self, name: str) -> str:
        """The files between which a name does not decide."""
        files = sorted(self._by_name.get(composed(self._below_root(name)), {}))
        return f"may be any of {', '.join(files[:3])}" if files else ""

    def _below_root(self, name: str) -> str:
        if os.path.isabs(name):
            return os.path.relpath(name, self._root)
        return os.path.normpath(name)
