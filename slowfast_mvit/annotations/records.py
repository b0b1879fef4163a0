"""The records of annotations and of their problems, the names of splits, and the shared checks."""

from __future__ import annotations

import logging
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from slowfast_mvit.annotations.columns import Strings, columns, repeats
from slowfast_mvit.errors import ListError, as_lines, nearest

T = TypeVar("T")

_log = logging.getLogger(__name__)

SHOWN_PROBLEMS = 20

# The names under which the list (or the folder) of a split is searched, in this order.
SPLIT_NAMES = {
    "train": ("train",),
    "val": ("val", "validate", "validation"),
    "test": ("test", "val", "validate", "validation"),
}
_SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "eval", "dev"), "val"),
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
        folder: the start of relative paths.
        source: the annotation file or folder, for messages.
        class_names: in the order of the class indices, or None where unknown.
    """

    video_ids: Strings
    labels: array[int]
    paths: Strings | None
    folder: Path
    source: Path
    class_names: tuple[str, ...] | None = None

    def with_paths(self, paths: Iterable[str]) -> Annotated:
        """The videos with these paths, one for each; a video whose path is "" is left out."""
        column = Strings(paths)
        videos = Strings(v for v, path in zip(self.video_ids, column, strict=True) if path)
        labels = array("q", (n for n, path in zip(self.labels, column, strict=True) if path))
        return replace(self, video_ids=videos, labels=labels, paths=Strings(filter(None, column)))


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

    @property
    def folder_of_paths(self) -> Path:
        """The folder of relative paths: the prefix, or else the folder of the list."""
        return Path(self.path_prefix or self.folder)


# Problems


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in an annotation that cannot be used.

    Attributes:
        file: the annotation file, or the folder.
        line: of the file, or the number of the entry, from 1; 0 where there is none.
        kind: "text", "columns", "path", "id", "time", "split", "label" (it is missing or wrong),
            "class" (it is not among the classes), "duplicate", "frames", "spelling" (two classes
            that differ in nothing else), "outside" (of the class folders), "empty" or "single" (a
            class without videos, or with one).
        message: the fault, what is allowed and what to do.
    """

    file: Path
    line: int
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{unit_of(self.file)} {self.line}: {self.message}" if self.line else self.message


