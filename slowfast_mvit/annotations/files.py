"""The videos and images below a folder, and which file is taken for an annotated video."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slowfast_mvit.annotations.class_names import ClassIndex
from slowfast_mvit.annotations.records import split_of_folder

VIDEO_SUFFIXES = (
    *(".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".ts", ".mts", ".m2ts", ".3gp", ".ogv", ".vob"),
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

# Archives, and the parts into which that of Something-Something is cut.
_PACKED = re.compile(r".*\.(tar|tar\.gz|tgz|zip|7z|rar)|20bn-.*-[0-9]{2}", re.IGNORECASE)
_KEPT_OTHERS = 1000


@dataclass
class Passed:
    """The files that ``walk`` passed over.

    Attributes:
        unreadable: (folder, reason) of each that cannot be read.
        packed: archives, which must be unpacked first.
        others: the first other files.
        num_others: how many there are.
    """

    unreadable: list[tuple[str, str]] = field(default_factory=list)
    packed: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    num_others: int = 0

    def add(self, path: str) -> None:
        """Count a file that is neither video nor image."""
        if _PACKED.fullmatch(os.path.basename(path)):
            self.packed.append(path)
            return
        self.num_others += 1
        if len(self.others) < _KEPT_OTHERS:
            self.others.append(path)


def walk(
    root: Path,
    passed: Passed,
    *,
    start: str = "",
    images_in: Callable[[str], bool] = lambda folder: False,
) -> Iterator[str]:
    """The videos below a folder at any depth, relative to it; one directory entry at a time.

    Links are followed, hidden files passed over. A folder with images and no videos is a video,
    made of these frames.

    Args:
        root: the folder.
        passed: what is passed over is added.
        start: a folder below ``root``, to walk over it alone.
        images_in: whether each image in a folder without videos is an item of its own.
    """
    parents = root.absolute().parents if not start else (root, *root.absolute().parents)
    waiting = [(start, frozenset(_identity(os.stat(parent)) for parent in parents))]
    while waiting:
        folder, above = waiting.pop()
        place = os.path.join(root, folder)
        try:
            itself = _identity(os.stat(place))
            if itself in above:  # a link to a folder above itself
                continue
            with os.scandir(place) as entries:
                has_videos, images, num_images = False, list[str](), 0
                for entry in entries:
                    name = entry.name
                    path = f"{folder}/{name}" if folder else name
                    if name.startswith("."):
                        continue
                    if is_video(name):
                        has_videos = True
                        yield path
                    elif _is_folder(entry):
                        waiting.append((path, above | {itself}))
                    elif not name.lower().endswith(IMAGE_SUFFIXES):
                        passed.add(path)
                    elif images_in(folder):
                        images.append(path)
                    else:
                        num_images += 1
        except OSError as error:
            passed.unreadable.append((place, error.strerror or str(error)))
            continue
        if not has_videos:
            yield from images
            if num_images and folder != start:
                yield folder
                num_images = 0
            images = []
        passed.num_others += num_images + len(images)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_video(path: str) -> bool:
    """Return whether it is a video by its suffix."""
    return path.lower().endswith(VIDEO_SUFFIXES)


def stem(path: str) -> str:
    """The name of a video without folder and suffix; the whole name of a folder of frames."""
    name = os.path.basename(path)
    has_suffix = name.lower().endswith(VIDEO_SUFFIXES + IMAGE_SUFFIXES)
    return os.path.splitext(name)[0] if has_suffix else name


def best_first(
    paths: Sequence[str],
    *,
    root: Path,
    split: str | None,
    class_name: str | None,
    overrides: Callable[[str], bool] = lambda path: False,
) -> list[str]:
    """The files of one video in the order in which they are preferred.

    First one that is not empty, then one that ``overrides``, then one in a folder named for its
    split, then for its class, then by name.

    Args:
        paths: relative to ``root``, at least one.
        root: the folder of the videos.
        split: of the video.
        class_name: of the video.
        overrides: whether a file replaces others of the same video.
    """
    if len(paths) < 2:
        return list(paths)
    classes = ClassIndex([class_name or ""])

    def order(path: str) -> tuple[bool, bool, bool, bool, str]:
        folders = path.split("/")[:-1]
        in_split = any(split_of_folder(folder) == split for folder in folders)
        in_class = any(classes.find(folder) is not None for folder in folders)
        return not num_bytes(root / path), not overrides(path), not in_split, not in_class, path

    return sorted(paths, key=order)


def num_bytes(path: Path) -> int | None:
    """The size of a file, or of a folder's entry; None for a link that leads nowhere."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None
