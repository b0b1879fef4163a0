"""Lists in PySlowFast's form: a path and a label on each line."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from slowfast_mvit.data.listing.strings import Strings
from slowfast_mvit.data.lists import (
    ListSource,
    VideoList,
    columns,
    duplicate_problems,
    find_split,
    label_problem,
    path_problem,
    raise_problems,
)
from slowfast_mvit.data.readers.shards import leads_to_file
from slowfast_mvit.errors import ListError

_log = logging.getLogger(__name__)

_PROBED_ENTRIES = 5  # how many of the first entries decide where relative paths start


def read_csv(source: ListSource) -> VideoList:
    """Read ``<split>.csv`` of a folder: a path and a label on each line.

    Fields are separated by ``source.separator`` or by a tab, and may be quoted. As in PySlowFast
    a line holds ``path label``, ``path number_of_frames label`` (the middle one is not read) or a
    path alone (its label is 0). A mark at the start of the file (BOM), Windows line ends, blank
    lines and a header such as ``path label`` do no harm.

    Raises:
        ListError: all problems of the list at once.
    """
    return read_csv_file(find_split(source, suffix=".csv"), source)


def read_csv_file(file: Path, source: ListSource) -> VideoList:
    """``read_csv`` of this file."""
    problems: list[tuple[int, str]] = []
    paths, labels, lines = columns(_good_rows(file, source, problems))
    problems += duplicate_problems(paths, lines, file, must_be_unique=source.must_be_unique)
    raise_problems(file, problems)
    if not paths:
        raise ListError(f"{file}: the list is empty. Write one video a line: path, a space, label")
    folder = _folder_of_paths(file, paths, source.path_prefix)
    return VideoList(paths, labels, folder=folder, source=file)


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers; one at a time.

    Raises:
        ListError: when the text is not in UTF-8.
    """
    try:
        with open(file, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise ListError(f"{file}: not a text in UTF-8 ({error.reason}). Save it as UTF-8") from None


def _good_rows(
    file: Path, source: ListSource, problems: list[tuple[int, str]]
) -> Iterator[tuple[int, str, int]]:
    """Line, path and label of each line that can be used; what is wrong with the others is added
    to ``problems``."""
    for line, text in numbered_lines(file):
        fields, problem = _fields(text, source.separator)
        if line == 1 and _is_header(fields):
            continue
        path, label = fields[0].strip(), fields[-1].strip() if len(fields) > 1 else "0"
        problem = problem or _row_problem(fields, path, label, source)
        if problem:
            problems.append((line, problem))
        else:
            yield line, path, int(label)


def _fields(line: str, separator: str) -> tuple[list[str], str | None]:
    """The fields of a line, at least one, and what is wrong with its quotes."""
    separator = "\t" if "\t" in line else separator
    if '"' not in line or len(separator) != 1:  # PySlowFast allows any text as separator
        fields = line.strip(" ").split(separator)
    else:
        try:
            row = [line.strip(" ")]
            fields = next(csv.reader(row, delimiter=separator, skipinitialspace=True, strict=True))
        except csv.Error as error:
            return [line], f"the quotes do not fit: {error}"
    return ([field for field in fields if field] if separator == " " else fields), None


def _is_header(fields: list[str]) -> bool:
    return len(fields) > 1 and fields[0].lower() in ("path", "filename", "file", "video")


def _row_problem(fields: list[str], path: str, label: str, source: ListSource) -> str | None:
    if len(fields) > 3 or (len(fields) == 3 and not _is_whole_number(fields[1].strip())):
        return (
            f"has {len(fields)} fields, expected a path and a label. Put quotes round a path that "
            f"holds {source.separator!r}, or separate path and label with a tab"
        )
    if len(fields) == 1 and re.search(r"[,;|][+-]?[0-9]+$", path):
        return (
            f"has one field, {path!r}, since DATA.PATH_LABEL_SEPARATOR is {source.separator!r}. "
            f"Set it to {re.split('[+-]?[0-9]+$', path)[0][-1]!r}"
        )
    if not _is_whole_number(label):
        return f"label {label!r} is not a whole number"
    return path_problem(path) or label_problem(int(label), source.num_classes)


def _is_whole_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,9}", text) is not None


def _folder_of_paths(file: Path, paths: Strings, path_prefix: str) -> Path:
    """What relative paths start from: the prefix if given, else the first place that has them."""
    if path_prefix:
        return Path(path_prefix)
    probed = paths[:_PROBED_ENTRIES]
    if not any(leads_to_file(file.parent / path) for path in probed) and any(
        leads_to_file(Path(path)) for path in probed
    ):
        _log.info("%s: paths start from the working folder, since %s lacks them", file, file.parent)
        return Path()
    return file.parent