def unit_of(file: Path) -> str:
    """The unit that is counted in a file: "line", or "entry" in JSON."""
    return "entry" if file.suffix == ".json" else "line"


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise one error for all problems of a file, the first twenty written out.

    Args:
        problems: none, or those of one file or folder. The error has all of them as ``problems``,
            in the order of the lines.
    """
    ordered = sorted(problems, key=lambda problem: problem.line)
    if ordered:
        error = ListError(as_lines(map(str, ordered), limit=SHOWN_PROBLEMS), ordered[0].file)
        error.problems = tuple(ordered)
        raise error


def without_problems(rows: Iterable[T | Problem], problems: list[Problem]) -> Iterator[T]:
    """The rows that can be used; the problems between them are added to ``problems``."""
    for row in rows:
        if isinstance(row, Problem):
            problems.append(row)
        else:
            yield row


def usable_rows(rows: Iterable[T | Problem]) -> list[T]:
    """The rows of a file; raises a ``ListError`` with all problems where there are any."""
    problems: list[Problem] = []
    usable = list(without_problems(rows, problems))
    raise_problems(problems)
    return usable


def not_found(path: Path, what: str = "no such file") -> ListError:
    """The error for a path that does not exist, with the nearest name or the first few."""
    return ListError(f"{what}.{_instead_of(path)}", path)


def _instead_of(path: Path) -> str:
    if path.is_dir():
        return " It is a folder"
    if path.is_symlink():
        return f" It is a link to {os.readlink(path)}, which does not exist"
    if not path.parent.is_dir():
        return f" {path.parent} does not exist either"
    names = sorted(entry.name for entry in path.parent.iterdir())
    guess = nearest(path.name, names)
    if guess:
        return f" Did you mean {guess}?"
    return f" Its folder contains {first_few(names, 8) or 'nothing'}"


def first_few(names: Sequence[str], limit: int = 5) -> str:
    """The first of these names, and dots where there are more."""
    return ", ".join([*names[:limit], *(["..."] if len(names) > limit else [])])


def not_readable(file: str | Path, error: OSError) -> ListError:
    """The error for a file or folder that exists and cannot be read."""
    return ListError(f"cannot be read ({error.strerror})", file)


# Splits


def split_of_folder(name: str) -> str | None:
    """The split that a folder is named for, or None: ``Validation`` -> "val"."""
    return _SPLIT_OF_WORD.get(name.lower())


def split_named_in(text: str) -> str | None:
    """The split in the name of a file: ``kinetics_700_validate`` -> "val"."""
    words = set(re.split(r"[^a-z]+", text.lower()))
    if "holdout" in words:
        return "holdout_test"
    splits = {_SPLIT_OF_WORD[word] for word in words & _SPLIT_OF_WORD.keys()}
    return splits.pop() if len(splits) == 1 else None


def find_split(source: ListSource, suffix: str) -> Path:
    """The file (or folder, for suffix "") of a split; testing takes ``val`` where no ``test`` is.

    Raises:
        ListError: when there is none; names what the folder contains instead.
    """
    check_folder(source.folder)
    exists: Callable[[Path], bool] = Path.is_file if suffix else Path.is_dir
    names = [f"{name}{suffix}" for name in SPLIT_NAMES[source.split]]
    found = next((name for name in names if exists(source.folder / name)), None)
    if found is None:
        raise not_found(source.folder / names[0], f"no such {'file' if suffix else 'folder'}")
    if source.split == "test" and found != names[0]:
        _log.info("%s: no %s, so testing reads %s", source.folder, names[0], found)
    return source.folder / found


def check_folder(folder: Path) -> None:
    """Raise a ``ListError`` unless ``DATA.PATH_TO_DATA_DIR`` is a folder."""
    if folder.is_dir():
        return
    if folder.exists():
        raise ListError("is a file (DATA.PATH_TO_DATA_DIR). Give the folder that it is in", folder)
    raise not_found(folder, "no such folder (DATA.PATH_TO_DATA_DIR)")


# Checks


def path_problem(path: str) -> str | None:
    """The problem of a path of a list, or None: lists may name local files only."""
    if not path:
        return "the path is empty"
    if "\0" in path or "\n" in path or "\r" in path:
        return f"path {path!r} contains a character that no path may contain"
    if _SCHEME.match(path):
        problem = f"path {path!r} is a URL or names a protocol. Copy the video to a local folder"
        is_url = "/" in path or "\\" in path
        return problem if is_url else f"{problem}; if that is a file's name, write './{path}'"
    return None


def entry_fault(path: str, label: int, num_classes: int | None) -> tuple[str, str] | None:
    """The problem of a path, or of a label outside of 0 to ``num_classes`` - 1: kind, message."""
    problem = path_problem(path)
    if problem:
        return "path", problem
    if num_classes is not None and not 0 <= label < num_classes:
        allowed = f"0 to {num_classes - 1} (MODEL.NUM_CLASSES is {num_classes})"
        return "label", f"label {label} is outside {allowed}"
    if not 0 <= label <= _MAX_LABEL:
        return "label", f"label {label} is {'below 0' if label < 0 else f'above {_MAX_LABEL}'}"
    return None


def collect(
    rows: Iterable[tuple[int, str, int] | Problem],
    file: Path,
    source: ListSource,
    *,
    class_names: tuple[str, ...] | None = None,
    advice: str = "",
    folder_of: Callable[[Strings], Path] | None = None,
) -> Annotated:
    """Collect the rows of one file as columns.

    Args:
        rows: (line, video, label), or the problem of a line; read once, one at a time.
        file: that of the rows.
        source: the source of the file.
        class_names: in the order of the labels.
        advice: a sentence for the error of a file without rows.
        folder_of: gives the folder of the videos, whose names are paths then; by default it is that
            of ``source``.

    Raises:
        ListError: all problems of the rows at once, or there are no rows.
    """
    problems: list[Problem] = []
    videos, labels, lines = columns(without_problems(rows, problems))
    folder = folder_of(videos) if folder_of else source.folder_of_paths
    problems += _duplicates(videos, labels, lines, file, source, folder)
    raise_problems(problems)
    if not videos:
        raise ListError(f"the list is empty{advice and f'. {advice}'}", file)
    return Annotated(videos, labels, None, folder, file, class_names)


def _duplicates(
    names: Strings,
    labels: Sequence[int],
    lines: Sequence[int],
    file: Path,
    source: ListSource,
    folder: Path,
) -> list[Problem]:
    """The videos that were listed before; in training one warning instead.

    One path may be written in several ways: a.mp4, ./a.mp4, b/../a.mp4.
    """

    def place_of(name: str) -> str:
        return os.path.normpath(os.path.join(folder, name))

    repeated, unit = list(repeats(names, place_of)), unit_of(file)
    if source.must_be_unique:
        text = "{!r} is also on {} {}{}. List each video once"
        return [
            Problem(
                file,
                lines[i],
                "duplicate",
                text.format(names[i], unit, lines[first], _as_other(names[i], names[first])),
            )
            for i, first in repeated
        ]
    if repeated:
        first, count = repeated[0][0], len(repeated)
        plural = {"line": "lines", "entry": "entries"}[unit]
        found = f"1 {unit} repeats" if count == 1 else f"{count} {plural} repeat"
        text = (
            f"{found} a video that was listed before (first: {unit} {lines[first]}, "
            f"{names[first]!r}); such videos are trained on once for each"
        )
        other = next((i for i, before in repeated if labels[i] != labels[before]), None)
        if other is not None:
            text += f". Labels differ: {unit} {lines[other]} gives {labels[other]}"
        _log.warning("%s: %s", file, text)
    return []


def _as_other(name: str, first: str) -> str:
    return "" if name == first else f", as {first!r}"
