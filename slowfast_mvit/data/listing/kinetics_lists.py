"""The annotation files of Kinetics as they are published, read beside the videos as they lie.

    train.csv      label,youtube_id,time_start,time_end,split,is_cc
                   "riding a bike",abcdefghijk,8.0,18.0,train,0

The video of such a line is ``abcdefghijk_000008_000018.mp4`` (or .mkv, .webm, ...), flat or in
folders of splits and classes, wherever it is below ``DATA.PATH_PREFIX``.
"""

from __future__ import annotations

import csv
import logging
import os
import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from slowfast_mvit.data.listing.class_names import ClassIndex, class_names_of
from slowfast_mvit.data.listing.csv_lists import read_csv_file
from slowfast_mvit.data.listing.folder_lists import VIDEO_SUFFIXES
from slowfast_mvit.data.listing.strings import Strings
from slowfast_mvit.data.listing.texts import nearest_path, open_text, raise_problems
from slowfast_mvit.data.lists import (
    SPLIT_NAMES,
    ListSource,
    VideoList,
    columns,
    duplicate_problems,
    find_split,
    warn_of_missing,
)
from slowfast_mvit.errors import ListError

_log = logging.getLogger(__name__)

_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_ID = re.compile(r"[\w-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f]")
_SECONDS = re.compile(r"\d{1,6}(\.\d*)?", re.ASCII)
_ID_LENGTH = 11  # of a YouTube id, which starts the name of a file
_DEPTH = 3  # folders between the root and a file, as in k400/train/riding_a_bike/
_REPLACEMENTS = "replacement"  # starts the names of folders whose files stand in for damaged ones
_ANNOTATIONS = "annotations"  # the folder of the lists in the common copy, beside the videos


def read_kinetics(source: ListSource) -> VideoList:
    """Read ``<split>.csv`` of a folder, in the published form or as ``path label`` lines.

    The class of a video is the place of its label among the class names: those given (see
    ``class_names_of``), else all labels of the training and validation files, sorted. Videos are
    looked for by name below ``source.path_prefix``, or else beside the lists; files in folders
    named ``replacement...`` come first. A video without a file is left out of training; in testing
    it stays in the list: it fails when it is read, and so is counted. Testing reads the validation
    videos where ``test.csv`` names no classes, as in some releases.

    Raises:
        ListError: all problems of the list at once; or none of its videos is there.
    """
    file = _file_of_split(source)
    if not _is_published_form(file):
        return read_csv_file(file, source)
    class_names = class_names_of(source) or _names_of_labels(file, source)
    problems: list[tuple[int, str]] = []
    stems, labels, lines = columns(_good_rows(file, ClassIndex(class_names), problems))
    problems += duplicate_problems(stems, lines, file, must_be_unique=source.must_be_unique)
    raise_problems(file, problems)
    if not stems:
        raise ListError(f"{file}: the list is empty. Copy the annotation file again")
    root = _folder_of_videos(source)
    if not root.is_dir():
        raise ListError(f"{root}: no such folder (DATA.PATH_PREFIX).{nearest_path(root)}")
    paths = Strings(_paths_below(root, file, stems, [class_names[label] for label in labels]))
    missing = [stem for stem, path in zip(stems, paths, strict=True) if not path]
    if len(missing) == len(stems):
        raise ListError(
            f"{file}: none of its {len(stems):,} videos is there. Looked for {stems[0]}.mp4 and "
            f"the like in {root} and {_DEPTH} levels of folders below. Set DATA.PATH_PREFIX to "
            "their folder"
        )
    if missing:
        warn_of_missing(file, len(missing), len(stems), root, missing[0], source.split)
        if source.split == "train":
            kept = [index for index, path in enumerate(paths) if path]
            stems, labels = Strings(stems[i] for i in kept), array("q", (labels[i] for i in kept))
            paths = Strings(path for path in paths if path)
        else:
            paths = Strings(p or f"{stem}.mp4" for stem, p in zip(stems, paths, strict=True))
    return VideoList(stems, labels, paths=paths, folder=root, class_names=class_names, source=file)


def _folder_of_videos(source: ListSource) -> Path:
    if source.path_prefix:
        return Path(source.path_prefix)
    return source.folder.parent if source.folder.name == _ANNOTATIONS else source.folder


# The annotation file


