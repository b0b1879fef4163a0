"""The columns of a table of videos by their content: which names files, which classes and splits.

The files are the column whose cells name files that exist. The classes are the column with a usual
name, or else the only one that may be classes. A first line with the words ``file`` and ``label``
(and ``split``) decides. Everything else is an error that shows the columns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from slowfast_mvit.annotations.class_names import folded
from slowfast_mvit.annotations.files import has_suffix
from slowfast_mvit.annotations.records import first_few, split_of_folder
from slowfast_mvit.errors import ListError

_FILE_WORDS = {
    *("file", "files", "filename", "file name", "path", "filepath", "file path", "video", "videos"),
    *("video path", "video name", "video id", "videoid", "video file", "clip", "name", "id"),
}
_LABEL_WORDS = {
    *("label", "labels", "label name", "label id", "class", "classes", "class name", "classname"),
    *("class id", "class index", "category", "action", "activity", "target", "choice", "tag"),
    *("klasse", "kategorie", "clase", "classe", "categorie"),
}
_SPLIT_WORDS = {"split", "subset", "set", "partition", "usage", "phase"}
_INDEX_WORDS = {"", "unnamed 0", "index"}  # of pandas
WHOLE_NUMBER = re.compile(
    r"[0-9]{1,18}(\.0+)?"
)  # pandas writes 3.0 where a cell of the column is empty
_MEASURE = re.compile(r"[+-]?[0-9]*[.,]?[0-9]+(e[+-]?[0-9]+)?|[0-9]{4}-[0-9]{2}-[0-9]{2}.*")
_SAMPLED_ROWS = 1000


class FileNames(Protocol):
    """The files that the cells of a table may name."""

    def candidates(self, name: str) -> list[str]:
        """The files that a cell may mean."""

    def example(self) -> str:
        """The path of one of them."""


class Columns(NamedTuple):
    """The places of the columns, from 0.

    Attributes:
        file: the column of the files.
        label: the column of the classes.
        split: the column of the splits, if there is one.
        order: a column that numbers the classes, if there is one.
        header: the names of all columns; None where the first row has none.
    """

    file: int
    label: int
    split: int | None
    order: int | None
    header: Sequence[str] | None

    def __str__(self) -> str:
        roles = {self.file: "the files", self.label: "the classes", self.split: "the splits"}
        roles.pop(None, None)
        shown = [
            f"column {place + 1}{f' ({self.header[place]!r})' if self.header else ''} names {role}"
            for place, role in roles.items()
            if place is not None
        ]
        return f"{', '.join(shown)}; {'line 1 is the header' if self.header else 'no header'}"


class TableColumns:
    """A table whose columns are to be identified.

    Args:
        rows: all of equal length, without space around the cells.
        files: the files that it may name.
        table: the file, for messages.
    """

    def __init__(self, rows: Sequence[Sequence[str]], files: FileNames, table: Path) -> None:
        self._first, self._files, self._table = rows[0], files, table
        self._words = [folded(cell) for cell in self._first]
        self._rest = rows[1:] or rows
        self._sample = self._rest[:: max(len(self._rest) // _SAMPLED_ROWS, 1)]
        self._places = range(len(self._first))
        self._values = [[row[i] for row in self._sample if row[i]] for i in self._places]

    def identify(self) -> Columns:
        """Identify the columns.

        Raises:
            ListError: none, or more than one, may be that of the files, or of the classes.
        """
        if self._words.count("file") == self._words.count("label") == 1:
            file, has_header = self._words.index("file"), True
        else:
            file = self._file_column()
            has_header = self._has_header(file)
        if has_header and not self._first[-1]:
            raise self._error("the first line names fewer columns than there are")
        if not has_header:
            self._words = ["?"] * len(self._first)
        others = [i for i in self._places if i != file and self._values[i] and not self._counts(i)]
        splits = [i for i in others if self._words[i] in _SPLIT_WORDS] or [
            i
            for i in others
            if self._words[i] not in _LABEL_WORDS and all(map(split_of_folder, self._values[i]))
        ]
        label, order = self._label_columns([i for i in others if i not in splits])
        split = splits[0] if splits else None
        return Columns(file, label, split, order, self._first if has_header else None)

    # Files

    def _file_column(self) -> int:
        likely = [i for i in self._places if self._num_files(i) and self._is_mostly_distinct(i)]
        if not likely:
            example = self._files.example()
            raise self._error(f"no column names files that exist, such as {example!r}")
        for preferred in (
            [i for i in likely if not self._counts(i)],
            [i for i in likely if self._words[i] in _FILE_WORDS],
            [i for i in likely if any(map(has_suffix, self._values[i]))],
            [i for i in likely if len(set(self._values[i])) == len(self._values[i])],
        ):
            likely = [i for i in likely if i in preferred] or likely
        for other in likely[1:]:
            for row in self._sample:
                if self._candidates(row[likely[0]]) != self._candidates(row[other]):
                    raise self._error("more than one column names files that exist")
        return likely[0]

    def _candidates(self, cell: str) -> list[str]:
        return self._files.candidates(cell) if cell else []

    def _num_files(self, place: int) -> int:
        return sum(bool(self._candidates(c)) for c in [self._first[place], *self._values[place]])

    def _is_mostly_distinct(self, place: int) -> bool:
        return 2 * len(set(self._values[place])) > len(self._values[place])

    def _counts(self, place: int) -> bool:
        """Return whether a column numbers the rows, as pandas writes it."""
        if self._words[place] not in _INDEX_WORDS | {"?"}:
            return False
        cells = [row[place] for row in self._rest]
        return any(cells == list(map(str, range(i, i + len(cells)))) for i in (0, 1))

    def _has_header(self, file: int) -> bool:
        """Return whether the first row is a header: it names no file, and differs from others."""
        if self._words[file] in _FILE_WORDS and _LABEL_WORDS & set(self._words):
            return True
        if self._candidates(self._first[file]) or has_suffix(self._first[file]):
            return False
        others = [i for i in self._places if i != file and self._values[i]]
        if any(WHOLE_NUMBER.fullmatch(self._first[i]) and self._is_number(i) for i in others):
            return False
        return any(
            self._first[i] not in self._values[i] and not split_of_folder(self._first[i])
            for i in others
        )

    # Classes

    def _label_columns(self, others: list[int]) -> tuple[int, int | None]:
        """The column of the class names, and one that numbers them."""
        named = [i for i in others if self._words[i] in _LABEL_WORDS]
        exact = [i for i in named if self._words[i] == "label"]
        if len(exact) == 1:
            named = [i for i in named if i in exact or self._are_name_and_number(i, exact[0])]
        likely = named or [i for i in others if self._may_be_classes(i)] or others
        if not likely:
            raise self._error("no column names classes")
        if len(likely) == 1:
            return likely[0], None
        if len(likely) > 2 or not self._are_name_and_number(*likely):
            raise self._error("more than one column may be that of the classes")
        number, name = sorted(likely, key=self._is_number, reverse=True)
        return name, number

    def _may_be_classes(self, place: int) -> bool:
        values = self._values[place]
        is_measured = not self._is_number(place) and all(map(_MEASURE.fullmatch, values))
        are_files = 2 * self._num_files(place) > len(values)
        return 1 < len(set(values)) < len(values) and not is_measured and not are_files

    def _is_number(self, place: int) -> bool:
        return all(map(WHOLE_NUMBER.fullmatch, self._values[place]))

    def _are_name_and_number(self, one: int, other: int) -> bool:
        """Return whether one column numbers the names in the other."""
        pairs = {(row[one], row[other]) for row in self._rest if row[one] or row[other]}
        divide_alike = len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        return divide_alike and self._is_number(one) != self._is_number(other)

    def _error(self, problem: str) -> ListError:
        lines = [
            f"  column {i + 1}: {first_few([self._first[i], *self._values[i]], 4)}"
            for i in self._places
        ]
        advice = (
            "Write a first line with the word file over the column of the files, label over that "
            "of the classes and, if there is one, split over that of the splits"
        )
        return ListError("\n".join([f"{problem}. Its columns are", *lines, advice]), self._table)
