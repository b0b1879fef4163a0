"""The videos below a folder, and how a list names them."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from slowfast_mvit.data.listing.folder_lists import VIDEO_SUFFIXES
from slowfast_mvit.data.lists import IMAGE_SUFFIXES, path_problem
from slowfast_mvit.errors import UserError, in_one_message

# Archives, and the parts into which that of Something-Something is cut.
_PACKED = re.compile(r".*\.(tar|tar\.gz|tgz|zip|7z|rar)|20bn-.*-[0-9]{2}", re.IGNORECASE)

# A first line such as "video 0" would be taken for the header of a list.
_HEADER_WORDS = ("path", "filename", "file", "video", "label", "original_vido_id")

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Found:
    """A video on disk.

    Attributes:
        path: relative to the folder that was listed.
        num_bytes: its size; None for a folder of frames, and for a link that leads nowhere.
        is_folder: whether it is a folder of frames.
    """

    path: str
    num_bytes: int | None
    is_folder: bool = False

    @property
    def stem(self) -> str:
        """Its name without folder and suffix."""
        name = os.path.basename(self.path)
        return name if self.is_folder else os.path.splitext(name)[0]


@dataclass(frozen=True, slots=True)
class Tree:
    """What lies below a folder.

    Attributes:
        videos: files that are videos by their suffix, and folders of frames, by path.
        packed: archives, which nothing reads before they are unpacked.
        others: how many other files there are.
    """

    videos: list[Found]
    packed: list[str]
    others: int


def list_tree(root: Path, *, images: bool = False) -> Tree:
    """List the videos below a folder, links followed and hidden files passed over.

    Args:
        root: the folder.
        images: whether an image is an item of its own; else a folder with images and no videos
            is a video, made of these frames.

    Raises:
        UserError: when it is no folder, or folders below cannot be read (all of them named).
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "no such folder"
        raise UserError(f"{root}: {what}. Give the folder of the videos")
    suffixes = VIDEO_SUFFIXES + (IMAGE_SUFFIXES if images else ())
    videos, packed, others = [], [], 0
    unreadable: list[str] = []
    with tqdm(desc=f"listing {root}", unit=" files", delay=2, leave=False) as progress:
        for folder, files in _walk(root, unreadable):
            progress.update(len(files))
            found = [file for file in files if file.name.lower().endswith(suffixes)]
            archives = [_join(folder, file.name) for file in files if _is_packed(file.name)]
            frames = sum(file.name.lower().endswith(IMAGE_SUFFIXES) for file in files)
            if frames and not found and folder:
                videos.append(Found(folder, None, is_folder=True))
            else:
                others += len(files) - len(found) - len(archives)
            packed += archives
            videos += [Found(_join(folder, file.name), _size(file)) for file in found]
    if unreadable:
        where = f"{root}: folders that cannot be read"
        raise UserError(in_one_message(where, shortened(sorted(unreadable))))
    return Tree(sorted(videos, key=lambda video: video.path), sorted(packed), others)


def _walk(root: Path, unreadable: list[str]) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Each folder and its files; a link to a folder above itself is not entered again."""
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        folder, above = waiting.pop()
        place = os.path.join(root, folder)
        try:
            status = os.stat(place)
            with os.scandir(place) as scan:
                entries = list(scan)
        except OSError as error:
            unreadable.append(f"{place}: {error.strerror}")
            continue
        itself = (status.st_dev, status.st_ino)
        if itself in above:
            continue
        visible = [entry for entry in entries if not entry.name.startswith(".")]
        folders = {entry.name for entry in visible if _is_folder(entry)}
        waiting += [(_join(folder, name), above | {itself}) for name in folders]
        yield folder, [entry for entry in visible if entry.name not in folders]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _size(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_size
    except OSError:  # a link that leads nowhere, or in a circle
        return None


def _is_packed(name: str) -> bool:
    return _PACKED.fullmatch(name) is not None


def shortened(problems: Sequence[str]) -> list[str]:
    """The first twenty, and how many more there are."""
    more = len(problems) - _SHOWN
    return [*problems[:_SHOWN], *([f"and {more:,} more"] if more > 0 else [])]


# Names in lists


def usable_path(path: str) -> tuple[str, str]:
    """A path as a list holds it, and what makes that impossible ("" if nothing).

    Lists are UTF-8 with one video a line, and spaces round a path are not part of it.
    """
    written = path
    if path_problem(path) or path.lower() in _HEADER_WORDS or path[:1].isspace():
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