def _file_of_split(source: ListSource) -> Path:
    """The list of a split, for testing one that names classes."""
    file = find_split(source, suffix=".csv")
    if source.split != "test" or not _is_published_form(file) or "label" in _column_names(file):
        return file
    names = (f"{name}.csv" for name in SPLIT_NAMES["val"])
    instead = next(
        (source.folder / name for name in names if (source.folder / name).is_file()), None
    )
    if instead is None:
        return file  # and be told what is wrong with it
    _log.warning("%s: names no classes, so testing reads %s", file, instead.name)
    return instead


def _is_published_form(file: Path) -> bool:
    names = _column_names(file)
    return "youtube_id" in names and len(names) > 1


def _column_names(file: Path) -> list[str]:
    with open_text(file, errors="replace") as lines:
        header = next(lines, "").lower()
    return [name.strip().strip('"') for name in re.split("[,;\t]", header)]


def _good_rows(
    file: Path, classes: ClassIndex, problems: list[tuple[int, str]]
) -> Iterator[tuple[int, str, int]]:
    """Line, file name without suffix and label of each line that can be used; what is wrong with
    the others is added to ``problems``."""
    for line, fields in _rows(file):
        if isinstance(fields, str):
            problems.append((line, fields))
            continue
        name, youtube_id, start, end = fields
        problem = _row_problem(*fields)
        label = classes.find(name)
        if problem is None and label is None:
            problem = f"label {name!r} is not among the class names{classes.hint(name)}"
        if problem is not None or label is None:
            problems.append((line, problem or ""))
        else:
            yield line, f"{youtube_id}_{int(float(start)):06d}_{int(float(end)):06d}", label


def _rows(file: Path) -> Iterator[tuple[int, tuple[str, str, str, str] | str]]:
    """(line, (label, youtube_id, time_start, time_end)), or (line, problem).

    Raises:
        ListError: the file lacks a column, or is no CSV in UTF-8.
    """
    with open_text(file, newline="") as lines:
        rows = csv.reader(lines)
        line = 1
        try:
            header = [name.strip().lower() for name in next(rows)]
            _check_header(file, header)
            places = [header.index(name) for name in _COLUMNS]
            line = rows.line_num + 1
            for row in rows:
                if any(_CONTROL.search(field) for field in row):
                    yield line, "holds a line break or control character. Do its quotes fit?"
                elif max(places) < len(row) <= len(header):
                    label, youtube_id, start, end = (row[place].strip() for place in places)
                    yield line, (label.strip('"'), youtube_id, start, end)
                elif any(field.strip() for field in row):
                    yield line, _field_problem(row, header)
                line = rows.line_num + 1  # a row with quotes may have several
        except csv.Error as error:
            raise ListError(f"{file}: line {line}: {error}. Do its quotes fit?") from None


def _field_problem(row: Sequence[str], header: Sequence[str]) -> str:
    return (
        f"has {len(row)} fields, expected {len(header)} ({','.join(header)}). Put quotes round a "
        "label that holds a comma"
    )


def _check_header(file: Path, header: Sequence[str]) -> None:
    lacking = [name for name in _COLUMNS if name not in header]
    if lacking:
        raise ListError(
            f"{file}: has no column {' and '.join(map(repr, lacking))}. Its columns are "
            f"{', '.join(header)}, expected {', '.join(_COLUMNS)}, with commas between them"
        )


def _row_problem(name: str, youtube_id: str, start: str, end: str) -> str | None:
    if not name:
        return "the label is empty"
    if not _ID.fullmatch(youtube_id):
        return f"youtube_id {youtube_id!r} holds more than letters, digits, '-' and '_'"
    times = [_seconds(start), _seconds(end)]
    if times[0] is None or times[1] is None:
        return f"time_start {start!r} and time_end {end!r} must be seconds, 0 or more"
    return None if times[0] < times[1] else f"time_end {end!r} is not after time_start {start!r}"


def _seconds(text: str) -> float | None:
    return float(text) if _SECONDS.fullmatch(text) else None


