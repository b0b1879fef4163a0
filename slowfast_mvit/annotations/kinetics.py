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
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from slowfast_mvit.annotations import records
from slowfast_mvit.annotations.class_names import class_map, class_names_of
from slowfast_mvit.annotations.columns import KeyIndex
from slowfast_mvit.annotations.csv_lists import read_csv_file
from slowfast_mvit.annotations.files import with_files, with_labels
from slowfast_mvit.annotations.records import Annotated, ListSource, Problem, Row
from slowfast_mvit.annotations.texts import csv_rows
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
    trailing = [records.split_of_folder(cell.strip()) is not None for cell in reversed(first[-2:])]
    if len(first) < len(COLUMNS) or not any(trailing):
        return None
    return (*COLUMNS, *[""] * trailing.index(True))


def _lowered(cells: Iterable[str]) -> list[str]:
    return [cell.strip().lower() for cell in cells]


def read_rows(file: Path, *, report_repairs: bool = True) -> Iterator[Row | Problem]:
    """The clips of one file, or the problem of a line, one at a time.

    A label that contains a comma and has no quotes is repaired where the other cells are then an id
    and times; one warning counts these.

    Args:
        file: the annotation file.
        report_repairs: False where another pass over the file reports them.

    Raises:
        ListError: the file lacks a column, or is no CSV in UTF-8.
    """
    columns = columns_of(file) or COLUMNS
    required = COLUMNS[1:4]
    lacking = [name for name in required if name not in columns]
    if lacking:
        raise missing_columns(file, columns, lacking)
    split = records.split_named_in(file.stem)
    repaired: list[Row] = []
    for number, (line, cells) in enumerate(csv_rows(file)):
        if number == 0 and "youtube_id" in _lowered(cells):
            continue
        num_cells = len(cells)
        surplus = num_cells - len(columns)
        if surplus > 0 and "label" in columns:
            start = columns.index("label")
            label = ",".join(cells[start : start + surplus + 1])
            cells = [*cells[:start], label, *cells[start + surplus + 1 :]]
        fields = dict(zip(columns, cells, strict=False))
        clip = [fields[name].strip() for name in required if name in fields]
        fault = _clip_fault("".join(cells), *clip) if len(clip) == 3 else None
        row_split = split or records.split_named_in(fields.get("split", ""))
        if len(clip) < 3 or (fault and surplus > 0):
            fault = (
                "columns",
                (
                    f"has {num_cells} fields, expected {len(columns)} ({','.join(columns)}). Put "
                    "quotes round a label that contains a comma"
                ),
            )
        elif not fault and row_split is None:
            message = f"{clip[0]}: neither the file's name nor the column split gives the split"
            fault = "split", message
        if fault:
            yield Problem(file, line, *fault)
            continue
        name = clip_name(clip[0], int(float(clip[1])), int(float(clip[2])))
        row = Row(name, row_split, fields.get("label", "").strip("\"' ") or None, line)
        if surplus > 0:
            repaired.append(row)
        yield row
    if repaired and report_repairs:
        first = f"first: line {repaired[0].line}, read as {repaired[0].class_name!r}"
        text = "%s: %d labels contain a comma and have no quotes (%s)"
        _log.warning(text, file, len(repaired), first)


def missing_columns(file: Path, columns: Sequence[str], lacking: Sequence[str]) -> ListError:
    """The error for an annotation file without some columns."""
    return ListError(
        f"has no column {' and '.join(map(repr, lacking))}. Its columns are {', '.join(columns)}, "
        f"expected {', '.join(COLUMNS)}, with commas between them",
        file,
    )


