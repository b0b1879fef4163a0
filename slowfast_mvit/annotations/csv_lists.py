"""Lists in PySlowFast's form: a path and a label on each line."""

from __future__ import annotations

import csv
import io
import logging
import re
from array import array
from collections.abc import Iterator
from pathlib import Path

from slowfast_mvit.annotations.columns import Strings, columns
from slowfast_mvit.annotations.problems import Problem, raise_problems, without_problems
from slowfast_mvit.annotations.records import (
    Annotated,
    ListSource,
    duplicates,
    find_split,
    label_problem,
    path_problem,
)
from slowfast_mvit.annotations.texts import numbered_lines
from slowfast_mvit.errors import ListError
from slowfast_mvit.storage import leads_to_file

_log = logging.getLogger(__name__)

_PROBED_ENTRIES = 5  # how many of the first entries decide where relative paths start
_PATH_HEADERS = {
    *("path", "paths", "filename", "file", "file_name", "video", "video_path", "label"),
    "original_vido_id",  # of lists of frames
}
_LABEL_HEADERS = {"label", "labels", "class", "class_id", "class_index", "label_id", "target"}


def read_csv(source: ListSource) -> Annotated:
    """Read ``<split>.csv`` of a folder: a path and a label on each line.

    Fields are separated by ``source.separator`` or by a tab, and may be quoted. As in PySlowFast
    a line holds ``path label`` or ``path number_of_frames label`` (the middle one is not read); if
    every line is a path alone, all labels are 0. A byte order mark, Windows line ends, spaces,
    blank lines and a header such as ``path label`` do no harm.

    Raises:
        ListError: all problems of the list at once.
    """
    return read_csv_file(find_split(source, suffix=".csv"), source)


def read_csv_file(file: Path, source: ListSource) -> Annotated:
    """``read_csv`` of this file."""
    problems: list[Problem] = []
    unlabelled = array("q")
    rows = _rows(file, source, unlabelled)
    paths, labels, lines = columns(without_problems(rows, problems))
    if len(unlabelled) < len(paths):
        message = "has a path and no label, unlike other lines"
        problems += [Problem(str(file), line, "label", message) for line in unlabelled]
    problems += duplicates(paths, lines, file, must_be_unique=source.must_be_unique)
    raise_problems(problems)
    if not paths:
        raise ListError(f"{file}: the list is empty. Write one video a line: path, a space, label")
    if unlabelled:
        _log.warning("%s: holds paths and no labels, so that every video is of class 0", file)
    return Annotated(paths, labels, None, _folder_of_paths(file, paths, source.path_prefix), file)


def _rows(
    file: Path, source: ListSource, unlabelled: array[int]
) -> Iterator[tuple[int, str, int] | Problem]:
    """Line, path and label of each line; lines without a label are added to ``unlabelled``."""
    is_first = True
    for line, text in numbered_lines(file):
        fields, problem = _fields(text, source.separator)
        was_first, is_first = is_first, False
        if was_first and _is_header(fields):
            continue
        path, label = fields[0].strip(), fields[-1].strip() if len(fields) > 1 else "0"
        kind, problem = ("columns", problem) if problem else _problem(fields, path, label, source)
        if problem:
            yield Problem(str(file), line, kind, problem)
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


def _problem(
    fields: list[str], path: str, label: str, source: ListSource
) -> tuple[str, str | None]:
    """The kind of the problem of a line and its message; None for a line that can be used."""
    if len(fields) > 3 or (len(fields) == 3 and not _is_whole_number(fields[1].strip())):
        return "columns", (
            f"has {len(fields)} fields, expected a path and a label. Put quotes round a path that "
            f"holds {source.separator!r}, or separate path and label with a tab"
        )
    other = re.search(r"([,;|\s])[+-]?[0-9]+$", path) if len(fields) == 1 else None
    if other is not None and other[1] != source.separator:
        return "columns", (
            f"has one field, {path!r}, since DATA.PATH_LABEL_SEPARATOR is {source.separator!r}. "
            f"Set it to {other[1]!r}"
        )
    if not _is_whole_number(label):
        return "label", f"label {label!r} is not a whole number"
    problem = path_problem(path)
    return (
        ("path", problem) if problem else ("label", label_problem(int(label), source.num_classes))
    )


def _is_whole_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,18}", text) is not None


def _folder_of_paths(file: Path, paths: Strings, path_prefix: str) -> Path:
    """Return the folder of relative paths: the prefix if given, else the first that has them."""
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
    """A path as a list holds it, and what makes that impossible ("" if nothing).

    Lists are UTF-8 with one video a line, and spaces round a path are not part of it.
    """
    written = path
    if path_problem(path) or path.lower() in _PATH_HEADERS or path[:1].isspace():
        written = f"./{path}"
    try:
        written.encode("utf-8")
    except UnicodeEncodeError:
        return written, "the name is not UTF-8; rename the file"
    if written != written.rstrip():
        return written, "the name ends in white space; rename the file"
    problem = path_problem(written)
    return written, f"{problem}; rename the file" if problem else ""


def list_line(path: str, label: int) -> str:
    """``path label``, in quotes or with a tab where the path needs it."""
    text = io.StringIO()
    separator = "\t" if "\t" in path else " "
    csv.writer(text, delimiter=separator, lineterminator="\n").writerow(
        [usable_path(path)[0], label]
    )
    return text.getvalue()
