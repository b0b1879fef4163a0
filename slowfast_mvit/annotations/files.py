"""The videos and images below a folder, and annotated videos matched with their files."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slowfast_mvit.annotations import records
from slowfast_mvit.annotations.class_names import ClassIndex
from slowfast_mvit.annotations.columns import Strings
from slowfast_mvit.annotations.records import Annotated, ListSource, Problem, Row
from slowfast_mvit.errors import ListError, printable
from slowfast_mvit.storage import leads_to_file

_log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (
    *(".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".ts", ".mts", ".m2ts", ".3gp", ".3g2", ".ogv", ".ogm", ".vob", ".asf", ".f4v", ".qt"),
    *(".mpe", ".m2v", ".mxf", ".divx", ".rm", ".rmvb", ".dv"),
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

# Archives, and the parts into which that of Something-Something is cut.
_PACKED = re.compile(r".*\.(tar|tar\.gz|tgz|zip|7z|rar)|20bn-.*-[0-9]{2}", re.IGNORECASE)
# Folders and files that systems and programs add: of macOS, Synology, Windows, Linux.
_ADDED = {
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"),
    *("lost+found", "thumbs.db", "desktop.ini"),
}

# Reasons why a file is left out.
OTHER = "not a video or an image"
PACKED = "packed archive"
NEXT_TO_VIDEOS = "image next to videos"
EMPTY = "empty file"
BROKEN_LINK = "broken link"
NOT_PLAIN = "not a plain file"
BAD_NAME = "unusable name"


@dataclass
class Passed:
    """The files that are passed over.

    Attributes:
        unreadable: (folder, reason) of each folder that cannot be read.
        packed: archives, which must be unpacked first.
        unusable: (path, reason, detail) of each video that cannot be used.
        counts: the number of files by reason.
        first: the first file of each reason.
    """

    unreadable: list[tuple[str, str]] = field(default_factory=list)
    packed: list[str] = field(default_factory=list)
    unusable: list[tuple[str, str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, reason: str = OTHER) -> None:
        """Count a file; one that is neither video nor image may be an archive."""
        if reason == OTHER and is_packed(path):
            self.packed.append(path)
            reason = PACKED
        self.counts[reason] += 1
        self.first[reason] = min(path, self.first.get(reason, path))

    def __str__(self) -> str:
        """The numbers and the first file of each reason, on one line."""
        shown = {
            reason: printable(path).replace("\n", "\\n") for reason, path in self.first.items()
        }
        return "; ".join(
            f"{count:,} {reason} ({shown[reason]}{', ...' if count > 1 else ''})"
            for reason, count in sorted(self.counts.items())
        )


def walk(
    root: Path,
    passed: Passed,
    *,
    start: str = "",
    images_in: Callable[[str], bool] = lambda folder: False,
) -> Iterator[str]:
    """The videos below a folder at any depth, relative to it; one directory entry at a time.

    Links are followed, hidden files passed over. A folder with images and no videos is a video,
    made of these frames, also where it is named like one.

    Args:
        root: the folder.
        passed: files that are passed over are added.
        start: a folder below ``root``, to walk over it alone.
        images_in: whether each image in a folder without videos is an item.
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
                has_videos, images = False, list[str]()
                for entry in entries:
                    name = entry.name
                    path = f"{folder}/{name}" if folder else name
                    if is_hidden(name):
                        continue
                    if is_folder(entry):
                        waiting.append((path, above | {itself}))
                    elif is_video(name):
                        has_videos = True
                        yield path
                    elif name.lower().endswith(IMAGE_SUFFIXES):
                        images.append(path)
                    else:
                        passed.add(path)
        except OSError as error:
            passed.unreadable.append((place, error.strerror or str(error)))
            continue
        if images and not has_videos and images_in(folder):
            yield from images
        elif images and not has_videos and folder != start:
            yield folder
        else:
            for path in images:
                passed.add(path, NEXT_TO_VIDEOS)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or was added by a system or program."""
    return name.startswith(".") or name.lower() in _ADDED


def is_packed(path: str) -> bool:
    """Return whether it is an archive by its name."""
    return _PACKED.fullmatch(os.path.basename(path)) is not None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_video(path: str) -> bool:
    """Return whether it is a video by its suffix."""
    return path.lower().endswith(VIDEO_SUFFIXES)


def has_suffix(path: str) -> bool:
    """Return whether a path has the suffix of a video or an image."""
    return path.lower().endswith(VIDEO_SUFFIXES + IMAGE_SUFFIXES)


def stem(path: str) -> str:
    """The name of a video without folder and suffix; the whole name of a folder of frames."""
    name = os.path.basename(path)
    return os.path.splitext(name)[0] if has_suffix(name) else name


def missing_and_shared(
    videos: Iterable[tuple[str, Hashable]],
) -> tuple[list[str], list[tuple[str, str]]]:
    """The paths without a file, and pairs of paths that are one file in two groups, by links.

    Args:
        videos: path and group of each video: its split, its class, or both.
    """
    first: dict[Hashable, tuple[str, Hashable]] = {}
    missing, shared = list[str](), list[tuple[str, str]]()
    for path, group in videos:
        try:
            identity: Hashable = _identity(os.stat(path))
        except (OSError, ValueError):  # a member of a shard is no file of its own
            identity = os.path.abspath(path)
            if not leads_to_file(Path(path)):
                missing.append(path)
        other, other_group = first.setdefault(identity, (path, group))
        if other_group != group:
            shared.append((other, path))
    return missing, shared


def best_first(
    paths: Sequence[str],
    row: Row,
    *,
    root: Path,
    overrides: Callable[[str], bool] = lambda path: False,
) -> list[str]:
    """The files of one video in the order in which they are preferred.

    First one that is not empty, then one that ``overrides``, then one in a folder named for its
    split, then for its class, then by name.

    Args:
        paths: relative to ``root``.
        row: the video.
        root: the folder of the videos.
        overrides: whether a file replaces others of the same video.
    """
    if len(paths) < 2:
        return list(paths)
    classes = ClassIndex([row.class_name or ""])

    def order(path: str) -> tuple[bool, bool, bool, bool, str]:
        folders = path.split("/")[:-1]
        in_split = any(records.split_of_folder(folder) == row.split for folder in folders)
        in_class = any(classes.find(folder) is not None for folder in folders)
        file = root / path
        is_empty = not (os.path.exists(file) and os.path.getsize(file))
        return is_empty, not overrides(path), not in_split, not in_class, path

    return sorted(paths, key=order)


# Annotated videos


def with_labels(
    rows: Iterable[Row | Problem],
    class_names: tuple[str, ...],
    file: Path,
    source: ListSource,
    *,
    answers: str = "",
) -> Annotated:
    """The videos of the rows with their class indices, and without paths.

    Args:
        rows: of one file; read once, one at a time.
        class_names: in the order of the class indices.
        file: that of the rows.
        source: the source of the file.
        answers: the file that gives the classes, where it is another.

    Raises:
        ListError: all problems of the rows at once, or there are no rows.
    """
    classes = ClassIndex(class_names)

    def labelled() -> Iterator[tuple[int, str, int] | Problem]:
        for row in rows:
            if isinstance(row, Problem):
                yield row
                continue
            name = row.class_name
            label = None if name is None else classes.find(name)
            if label is not None:
                yield row.line, row.video, label
            elif name is None:
                message = f"{row.video!r} has no label{f' in {answers}' if answers else ''}"
                yield Problem(file, row.line, "label", message)
            else:
                message = f"label {name!r} is not among the class names{classes.hint(name)}"
                yield Problem(file, row.line, "class", message)

    advice = "Copy the annotation file again"
    return records.collect(labelled(), file, source, class_names=class_names, advice=advice)


def with_files(
    videos: Annotated,
    *,
    in_training: bool,
    files_of: Callable[[Iterable[str]], Callable[[str], Sequence[str]]],
    overrides: Callable[[str], bool] = lambda path: False,
    suffix: str,
) -> Annotated:
    """The videos with their files; one without a file is left out of training.

    In testing such a video stays in the list: it fails when it is read, and so is counted.

    Args:
        videos: with labels; their files are below ``videos.folder``.
        in_training: whether the list is for training.
        files_of: makes, of all paths below the folder, what finds the files of a video.
        overrides: whether a file replaces others of the same video.
        suffix: of a file that does not exist.

    Raises:
        ListError: when no video has a file.
    """
    passed, root = Passed(), videos.folder
    find_files = files_of(walk(root, passed))
    for folder, reason in passed.unreadable:
        _log.warning("%s: %s; files in it are not found", folder, reason)
    split = records.split_named_in(videos.source.stem)
    names = videos.class_names or ()

    def best() -> Iterator[str]:
        for video, label in zip(videos.video_ids, videos.labels, strict=True):
            row = Row(video, split, names[label])
            files = best_first(find_files(video), row, root=root, overrides=overrides)
            yield files[0] if files else ""

    paths = Strings(best())
    missing = [video for video, path in zip(videos.video_ids, paths, strict=True) if not path]
    if len(missing) == len(paths):
        raise ListError(
            f"none of its {len(paths):,} videos is there. Looked for {missing[0]}{suffix} and the "
            f"like in {root} and all folders below. Set DATA.PATH_PREFIX to their folder",
            videos.source,
        )
    if missing:
        effect = "are left out of training" if in_training else "count as failed"
        text = f"{len(missing)} of {len(paths)} videos have no file below {root}"
        _log.warning("%s: %s (first: %s); they %s", videos.source, text, missing[0], effect)
    if in_training:
        return videos.with_paths(paths)
    pairs = zip(videos.video_ids, paths, strict=True)
    return videos.with_paths(path or f"{video}{suffix}" for video, path in pairs)