def _clip_fault(cells: str, youtube_id: str, start: str, end: str) -> tuple[str, str] | None:
    if _CONTROL.search(cells):
        return "text", "contains a line break or control character. Are its quotes closed?"
    if not _ID.fullmatch(youtube_id):
        return "id", f"youtube_id {youtube_id!r} contains more than letters, digits, '-' and '_'"
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
    """The annotation files among these files and folders, and notes on files that were passed over.

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
        found = [
            f for f in named if records.split_named_in(f.stem) and f.is_file() and columns_of(f)
        ]
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
    """Id and name of the clip in a file ``<id>_<start>_<end>.mp4``; "" for one without times."""
    name, match = _matched_name(path)
    return (match[1], clip_name(match[1], int(match[2]), int(match[3]))) if match else (name, "")


def id_of(path: str) -> str:
    """The YouTube id of a file or clip."""
    name, match = _matched_name(path)
    return match[1] if match else name


def _matched_name(path: str) -> tuple[str, re.Match[str] | None]:
    """The name of a file and its parts ``<id>_<start>_<end>``, if it has these.

    Nothing after the first dot counts, since some downloaders write ``.mp4.webm``; 11 characters
    are an id.
    """
    name = path.rpartition("/")[2].partition(".")[0]
    return name, _CLIP.fullmatch(name) if len(name) != _ID_LENGTH else None


def is_replacement(path: str) -> bool:
    """Return whether it is in a folder such as ``replacement/replacement_for_corrupted_k400``."""
    return any(folder.startswith("replacement") for folder in path.lower().split("/")[:-1])


class ClipFiles:
    """The files of each clip.

    Args:
        paths: the videos below a folder; read once, one at a time.
        clips: the names of the annotated clips.
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

    The class of a video is the index of its label among the class names: those of
    ``class_names_of``, else all labels of the training and validation files, sorted. Videos are
    searched by name below ``source.path_prefix``, or else next to the lists; files in folders
    named ``replacement...`` are preferred. Testing reads the validation videos where ``test.csv``
    names no classes, as in some releases.

    Raises:
        ListError: all problems of the list at once; or none of its videos exists.
    """
    file = _file_of_split(source)
    if columns_of(file) is None:
        return read_csv_file(file, source)
    class_names = class_names_of(source) or _names_of_labels(file, source)
    videos = with_labels(read_rows(file), class_names, file, source)
    if not source.path_prefix and videos.folder.name == _ANNOTATIONS:
        videos = replace(videos, folder=videos.folder.parent)
    if not videos.folder.is_dir():
        raise records.not_found(videos.folder, "no such folder (DATA.PATH_PREFIX)")
    return with_files(
        videos,
        in_training=source.split == "train",
        files_of=lambda paths: ClipFiles(paths, videos.video_ids).of,
        overrides=is_replacement,
        suffix=".mp4",
    )


def _file_of_split(source: ListSource) -> Path:
    """The annotation file of a split, for testing one that names classes."""
    file = complete_file(records.find_split(source, suffix=".csv"))
    columns = columns_of(file)
    if columns is None or "label" in columns:
        return file
    names = (f"{name}.csv" for name in records.SPLIT_NAMES["val"] if source.split == "test")
    instead = next((source.folder / n for n in names if (source.folder / n).is_file()), None)
    if instead is None:
        raise missing_columns(file, columns, [c for c in COLUMNS[:4] if c not in columns])
    _log.warning("%s: names no classes, so testing reads %s", file, instead.name)
    return instead


def _names_of_labels(file: Path, source: ListSource) -> tuple[str, ...]:
    """All labels of the training and validation files, sorted: one order for all splits."""
    splits = (*records.SPLIT_NAMES["train"], *records.SPLIT_NAMES["val"])
    paths = (source.folder / f"{name}.csv" for name in splits)
    files = [complete_file(path) for path in paths if path.is_file()] or [file]
    for other in files:
        if columns_of(other) is None:
            raise ListError(
                f"gives classes by name, and {other.name} by number. Give the names in the order "
                "of the numbers, as classes.txt next to them or DATA.CLASS_NAMES_PATH",
                file,
            )
    rows = (row for other in files for row in read_rows(other, report_repairs=False))
    labels = (row.class_name for row in rows if isinstance(row, Row) and row.class_name)
    names = tuple(sorted(class_map(Counter(labels)).values()))
    if source.num_classes not in (None, len(names)):
        raise ListError(
            f"{len(names)} classes, but MODEL.NUM_CLASSES is {source.num_classes} "
            f"({', '.join(path.name for path in files)}). Set MODEL.NUM_CLASSES {len(names)}, or "
            "name all classes in classes.txt or DATA.CLASS_NAMES_PATH, so that each keeps its "
            "number",
            source.folder,
        )
    return names
