"""Lists in PySlowFast's form: a path and a label on each line."""

from __future__ import annotations

import csv
import logging
import re
from array import array
from collections.abc import Iterator
from pathlib import Path

from slowfast_mvit.data.listing.strings import Strings
from slowfast_mvit.data.listing.texts import numbered_lines, raise_problems
from slowfast_mvit.data.lists import (
    ListSource,
    VideoList,
    columns,
    duplicate_problems,
    find_split,
    label_problem,
    path_problem,
)
from slowfast_mvit.data.video.shards import leads_to_file
from slowfast_mvit.errors import ListError

_log = logging.getLogger(__name__)

_PROBED_ENTRIES = 5  # how many of the first entries decide where relative paths start
_PATH_HEADERS = {"path", "paths", "filename", "file", "file_name", "video", "video_path"}
_LABEL_HEADERS = {"label", "labels", "class", "class_id", "class_index", "label_id", "target"}


def read_csv(source: ListSource) -> VideoList:
    """Read ``<split>.csv`` of a folder: a path and a label on each line.

    Fields are separated by ``source.separator`` or by a tab, and may be quoted. As in PySlowFast
    a line holds ``path label`` or ``path number_of_frames label`` (the middle one is not read); if
    every line is a path alone, all labels are 0. A mark at the start of the file (BOM), Windows
    line ends, blanks, blank lines and a header such as ``path label`` do no harm.

    Raises:
        ListError: all problems of the list at once.
    """
    return read_csv_file(find_split(source, suffix=".csv"), source)


def read_csv_file(file: Path, source: ListSource) -> VideoList:
    """``read_csv`` of this file."""
    problems: list[tuple[int, str]] = []
    unlabelled = array("q")
    paths, labels, lines = columns(_good_rows(file, source, problems, unlabelled))
    if len(unlabelled) < len(paths):
        problems += [(line, "has a path and no label, unlike other lines") for line in unlabelled]
    problems += duplicate_problems(paths, lines, file, must_be_unique=source.must_be_unique)
    raise_problems(file, problems)
    if not paths:
        raise ListError(f"{file}: the list is empty. Write one video a line: path, a space, label")
    if unlabelled:
        _log.warning("%s: holds paths and no labels, so that every video is of class 0", file)
    folder = _folder_of_paths(file, paths, source.path_prefix)
    return VideoList(paths, labels, folder=folder, source=file)


def _good_rows(
    file: Path, source: ListSource, problems: list[tuple[int, str]], unlabelled: array[int]
) -> Iterator[tuple[int, str, int]]:
    """Line, path and label of each line that can be used; what is wrong with the others is added
    to ``problems``, and which have no label to ``unlabelled``."""
    is_first = True
    for line, text in numbered_lines(file):
        fields, problem = _fields(text, source.separator)
        was_first, is_first = is_first, False
        if was_first and _is_header(fields):
            continue
        path, label = fields[0].strip(), fields[-1].strip() if len(fields) > 1 else "0"
        problem = problem or _row_problem(fields, path, label, source)
        if problem:
            problems.append((line, problem))
            continue
        if len(fields) == 1:
            unlabelled.append(line)
        yield line, path, int(label)


def _fields(line: str, separator: str) -> tuple[list[str], str | None]:
    """The fields of a line, at least one, and what is wrong with its quotes."""
    separator = "\t" if "\t" in line else separator
    if '"' not in line or len(separator) != 1:  # PySlowFast allows any text as separator
        fields = line.split(separator)
    else:
        try:
            row = csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True)
            fields = next(row)
        except csv.Error as error:
            return [line], f"the quotes do not fit: {error}"
    if separator.isspace():
        fields = [field for field in fields if field] or [""]
    return fields, None


def _is_header(fields: list[str]) -> bool:
    names = [field.strip().lower() for field in fields]
    if len(names) == 1 or _is_whole_number(names[-1]):
        return False
    return names[0] in _PATH_HEADERS or names[-1] in _LABEL_HEADERS


def _row_problem(fields: list[str], path: str, label: str, source: ListSource) -> str | None:
    if len(fields) > 3 or (len(fields) == 3 and not _is_whole_number(fields[1].strip())):
        return (
            f"has {len(fields)} fields, expected a path and a label. Put quotes round a path that "
            f"holds {source.separator!r}, or separate path and label with a tab"
        )
    other = re.search(r"([,;|\s])[+-]?[0-9]+$", path) if len(fields) == 1 else None
    if other is not None and other[1] != source.separator:
        return (
            f"has one field, {path!r}, since DATA.PATH_LABEL_SEPARATOR is {source.separator!r}. "
            f"Set it to {other[1]!r}"
        )
    if not _is_whole_number(label):
        return f"label {label!r} is not a whole number"
    return path_problem(path) or label_problem(int(label), source.num_classes)


def _is_whole_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,18}", text) is not None


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
