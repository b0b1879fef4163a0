"""The annotation files of Kinetics as they are published, and the clips in any layout.

    label,youtube_id,time_start,time_end,split,is_cc
    "riding a bike",abcdefghijk,8.0,18.0,train,0

A header names the columns; a file without one has those of the public release. The clip of such a
line is ``abcdefghijk_000008_000018.mp4`` (or .mkv, .webm, a folder of frames, ...), with or without
leading zeros, or ``abcdefghijk.mp4`` where only one clip of that id is annotated.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from slowfast_mvit.annotations.class_names import class_map, class_names_of
from slowfast_mvit.annotations.columns import KeyIndex
from slowfast_mvit.annotations.csv_lists import read_csv_file
from slowfast_mvit.annotations.matching import with_files, with_labels
from slowfast_mvit.annotations.problems import Problem
from slowfast_mvit.annotations.records import (
    SPLIT_NAMES,
    Annotated,
    ListSource,
    Row,
    find_split,
    split_named_in,
    split_of_folder,
)
from slowfast_mvit.annotations.texts import csv_rows, nearest_path
from slowfast_mvit.errors import ListError, UserError

_log = logging.getLogger(__name__)

COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")

_ID = re.compile(r"[\w-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f]")
_SECONDS = re.compile(r"[0-9]{1,6}(\.0*)?")
_CLIP = re.compile("(.+)_([0-9]+)_([0-9]+)")
_ID_LENGTH = 11  # of a YouTube id
_ANNOTATIONS = "annotations"  # the folder of the lists in the common copy, next to the videos


# Rows


def columns_of(file: Path) -> tuple[str, ...] | None:
    """The columns of an annotation file by its first line; None for a file of another form."""
    _, first = next(csv_rows(file, errors="replace"), (0, []))
    cells = re.split("[;\t]", first[0]) if len(first) == 1 else first
    if "youtube_id" in _lowered(cells) and len(cells) > 1:
        return tuple(_lowered(first))
    trailing = [split_of_folder(cell.strip()) is not None for cell in reversed(first[-2:])]
    if len(first) < len(COLUMNS) or not any(trailing):
        return None
    return (*COLUMNS, *[""] * trailing.index(True))


def _lowered(cells: Iterable[str]) -> list[str]:
    return [cell.strip().lower() for cell in cells]


def read_rows(file: Path, *, report_repairs: bool = True) -> Iterator[Row | Problem]:
    """The clips of one file, or what is wrong with a line, one at a time.

    A label that holds a comma and has no quotes is put together again, where the other cells then
    are an id and times; one warning counts these.

    Args:
        file: the annotation file.
        report_repairs: False where another pass over the file reports them.

    Raises:
        ListError: the file lacks a column, or is no CSV in UTF-8.
    """
    columns = columns_of(file) or COLUMNS
    lacking = [name for name in COLUMNS[1:4] if name not in columns]
    if lacking:
        raise missing_columns(file, columns, lacking)
    split, places = split_named_in(file.stem), [columns.index(name) for name in COLUMNS[1:4]]
    label_at, split_at = (_place(columns, name) for name in ("label", "split"))
    repaired: list[Row] = []
    is_first = True
    for line, cells in csv_rows(file):
        was_first, is_first = is_first, False
        if was_first and "youtube_id" in _lowered(cells):
            continue
        surplus = len(cells) - len(columns)
        if surplus > 0 and label_at is not None:
            end = label_at + surplus + 1
            cells = [*cells[:label_at], ",".join(cells[label_at:end]), *cells[end:]]
        if len(cells) <= max(places):
            yield _problem(file, line, "columns", _wrong_number(len(cells), columns))
            continue
        cells += [""] * (len(columns) - len(cells))
        youtube_id, start, stop = (cells[place].strip() for place in places)
        problem = _clip_problem("".join(cells), youtube_id, start, stop)
        if problem:
            number = len(cells) + max(surplus, 0)
            wrong = ("columns", _wrong_number(number, columns)) if surplus > 0 else problem
            yield _problem(file, line, *wrong)
            continue
        of_row = split or (None if split_at is None else split_named_in(cells[split_at]))
        if of_row is None:
            message = f"{youtube_id}: neither the file's name nor the column split gives the split"
            yield _problem(file, line, "split", message)
            continue
        label = "" if label_at is None else cells[label_at].strip("\"' ")
        name = clip_name(youtube_id, int(float(start)), int(float(stop)))
        row = Row(name, of_row, label or None, line)
        if surplus > 0:
            repaired.append(row)
        yield row
    if repaired and report_repairs:
        _log.warning(
            "%s: %d labels hold a comma and have no quotes (first: line %d, read as %r)",
            file,
            len(repaired),
            repaired[0].line,
            repaired[0].class_name,
        )


def _place(columns: Sequence[str], name: str) -> int | None:
    return columns.index(name) if name in columns else None


def _problem(file: Path, line: int, kind: str, message: str) -> Problem:
    return Problem(str(file), line, kind, message)


def missing_columns(file: Path, columns: Sequence[str], lacking: Sequence[str]) -> ListError:
    """The error for an annotation file without some columns."""
    return ListError(
        f"{file}: has no column {' and '.join(map(repr, lacking))}. Its columns are "
        f"{', '.join(columns)}, expected {', '.join(COLUMNS)}, with commas between them"
    )


def _wrong_number(number: int, columns: Sequence[str]) -> str:
    return (
        f"has {number} fields, expected {len(columns)} ({','.join(columns)}). Put quotes round a "
        "label that holds a comma"
    )


def _clip_problem(cells: str, youtube_id: str, start: str, end: str) -> tuple[str, str] | None:
    """The kind of the problem of a line and its message."""
    if _CONTROL.search(cells):
        return "text", "holds a line break or control character. Are its quotes closed?"
    if not _ID.fullmatch(youtube_id):
        return "id", f"youtube_id {youtube_id!r} holds more than letters, digits, '-' and '_'"
    if not (_SECONDS.fullmatch(start) and _SECONDS.fullmatch(end)):
        return "time", f"time_start {start!r} and time_end {end!r} must be seconds, whole and >= 0"
    if float(start) >= float(end):
        return "time", f"time_end {end!r} is not after time_start {start!r}"
    return None


def clip_name(youtube_id: str, start_s: int, end_s: int) -> str:
    """The name of a clip's file without suffix, as the public copies have it."""
    return f"{youtube_id}_{start_s:06d}_{end_s:06d}"


