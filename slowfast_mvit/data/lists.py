"""A list of videos as columns in memory, and what all readers of lists need.

A list is checked as a whole when it is read: every problem is reported at once, with its line, so
that nobody finds the second typing error an epoch after the first.

    train.csv                path label                    one video a line     csv_lists.py
    train.csv                label,youtube_id,time_start   one video a line     kinetics_lists.py
    labels.json, train.json  {"id": ..., "template": ...}  one video an entry   ssv2_lists.py
    <split>/<class>/<file>   folders of classes            one video a file     folder_lists.py
    train.json               {"im_path": ..., "class": 0}  one image an entry   folder_lists.py
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from slowfast_mvit.data.listing.shared_arrays import SharedArray
from slowfast_mvit.data.listing.strings import Strings, repeats
from slowfast_mvit.data.listing.texts import nearest_path
from slowfast_mvit.errors import ListError
from slowfast_mvit.structures import VideoRecord

_log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

# The names under which the list (or the folder) of a split is looked for, in this order.
SPLIT_NAMES = {
    "train": ("train",),
    "val": ("val", "validate", "validation"),
    "test": ("test", "val", "validate", "validation"),
}

_MAX_LABEL = 2**31 - 1
# A single letter and a colon is a Windows drive.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:|[A-Za-z]://")


class VideoList(Sequence[VideoRecord]):
    """The videos of one list, as columns; a record is made when it is asked for.

    Worker processes share the columns, however they are started (see ``shared_arrays.py``).

    Args:
        video_ids: the videos as the list names them.
        labels: their class indices.
        paths: where they are, relative to ``folder``; left out where the names are the paths.
        folder: what relative paths start from.
        class_names: names in the order of the class indices, or None where nobody gave them.
        source: the file or folder this was read from, for messages.
    """

    def __init__(
        self,
        video_ids: Iterable[str],
        labels: Iterable[int],
        *,
        paths: Iterable[str] | None = None,
        folder: str | Path = "",
        class_names: tuple[str, ...] | None = None,
        source: str | Path = "",
    ) -> None:
        self._video_ids = _as_strings(video_ids)
        self._paths = self._video_ids if paths is None else _as_strings(paths)
        self._folder = "" if Path(folder) == Path() else str(folder)
        self._labels = SharedArray(np.fromiter(labels, dtype=np.int64))
        self.class_names = class_names
        self.source = str(source)
        if not len(self._video_ids) == len(self._paths) == len(self._labels):
            raise ValueError("video_ids, paths and labels must be equally many")

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, a copy."""
        return self._labels[:]

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> VideoRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[VideoRecord]: ...
    def __getitem__(self, index: int | slice) -> VideoRecord | list[VideoRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        i = range(len(self))[index]  # raises IndexError, and turns -1 into the last
        # Not pathlib, which keeps a table of all the names it ever met.
        path = os.path.join(self._folder, self._paths[i])
        return VideoRecord(self._video_ids[i], path, int(self._labels[i : i + 1][0]))

    def __iter__(self) -> Iterator[VideoRecord]:
        return (self[i] for i in range(len(self)))

    def digest(self) -> str:
        """64 hexadecimal digits that follow from which videos are listed with which labels.

        Not from where they lie, which may differ from node to node.
        """
        digest = hashlib.sha256(self.labels.tobytes())
        for video_id in self._video_ids:
            digest.update(video_id.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"VideoList({len(self):,} videos from {self.source!r})"


def _as_strings(strings: Iterable[str]) -> Strings:
    return strings if isinstance(strings, Strings) else Strings(strings)


@dataclass(frozen=True)
class ListSource:
    """Where a list is looked for and how it is to be read.

    Attributes:
        folder: ``DATA.PATH_TO_DATA_DIR``.
        split: "train", "val" or "test".
        path_prefix: ``DATA.PATH_PREFIX``; "" for the list's own folder.
        separator: ``DATA.PATH_LABEL_SEPARATOR``.
        num_classes: labels must be below this; None to accept any.
        class_names_path: ``DATA.CLASS_NAMES_PATH``; "" to look beside the list.
        public_names: gives the class names that the data set is published with, for where there
            are no others; None where this project does not know them.
    """

    folder: Path
    split: str
    path_prefix: str = ""
    separator: str = " "
    num_classes: int | None = None
    class_names_path: str = ""
    public_names: Callable[[], tuple[str, ...]] | None = None

    @property
    def must_be_unique(self) -> bool:
        """Whether a video may be listed only once: scores are kept by video, training is not."""
        return self.split != "train"


def columns(rows: Iterable[tuple[int, str, int]]) -> tuple[Strings, array[int], array[int]]:
    """Rows (line, text, label), read one at a time, as columns: texts, labels and lines."""
    labels, lines = array("q"), array("q")

    def texts() -> Iterator[str]:
        for line, text, label in rows:
            lines.append(line)
            labels.append(label)
            yield text

    return Strings(texts()), labels, lines


# Checking


def path_problem(path: str) -> str | None:
    """What makes a path of a list unusable, or None: lists may name local files only."""
    if not path:
        return "the path is empty"
    if "\0" in path or "\n" in path or "\r" in path:
        return f"path {path!r} holds a character that no path may hold"
    if _SCHEME.match(path):
        problem = f"path {path!r} is a URL or names a protocol. Copy the video to a local folder"
        is_url = "/" in path or "\\" in path
        return problem if is_url else f"{problem}; if that is a file's name, write './{path}'"
    return None


def label_problem(label: int, num_classes: int | None) -> str | None:
    """What is wrong with a class index, or None; it must be 0 to ``num_classes`` - 1."""
    if num_classes is not None and not 0 <= label < num_classes:
        return (
            f"label {label} is outside 0 to {num_classes - 1} (MODEL.NUM_CLASSES is {num_classes})"
        )
    if not 0 <= label <= _MAX_LABEL:
        return f"label {label} is below 0" if label < 0 else f"label {label} is above {_MAX_LABEL}"
    return None


def duplicate_problems(
    names: Strings, lines: Sequence[int], file: Path, *, must_be_unique: bool, what: str = "line"
) -> list[tuple[int, str]]:
    """(line, problem) of each video that was listed before; in training one warning instead."""
    doubled = repeats(names)
    if must_be_unique:
        return [
            (lines[i], f"{names[i]!r} is also on {what} {lines[first]}. List each video once")
            for i, first in doubled
        ]
    earliest = next(doubled, None)
    if earliest is not None:
        count = 1 + sum(1 for _ in doubled)
        plural = "entries" if what == "entry" else f"{what}s"
        _log.warning(
            "%s: %s a video that was listed before (first: %s %d, %r); such videos are trained on "
            "once for each",
            file,
            f"1 {what} repeats" if count == 1 else f"{count} {plural} repeat",
            what,
            lines[earliest[0]],
            names[earliest[0]],
        )
    return []


def warn_of_missing(
    file: Path, num_missing: int, num_listed: int, root: Path, first: str, split: str
) -> None:
    """Say once how many videos of a list have no file, and what becomes of them."""
    _log.warning(
        "%s: %d of %d videos have no file below %s (first: %s); they %s",
        file,
        num_missing,
        num_listed,
        root,
        first,
        "are left out of training" if split == "train" else "count as failed",
    )


# Finding and reading files


def find_split(source: ListSource, suffix: str) -> Path:
    """The file (or folder, for suffix "") of a split; testing takes ``val`` where no ``test`` is.

    Raises:
        ListError: when there is none; names what the folder holds instead.
    """
    check_folder(source.folder)
    exists: Callable[[Path], bool] = Path.is_file if suffix else Path.is_dir
    names = [f"{name}{suffix}" for name in SPLIT_NAMES[source.split]]
    found = next((name for name in names if exists(source.folder / name)), None)
    if found is None:
        wanted = source.folder / names[0]
        what = "no such file" if suffix else "no such folder"
        raise ListError(f"{wanted}: {what}.{nearest_path(wanted)}")
    if source.split == "test" and found != names[0]:
        _log.info("%s: no %s, so testing reads %s", source.folder, names[0], found)
    return source.folder / found


def check_folder(folder: Path) -> None:
    """Raise a ``ListError`` unless ``DATA.PATH_TO_DATA_DIR`` is a folder."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        hint = " Give the folder that holds it" if folder.exists() else nearest_path(folder)
        raise ListError(f"{folder}: {what} (DATA.PATH_TO_DATA_DIR).{hint}")
