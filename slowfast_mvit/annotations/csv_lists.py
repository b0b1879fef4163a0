"""Lists in PySlowFast's form: a path and a label on each line."""

from __future__ import annotations

import csv
import io
import itertools
import logging
import os
import re
import stat
from array import array
from collections.abc import Iterator
from pathlib import Path

from slowfast_mvit.annotations import records
from slowfast_mvit.annotations.columns import Strings
from slowfast_mvit.annotations.files import (
    BAD_NAME,
    BROKEN_LINK,
    EMPTY,
    NOT_PLAIN,
    has_suffix,
)
from slowfast_mvit.annotations.records import Annotated, ListSource, Problem
from slowfast_mvit.annotations.texts import numbered_lines
from slowfast_mvit.storage import leads_to_file

_log = logging.getLogger(__name__)

_PROBED_ENTRIES = 5  # number of entries that decide where relative paths start
_PATH_HEADERS = {
    *("path", "paths", "filename", "file", "file_name", "video", "video_path", "label"),
    "original_vido_id",  # of lists of frames
}
_FROM_NAMES = "data_prep/from_folder.py --labels writes lists from files and names of classes"
_LABEL_HEADERS = {"label", "labels", "class", "class_id", "class_index", "label_id", "target"}


def read_csv(source: ListSource) -> Annotated:
    """Read ``<split>.csv`` of a folder: a path and a label on each line.

    Fields are separated by ``source.separator`` or by a tab, and may be quoted. As in PySlowFast
    a line is ``path label`` or ``path number_of_frames label`` (the middle one is not read); if
    every line is a path alone, all labels are 0. A byte order mark, Windows line ends, spaces,
    blank lines and a header such as ``path label`` are accepted.

    Raises:
        ListError: all problems of the list at once.
    """
    return read_csv_file(records.find_split(source, suffix=".csv"), source)


def read_csv_file(file: Path, source: ListSource) -> Annotated:
    """``read_csv`` of this file."""
    advice = "Write one video a line: path, a space, label"
    return records.collect(
        _rows(file, source),
        file,
        source,
        advice=advice,
        folder_of=lambda paths: _folder_of_paths(file, paths, source.path_prefix),
    )


def separator_of(file: Path) -> str:
    """The comma, semicolon or bar before the label of one of the first two lines, or a space."""
    head = itertools.islice(numbered_lines(file), 2)
    found = [re.search(r"[^\s]([,;|])\s*[0-9]+$", text) for _, text in head]
    return next((match[1] for match in found if match), " ")


def _rows(file: Path, source: ListSource) -> Iterator[tuple[int, str, int] | Problem]:
    """Line, path and label of each line, or its problem."""
    unlabelled, num_usable = array("q"), 0
    for number, (line, text) in enumerate(numbered_lines(file)):
        fields, problem = _fields(text, source.separator)
        if number == 0 and _is_header(fields):
            continue
        path, label = fields[0].strip(), fields[-1].strip() if len(fields) > 1 else "0"
        fault = ("columns", problem) if problem else _fault(fields, path, label, source)
        if fault:
            yield Problem(file, line, *fault)
            continue
        if len(fields) == 1:
            unlabelled.append(line)
        num_usable += 1
        yield line, path, int(label)
    if len(unlabelled) < num_usable:
        message = "has a path and no label, unlike other lines"
        yield from (Problem(file, line, "label", message) for line in unlabelled)
    elif unlabelled:
        _log.warning("%s: contains paths and no labels, so every video is of class 0", file)


def _fields(line: str, separator: str) -> tuple[list[str], str | None]:
    """The fields of a line, at least one, and the problem of its quotes."""
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


def _fault(fields: list[str], path: str, label: str, source: ListSource) -> tuple[str, str] | None:
    if len(fields) > 3 or (len(fields) == 3 and not _is_whole_number(fields[1].strip())):
        return "columns", (
            f"has {len(fields)} fields, expected a path and a label. Put quotes round a path that "
            f"contains {source.separator!r}, or separate path and label with a tab"
        )
    other = re.search(r"([,;|\s])[+-]?[0-9]+$", path) if len(fields) == 1 else None
    if other is not None and other[1] != source.separator:
        return "columns", (
            f"has one field, {path!r}, since DATA.PATH_LABEL_SEPARATOR is {source.separator!r}. "
            f"Set it to {other[1]!r}"
        )
    if len(fields) == 1 and not has_suffix(path) and re.search(r"[,;|]", path):
        return "columns", (
            f"has one field, {path!r}, expected a path and a label, a whole number. {_FROM_NAMES}"
        )
    if not _is_whole_number(label):
        return "label", f"label {label!r} is not a whole number. {_FROM_NAMES}"
    return records.entry_fault(path, int(label), source.num_classes)


def _is_whole_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,18}", text) is not None


def _folder_of_paths(file: Path, paths: Strings, path_prefix: str) -> Path:
    """The folder of relative paths: the prefix if there is one, else the first that has them."""
    if path_prefix:
        return Path(path_prefix)
    probed = paths[:_PROBED_ENTRIES]
    if not any(leads_to_file(file.parent / path) for path in probed) and any(
        leads_to_file(Path(path)) for path in probed
    ):
        _log.info("%s: paths start from the working folder, since %s lacks them", file, file.parent)
        return Path()
    return file.parent


# Writing


def usable_path(path: str) -> tuple[str, str]:
    """A path as written in a list, and the problem that prevents it ("" if none).

    Lists are UTF-8 with one video a line, and spaces round a path are not part of it.
    """
    written = path
    if records.path_problem(path) or path.lower() in _PATH_HEADERS or path[:1].isspace():
        written = f"./{path}"
    try:
        written.encode("utf-8")
    except UnicodeEncodeError:
        return written, "the name is not UTF-8; rename the file"
    if written != written.rstrip():
        return written, "the name ends in white space; rename the file"
    problem = records.path_problem(written)
    return written, f"{problem}; rename the file" if problem else ""


def file_problem(file: str | Path, path: str) -> tuple[tuple[str, str] | None, int | None]:
    """Reason and detail of a file that cannot be used, or None; its size, None for a folder.

    Args:
        file: the video, image, or folder of frames.
        path: its path as a list would name it.
    """
    try:
        status = os.stat(file)
    except OSError:  # also a link in a circle
        return (BROKEN_LINK, "the link leads nowhere"), None
    if stat.S_ISREG(status.st_mode) and not status.st_size:
        return (EMPTY, "0 bytes"), 0
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        return (NOT_PLAIN, "a pipe, socket or device"), None
    _, problem = usable_path(path)
    num_bytes = None if stat.S_ISDIR(status.st_mode) else status.st_size
    return (BAD_NAME, problem) if problem else None, num_bytes


def list_line(path: str, label: int) -> str:
    """``path label``, in quotes or with a tab where the path needs it."""
    text = io.StringIO()
    separator = "\t" if "\t" in path else " "
    csv.writer(text, delimiter=separator, lineterminator="\n").writerow(
        [usable_path(path)[0], label]
    )
    return text.getvalue()
