"""Lists of videos: what their files look like, and the columns they become in memory.

A list is checked as a whole when it is read: every problem is reported at once, with its line, so
that nobody finds the second typing error an epoch after the first.

    train.csv                  path label                one video a line        read_csv
    something-something-v2     labels.json, train.json   one video an entry      ssv2_lists.py
    class folders              train/<class>/<image>     one image a file        read_class_folders
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from slowfast_mvit.errors import ListError, in_one_message, nearest
from slowfast_mvit.structures import VideoRecord

_log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

_SHOWN_PROBLEMS = 20
_PROBED_ENTRIES = 5  # how many of the first entries decide where relative paths start
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters or more: C: is a Windows drive


class _Strings(Sequence[str]):
    """Strings in one block of bytes: worker processes share it, and 650,000 paths cost 40 MB."""

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        self._blob = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        start, end = self._ends[index], self._ends[index + 1]
        return self._blob[start:end].decode("utf-8", "surrogateescape")


class VideoList(Sequence[VideoRecord]):
    """The videos of one list, as columns; a record is made when it is asked for.

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
        self._video_ids = _Strings(video_ids)
        self._paths = self._video_ids if paths is None else _Strings(paths)
        self._folder = Path(folder)
        self.labels = np.array(list(labels), dtype=np.int64)
        self.labels.flags.writeable = False
        self.class_names = class_names
        self.source = str(source)
        if not len(self._video_ids) == len(self._paths) == len(self.labels):
            raise ValueError("video_ids, paths and labels must be equally many")

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> VideoRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[VideoRecord]: ...
    def __getitem__(self, index: int | slice) -> VideoRecord | list[VideoRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        i = range(len(self))[index]  # raises IndexError, and turns -1 into the last
        path = self._folder / self._paths[i]
        return VideoRecord(self._video_ids[i], str(path), int(self.labels[i]))

    def __iter__(self) -> Iterator[VideoRecord]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"VideoList({len(self):,} videos from {self.source!r})"


@dataclass(frozen=True)
class ListSource:
    """Where a list is looked for and how it is to be read.

    Attributes:
        folder: ``DATA.PATH_TO_DATA_DIR``.
        split: "train", "val" or "test".
        path_prefix: ``DATA.PATH_PREFIX``; "" for the list's own folder.
        separator: ``DATA.PATH_LABEL_SEPARATOR``.
        num_classes: labels must be below this; None to accept any.
    """

    folder: Path
    split: str
    path_prefix: str = ""
    separator: str = " "
    num_classes: int | None = None

    @property
    def must_be_unique(self) -> bool:
        """Whether a video may be listed only once: scores are kept by video, training is not."""
        return self.split != "train"


# Reading a Kinetics list


def read_csv(source: ListSource) -> VideoList:
    """Read ``<split>.csv`` of a folder: a path and a label on each line.

    Fields are separated by ``source.separator`` or by a tab, and may be quoted. As in PySlowFast
    a line holds ``path label``, ``path number_of_frames label`` (the middle one is not read) or a
    path alone (its label is 0). A mark at the start of the file (BOM), Windows line ends, blank
    lines and a header such as ``path label`` do no harm.

    Raises:
        ListError: all problems of the list at once.
    """
    file = find_split(source, suffix=".csv")
    paths, labels, lines = [], [], []
    problems = []
    for line, text in _lines(file):
        fields, problem = _fields(text, source.separator)
        if line == 1 and _is_header(fields):
            continue
        path, label = fields[0].strip(), fields[-1].strip() if len(fields) > 1 else "0"
        problem = problem or _row_problem(fields, path, label, source)
        if problem:
            problems.append((line, problem))
        else:
            paths.append(path)
            labels.append(int(label))
            lines.append(line)
    problems += label_problems(labels, lines, source.num_classes)
    problems += _duplicates(paths, lines, file, source.must_be_unique)
    raise_problems(file, problems)
    if not paths:
        raise ListError(f"{file}: the list is empty. Write one video a line: path, a space, label")
    folder = _folder_of_paths(file, paths, source.path_prefix)
    return VideoList(paths, labels, folder=folder, source=file)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    try:
        with open(file, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise ListError(f"{file}: not a text in UTF-8 ({error.reason}). Save it as UTF-8") from None


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
    return path_problem(path)


def path_problem(path: str) -> str | None:
    """What makes a path of a list unusable, or None: lists may name local files only."""
    if not path:
        return "the path is empty"
    if "\0" in path or "\n" in path or "\r" in path:
        return f"path {path!r} holds a character that no path may hold"
    if _SCHEME.match(path):
        return f"path {path!r} is a URL or names a protocol. Copy the video to a local folder"
    return None


def _is_whole_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,9}", text) is not None


def label_problems(
    labels: Sequence[int], lines: Sequence[int], num_classes: int | None
) -> list[tuple[int, str]]:
    """The labels outside 0 to ``num_classes`` - 1, with their lines."""
    if num_classes is None:
        return [
            (line, f"label {label} is below 0")
            for line, label in zip(lines, labels, strict=True)
            if label < 0
        ]
    return [
        (
            line,
            f"label {label} is outside 0 to {num_classes - 1} (MODEL.NUM_CLASSES is {num_classes})",
        )
        for line, label in zip(lines, labels, strict=True)
        if not 0 <= label < num_classes
    ]


def _duplicates(
    paths: list[str], lines: list[int], file: Path, must_be_unique: bool
) -> list[tuple[int, str]]:
    first_line: dict[str, int] = {}
    doubled = [
        (line, f"{path!r} is also on line {first_line[path]}. List each video once")
        for path, line in zip(paths, lines, strict=True)
        if first_line.setdefault(path, line) != line
    ]
    if doubled and not must_be_unique:
        line, what = doubled[0]
        _log.warning(
            "%s: %d lines repeat a video that was listed before (first: line %d, %s); "
            "such videos are trained on once for each line",
            file,
            len(doubled),
            line,
            what.split(" is also")[0],
        )
        return []
    return doubled


def raise_problems(file: Path, problems: Iterable[tuple[int, str]], what: str = "line") -> None:
    """Raise one ``ListError`` for all (line or entry, problem), the first twenty written out."""
    ordered = [f"{what} {line}: {problem}" for line, problem in sorted(problems)]
    if not ordered:
        return
    message = in_one_message(str(file), ordered).splitlines()
    if len(ordered) > _SHOWN_PROBLEMS:
        hidden = len(ordered) - _SHOWN_PROBLEMS
        message = [*message[: 1 + _SHOWN_PROBLEMS], f"  and {hidden:,} more"]
    raise ListError("\n".join(message))


def _folder_of_paths(file: Path, paths: Sequence[str], path_prefix: str) -> Path:
    """What relative paths start from: the prefix if given, else the first place that has them."""
    if path_prefix:
        return Path(path_prefix)
    probed = paths[:_PROBED_ENTRIES]
    if not any((file.parent / path).exists() for path in probed) and any(
        Path(path).exists() for path in probed
    ):
        _log.info("%s: paths start from the working folder, since %s lacks them", file, file.parent)
        return Path()
    return file.parent


# Reading folders of classes


def read_class_folders(source: ListSource) -> VideoList:
    """Read ``<split>/<class>/<image>``: classes are the folders in the order of their names.

    Raises:
        ListError: when there is no such folder, or it holds no images.
    """
    root = find_split(source, suffix="")
    prefix = Path(source.path_prefix) / root.name if source.path_prefix else root
    class_names = tuple(sorted(folder.name for folder in root.iterdir() if folder.is_dir()))
    paths, labels = [], []
    for label, name in enumerate(class_names):
        files = sorted(entry.name for entry in (root / name).iterdir())
        images = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
        paths += [f"{name}/{image}" for image in images]
        labels += [label] * len(images)
    if not paths:
        raise ListError(f"{root}: no images. Expected folders of classes with images in them")
    if source.num_classes is not None and len(class_names) > source.num_classes:
        raise ListError(
            f"{root}: {len(class_names)} folders of classes, but MODEL.NUM_CLASSES is "
            f"{source.num_classes}"
        )
    return VideoList(paths, labels, folder=prefix, class_names=class_names, source=root)


# Finding files


def find_split(source: ListSource, suffix: str) -> Path:
    """The file (or folder, for suffix "") of a split; testing takes ``val`` where no ``test`` is.

    Raises:
        ListError: when there is none; names what the folder holds instead.
    """
    folder = source.folder
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        hint = " Give the folder that holds it" if folder.exists() else nearest_path(folder)
        raise ListError(f"{folder}: {what} (DATA.PATH_TO_DATA_DIR).{hint}")
    exists: Callable[[Path], bool] = Path.is_file if suffix else Path.is_dir
    wanted = folder / f"{source.split}{suffix}"
    if exists(wanted):
        return wanted
    instead = folder / f"val{suffix}"
    if source.split == "test" and exists(instead):
        _log.info("%s: no %s, so testing reads %s", folder, wanted.name, instead.name)
        return instead
    what = "no such file" if suffix else "no such folder"
    raise ListError(f"{wanted}: {what}.{nearest_path(wanted)}")


def nearest_path(path: Path) -> str:
    """What stands where ``path`` should be: the nearest name, or the first few."""
    if not path.parent.is_dir():
        return f" {path.parent} does not exist either"
    names = sorted(entry.name for entry in path.parent.iterdir())
    if not names:
        return f" {path.parent} is empty"
    guess = nearest(path.name, names)
    if guess:
        return f" Did you mean {guess}?"
    more = ", ..." if len(names) > 8 else ""
    return f" {path.parent} holds: {', '.join(names[:8])}{more}"


def read_json(file: Path) -> object:
    """The content of a JSON file.

    Raises:
        ListError: when it is missing or not JSON; names the line.
    """
    if not file.is_file():
        raise ListError(f"{file}: no such file.{nearest_path(file)}")
    try:
        return json.loads(file.read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ListError(f"{file}: not a JSON file ({error})") from None