def _names_of_labels(file: Path, source: ListSource) -> tuple[str, ...]:
    """All labels of the training and validation files, sorted: one order for all splits."""
    names = (f"{name}.csv" for name in (*SPLIT_NAMES["train"], *SPLIT_NAMES["val"]))
    files = [source.folder / name for name in names if (source.folder / name).is_file()] or [file]
    for other in files:
        if not _is_published_form(other):
            raise ListError(
                f"{file} gives classes by name and {other.name} by number. Give the names in the "
                "order of the numbers, as classes.txt beside them or DATA.CLASS_NAMES_PATH"
            )
    labels = {row[0] for other in files for _, row in _rows(other) if not isinstance(row, str)}
    labels.discard("")
    if source.num_classes not in (None, len(labels)):
        raise ListError(
            f"{', '.join(map(str, files))}: {len(labels)} classes, but MODEL.NUM_CLASSES is "
            f"{source.num_classes}. Set MODEL.NUM_CLASSES {len(labels)}, or name all classes in "
            "classes.txt or DATA.CLASS_NAMES_PATH, so that each keeps its number"
        )
    return tuple(sorted(labels))


# The files


class _FilesBelow:
    """Video files by the stems of their names, in about 70 bytes each.

    Args:
        paths: read once, one at a time.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        keys = array("q")

        def hashed() -> Iterator[str]:
            for path in paths:
                keys.append(hash(_stem(path)))
                yield path

        self._paths = Strings(hashed())
        hashes = np.array(keys, dtype=np.int64)
        self._order = np.argsort(hashes, kind="stable")  # files of one stem as listed
        self._keys = array("q", hashes[self._order].tobytes())  # bisects faster than numpy

    def named(self, stem: str) -> list[str]:
        """The paths of all files of this stem."""
        key = hash(stem)
        found, place = [], bisect_left(self._keys, key)
        while place < len(self._keys) and self._keys[place] == key:
            found.append(self._paths[int(self._order[place])])
            place += 1
        return [path for path in found if _stem(path) == stem]


def _stem(path: str) -> str:
    return os.path.basename(path).partition(".")[0]  # of x.mp4.webm, as some downloaders write


def _paths_below(root: Path, file: Path, stems: Strings, labels: Sequence[str]) -> Iterator[str]:
    """For each stem the path of its file, relative to ``root``, or "" where there is none."""
    split = SPLIT_NAMES["val"] if file.stem in SPLIT_NAMES["val"] else (file.stem,)
    others = {name for names in SPLIT_NAMES.values() for name in names} - set(split)
    replacement_folders: list[str] = []
    files = _FilesBelow(_walk(root, "", others, replacement_folders))
    replacements = {
        _stem(path): path for folder in replacement_folders for path in _walk(root, folder, others)
    }
    times_listed = Counter(stem[:_ID_LENGTH] for stem in stems) if replacements else Counter()
    by_id = {stem[:_ID_LENGTH]: path for stem, path in replacements.items()}
    for stem, label in zip(stems, labels, strict=True):
        youtube_id = stem[:_ID_LENGTH]
        path = replacements.get(stem)
        if path is None and times_listed[youtube_id] == 1:
            path = by_id.get(youtube_id)
        yield path or _best(files.named(stem), split, label)


def _best(paths: Sequence[str], split: Sequence[str], label: str) -> str:
    """Of several files of one name that in the folder of the split and the class, if any."""
    if len(paths) < 2:
        return paths[0] if paths else ""
    classes = ClassIndex([label])

    def order(path: str) -> tuple[bool, bool, str]:
        folders = path.split(os.sep)[:-1]
        in_class = any(classes.find(folder) is not None for folder in folders)
        return not set(folders) & set(split), not in_class, path

    return min(paths, key=order)


def _walk(
    root: Path, folder: str, left_out: set[str], replacement_folders: list[str] | None = None
) -> Iterator[str]:
    """The video files below ``folder``, relative to ``root``; one directory entry at a time.

    Folders of other splits are left out. Those of replacements are added to
    ``replacement_folders``, where it is given, instead of being entered.
    """
    try:
        entries = os.scandir(root / folder)
    except PermissionError as error:  # lost+found, where a whole disk is the folder
        _log.warning("%s: %s; files in it are not found", root / folder, error.strerror)
        return
    with entries:
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if entry.name.lower().endswith(VIDEO_SUFFIXES):
                yield path
            elif not entry.is_dir() or entry.name in left_out or entry.name.startswith("."):
                continue
            elif replacement_folders is not None and entry.name.startswith(_REPLACEMENTS):
                replacement_folders.append(path)
            elif path.count(os.sep) < _DEPTH:
                yield from _walk(root, path, left_out, replacement_folders)
