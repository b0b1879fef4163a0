"""The records of annotations, which split they belong to, and the checks that all forms share."""

from __future__ import annotations

import logging
import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from slowfast_mvit.annotations.columns import Strings, repeats
from slowfast_mvit.annotations.problems import Problem
from slowfast_mvit.annotations.texts import nearest_path
from slowfast_mvit.errors import ListError

_log = logging.getLogger(__name__)

# The names under which the list (or the folder) of a split is searched, in this order.
SPLIT_NAMES = {
    "train": ("train",),
    "val": ("val", "validate", "validation"),
    "test": ("test", "val", "validate", "validation"),
}
_SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_MAX_LABEL = 2**31 - 1
# A single letter and a colon is a Windows drive.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:|[A-Za-z]://")


class Row(NamedTuple):
    """A video that an annotation names.

    Attributes:
        video: its name there: a YouTube clip, an id, or a path.
        split: the list it belongs to, or None where that is to be decided.
        class_name: its class, or None where the annotation does not give one.
        line: of the file, or number of the entry.
    """

    video: str
    split: str | None
    class_name: str | None
    line: int = 0


@dataclass(frozen=True)
class Annotated:
    """The videos of one split as columns, matched with their files.

    Attributes:
        video_ids: the videos as the annotation names them.
        labels: their class indices.
        paths: their files, relative to ``folder``; None where the names are the paths.
        folder: what relative paths start from.
        source: the annotation file or folder, for messages.
        class_names: in the order of the class indices, or None where unknown.
    """

    video_ids: Strings
    labels: array[int]
    paths: Strings | None
    folder: Path
    source: Path
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ListSource:
    """The source of the annotations of a split.

    Attributes:
        folder: ``DATA.PATH_TO_DATA_DIR``.
        split: "train", "val" or "test".
        path_prefix: ``DATA.PATH_PREFIX``; "" for the folder of the list.
        separator: ``DATA.PATH_LABEL_SEPARATOR``.
        num_classes: labels must be below this; None to accept any.
        class_names_path: ``DATA.CLASS_NAMES_PATH``; "" to look next to the list.
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
        """A video may be listed only once: scores are kept by video, training is not."""
        return self.split != "train"


# Splits


def split_of_folder(name: str) -> str | None:
    """The split that a folder holds by its name, or None: ``Validation`` -> "val"."""
    return _SPLIT_OF_WORD.get(name.lower())


def split_named_in(text: str) -> str | None:
    """The split in the name of a file: ``kinetics_700_validate`` -> "val"."""
    words = set(re.split(r"[^a-z]+", text.lower()))
    if "holdout" in words:
        return "holdout_test"
    found = {_SPLIT_OF_WORD[word] for word in words & _SPLIT_OF_WORD.keys()}
    return found.pop() if len(found) == 1 else None


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


# Checks


def path_problem(path: str) -> str | None:
    """Return what makes a path of a list unusable, or None: lists may name local files only."""
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
    """Return what is wrong with a class index, or None; it must be 0 to ``num_classes`` - 1."""
    if num_classes is not None and not 0 <= label < num_classes:
        return (
            f"label {label} is outside 0 to {num_classes - 1} (MODEL.NUM_CLASSES is {num_classes})"
        )
    if not 0 <= label <= _MAX_LABEL:
        return f"label {label} is below 0" if label < 0 else f"label {label} is above {_MAX_LABEL}"
    return None


def duplicates(
    names: Strings, lines: Sequence[int], file: Path, *, must_be_unique: bool, unit: str = "line"
) -> list[Problem]:
    """The videos that were listed before; in training one warning instead."""
    repeated = repeats(names)
    if must_be_unique:
        return [
            Problem(
                str(file),
                lines[i],
                "duplicate",
                f"{names[i]!r} is also on {unit} {lines[first]}. List each video once",
                unit,
            )
            for i, first in repeated
        ]
    earliest = next(repeated, None)
    if earliest is not None:
        count = 1 + sum(1 for _ in repeated)
        plural = {"line": "lines", "entry": "entries"}[unit]
        _log.warning(
            "%s: %s a video that was listed before (first: %s %d, %r); such videos are trained on "
            "once for each",
            file,
            f"1 {unit} repeats" if count == 1 else f"{count} {plural} repeat",
            unit,
            lines[earliest[0]],
            names[earliest[0]],
        )
    return []