# Annotation files


def complete_file(file: Path) -> Path:
    """``train.txt`` for a ``train.csv`` next to it: the publisher of K600 marks the CSV files as
    incomplete."""
    text = file.with_suffix(".txt")
    return text if text.is_file() and columns_of(text) else file


def find_annotations(places: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """The annotation files among these files and folders, and notes on what was passed over.

    Raises:
        UserError: when there are none.
    """
    files: list[Path] = []
    notes: list[str] = []
    for place in places:
        if place.is_file():
            files.append(place)
            continue
        if not place.is_dir():
            raise UserError(f"{place}: no such file or folder. Give it with --annotations")
        named = [f for f in sorted(place.iterdir()) if f.suffix in (".csv", ".txt")]
        found = [f for f in named if split_named_in(f.stem) and f.is_file() and columns_of(f)]
        doubled = [f for f in found if f.suffix == ".csv" and complete_file(f) != f]
        notes += [f"{f} is passed over for {f.stem}.txt, which is complete" for f in doubled]
        files += [f for f in found if f not in doubled]
    if not files:
        shown = ", ".join(map(str, places))
        raise UserError(
            f"{shown}: no annotation files. Expected train.csv, val.csv (or validate.csv) and "
            "test.csv with the columns label,youtube_id,time_start,time_end,split"
        )
    return files, notes


# Clips


def parsed_name(path: str) -> tuple[str, str]:
    """Id and name of the clip in a file ``<id>_<start>_<end>.mp4``; "" for one without times.

    Nothing after the first dot counts, since some downloaders write ``.mp4.webm``; 11 characters
    are an id, whatever they are.
    """
    name = path.rpartition("/")[2].partition(".")[0]
    found = _CLIP.fullmatch(name) if len(name) != _ID_LENGTH else None
    return (found[1], clip_name(found[1], int(found[2]), int(found[3]))) if found else (name, "")


def id_of(path: str) -> str:
    """The YouTube id of a file or clip, as ``parsed_name`` finds it."""
    name = path.rpartition("/")[2].partition(".")[0]
    found = _CLIP.fullmatch(name) if len(name) != _ID_LENGTH else None
    return found[1] if found else name


def is_replacement(path: str) -> bool:
    """Return whether it is in a folder such as ``replacement/replacement_for_corrupted_k400``."""
    return any(folder.startswith("replacement") for folder in path.lower().split("/")[:-1])


class ClipFiles:
    """The files of each clip.

    Args:
        paths: the videos below a folder; read once, one at a time.
        clips: what is annotated, by name.
    """

    def __init__(self, paths: Iterable[str], clips: Iterable[str]) -> None:
        self._files = KeyIndex(paths, id_of)
        self._clips = clips

    @cached_property
    def _clips_by_id(self) -> KeyIndex:  # needed only where names lack times
        return KeyIndex(self._clips, id_of)

    def of(self, clip: str) -> list[str]:
        """The files of a clip; one that names no times, or a replacement, is taken by its id where
        only one clip of that id is annotated."""
        youtube_id = id_of(clip)
        exact, others = [], []
        for path in self._files.find(youtube_id):
            name = parsed_name(path)[1]
            if name == clip:
                exact.append(path)
            elif not name or is_replacement(path):
                others.append(path)
        if others and len(set(self._clips_by_id.find(youtube_id))) == 1:
            exact += others
        return exact

    def why_missing(self, clip: str) -> str:
        """Return what other file there is of the same id."""
        others = sorted(self._files.find(id_of(clip)))
        return f"there is {others[0]}, of the same id" if others else ""


# Training


def read_kinetics(source: ListSource) -> Annotated:
    """Read ``<split>.csv`` of a folder, in the published form or as ``path label`` lines.

    The class of a video is the place of its label among the class names: those given (see
    ``class_names_of``), else all labels of the training and validation files, sorted. Videos are
    searched by name below ``source.path_prefix``, or else next to the lists; files in folders
    named ``replacement...`` come first. Testing reads the validation videos where ``test.csv``
    names no classes, as in some releases.

    Raises:
        ListError: all problems of the list at once; or none of its videos exists.
    """
    file = _file_of_split(source)
    if columns_of(file) is None:
        return read_csv_file(file, source)
    class_names = class_names_of(source) or _names_of_labels(file, source)
    rows = read_rows(file)
    videos, labels = with_labels(rows, class_names, file, must_be_unique=source.must_be_unique)
    root = Path(source.path_prefix or source.folder)
    if not source.path_prefix and root.name == _ANNOTATIONS:
        root = root.parent
    if not root.is_dir():
        raise ListError(f"{root}: no such folder (DATA.PATH_PREFIX).{nearest_path(root)}")
    return with_files(
        videos,
        labels,
        class_names,
        file,
        source,
        root=root,
        files_of=lambda paths: ClipFiles(paths, videos).of,
        overrides=is_replacement,
        suffix=".mp4",
    )


def _file_of_split(source: ListSource) -> Path:
    """The annotation file of a split, for testing one that names classes."""
    file = complete_file(find_split(source, suffix=".csv"))
    columns = columns_of(file)
    if columns is None or "label" in columns:
        return file
    names = (f"{name}.csv" for name in SPLIT_NAMES["val"] if source.split == "test")
    instead = next((source.folder / n for n in names if (source.folder / n).is_file()), None)
    if instead is None:
        raise missing_columns(file, columns, [c for c in COLUMNS[:4] if c not in columns])
    _log.warning("%s: names no classes, so testing reads %s", file, instead.name)
    return instead


def _names_of_labels(file: Path, source: ListSource) -> tuple[str, ...]:
    """All labels of the training and validation files, sorted: one order for all splits."""
    names = (f"{name}.csv" for name in (*SPLIT_NAMES["train"], *SPLIT_NAMES["val"]))
    paths = [source.folder / name for name in names if (source.folder / name).is_file()]
    files = [complete_file(path) for path in paths] or [file]
    for other in files:
        if columns_of(other) is None:
            raise ListError(
                f"{file} gives classes by name and {other.name} by number. Give the names in the "
                "order of the numbers, as classes.txt next to them or DATA.CLASS_NAMES_PATH"
            )
    names_of_classes = tuple(sorted(class_map(count_labels(files)).values()))
    if source.num_classes not in (None, len(names_of_classes)):
        raise ListError(
            f"{', '.join(map(str, files))}: {len(names_of_classes)} classes, but MODEL.NUM_CLASSES "
            f"is {source.num_classes}. Set MODEL.NUM_CLASSES {len(names_of_classes)}, or name all "
            "classes in classes.txt or DATA.CLASS_NAMES_PATH, so that each keeps its number"
        )
    return names_of_classes


def count_labels(files: Iterable[Path]) -> Counter[str]:
    """Return how often each label is given in these annotation files."""
    rows = (row for file in files for row in read_rows(file, report_repairs=False))
    return Counter(row.class_name for row in rows if isinstance(row, Row) and row.class_name)
