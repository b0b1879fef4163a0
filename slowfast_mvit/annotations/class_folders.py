"""Folders of classes, ``<split>/<class>/<file>`` or ``<class>/<file>``, without any list."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slowfast_mvit.annotations import records
from slowfast_mvit.annotations.class_names import ClassIndex, class_names_of, spelling_problems
from slowfast_mvit.annotations.columns import columns
from slowfast_mvit.annotations.files import Passed, is_video, stem, walk
from slowfast_mvit.annotations.records import Annotated, ListSource, Problem
from slowfast_mvit.errors import ListError

_log = logging.getLogger(__name__)

HELD_OUT = 5  # without folders of splits one in so many files of a class is held out


@dataclass
class ClassFolders:
    """The class folders below a folder.

    Attributes:
        root: the folder of the class folders, or of the folders of splits.
        splits: the name of the folder of each split; {} where there are none.
        names: of the class folders of all splits, sorted: a class that one split lacks must not
            shift the others.
        images: whether each image in any folder is an item, as in ImageNet.
        passed: the files that were passed over in them.
        problems: their problems.
    """

    root: Path
    splits: dict[str, str]
    names: list[str] = field(default_factory=list)
    images: bool = False
    passed: Passed = field(default_factory=Passed)
    problems: list[Problem] = field(default_factory=list)

    def folder_of(self, split: str | None) -> Path:
        """The folder of the class folders of a split, or of all where there are no splits."""
        return self.root / self.splits[split] if split else self.root

    def files(self, split: str | None, name: str) -> list[str]:
        """The videos of one class as ``<class>/<file>``, sorted.

        A file may be deeper in its class folder. Images directly in it, without videos next to
        them, are items; a folder of images is a video.

        Raises:
            ListError: when a folder cannot be read.
        """
        folder = self.folder_of(split)
        if not (folder / name).is_dir():  # a class that only another split has
            return []

        found = walk(
            folder, self.passed, start=name, images_in=lambda place: self.images or place == name
        )
        files = sorted(found)
        for place, reason in self.passed.unreadable:
            raise ListError(f"cannot be read ({reason})", place)
        first: dict[str, str] = {}
        for file in files:
            other = first.setdefault(os.path.join(os.path.dirname(file), stem(file)), file)
            if other != file:  # most likely the same video twice
                message = f"{other!r} and {file!r} differ only in suffix. Keep one of them"
                self.problems.append(Problem(folder, 0, "duplicate", message))
        return files


def find_class_folders(folder: Path) -> ClassFolders:
    """The class folders ``<class>/`` or ``<split>/<class>/`` below a folder.

    Folders that contain only one other folder, as archives have them, are passed through. Folders
    are those of splits where two have such names, or all that contain videos: one class may be
    called "test".
    """
    root = folder
    while len(inside := sub_folders(root)) == 1 and not records.split_of_folder(inside[0]):
        if not sub_folders(root / inside[0]) or any(_loose_videos(root)):
            break
        root = root / inside[0]
    named: dict[str, str] = {}
    problems: list[Problem] = []
    for name in sorted(inside, key=lambda name: (name.lower() not in records.SPLIT_NAMES, name)):
        split = records.split_of_folder(name)
        first = named.setdefault(split, name) if split else name
        if first != name:
            message = f"folders {first!r} and {name!r} are the same split"
            problems.append(Problem(root, 0, "split", message))
    others = [
        name for name in inside if records.split_of_folder(name) is None and _has_videos(root, name)
    ]
    if len(named) < 2 and (others or not named):
        named, problems, others = {}, [], []
    found = ClassFolders(root, named, problems=problems)
    roots = [found.folder_of(split) for split in named] or [root]
    found.names = sorted({name for place in roots for name in sub_folders(place)})
    loose = (os.path.relpath(p / name, root) for p in roots for name in _loose_videos(p))
    found.problems += [
        Problem(root, 0, "outside", f"{path!r} is in no class folder") for path in (*others, *loose)
    ]
    found.problems += spelling_problems(found.names, root, "class folders")
    return found


def sub_folders(place: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    return [entry.name for entry in _entries(place) if entry.is_dir()]


def _loose_videos(place: Path) -> list[str]:
    return [entry.name for entry in _entries(place) if is_video(entry.name)]


def _entries(place: Path) -> list[os.DirEntry[str]]:
    with os.scandir(place) as entries:
        return sorted((e for e in entries if e.name[0] != "."), key=lambda entry: entry.name)


def _has_videos(root: Path, name: str) -> bool:
    return next(walk(root, Passed(), start=name, images_in=lambda inside: True), None) is not None


# Training


def read_folders(source: ListSource) -> Annotated:
    """Read ``<split>/<class>/<file>`` or, without folders of splits, ``<class>/<file>``.

    Without folders ``train``, ``val`` or ``test``, a fifth of each class is held out: validation
    and testing read it, training the rest. Which files these are follows from their names alone.

    Raises:
        ListError: there is nothing to read, or the folders do not fit ``source.num_classes``.
    """
    records.check_folder(source.folder)
    folders = find_class_folders(source.folder)
    split = source.split if folders.splits else None
    if split == "test" and split not in folders.splits and "val" in folders.splits:
        split, read = "val", folders.splits["val"]
        _log.info("%s: no test, so testing reads %s", source.folder, read)
    if split and split not in folders.splits:
        raise records.not_found(folders.root / split, "no such folder")
    return list_of_files(source, folders, split)


def list_of_files(source: ListSource, folders: ClassFolders, split: str | None) -> Annotated:
    """The files of one split of class folders as columns; passed over files are a warning.

    Args:
        source: the source of the class folders.
        folders: the class folders.
        split: the split to read, or None where there are none: a fifth of each class is then for
            validation and testing.
    """
    root, hold_out = folders.folder_of(split), split is None
    class_names, index_of = _classes(source, root, folders.names)
    sizes: list[tuple[int, int]] = []  # of each class: files, and how many are held out

    def rows() -> Iterator[tuple[int, str, int]]:
        for name, index in index_of.items():
            files = folders.files(split, name)
            held_out = _held_out(files) if hold_out else set[str]()
            sizes.append((len(files), len(held_out)))
            for file in files:
                if not hold_out or (file in held_out) == (source.split != "train"):
                    yield 0, file, index

    files, labels, _ = columns(rows())
    num_files = sum(size for size, _ in sizes)
    others = sorted(folders.passed.others)
    if not num_files:
        found = f"; found {records.first_few(others)}" if others else ""
        text = f"no videos or images. Expected folders of classes with files in them{found}"
        raise ListError(text, root)
    for problem in folders.problems:
        _log.warning("%s: %s", problem.file, problem)
    if others:
        num_others, shown = folders.passed.num_others, records.first_few(others)
        _log.warning("%s: %d other files are left out: %s", root, num_others, shown)
    empty = [name for name, (size, _) in zip(folders.names, sizes, strict=True) if not size]
    if empty and source.split == "train":
        _log.warning("%s: no videos of class %s", root, records.first_few(empty))
    if hold_out:
        _report_held_out(source, num_files, sum(held_out for _, held_out in sizes))
    prefix = source.folder_of_paths / root.relative_to(source.folder)
    return Annotated(files, labels, None, prefix, root, class_names)


def _classes(
    source: ListSource, root: Path, folders: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The class names, and the class index of each folder.

    Class names that match folders give their indices; names of another kind (``tench`` for
    ``n01440764``) are taken in the order of the folders, numeric where these are numbers.
    """
    names = class_names_of(source)
    in_order = list(folders)
    if names is not None:
        classes = ClassIndex(names)
        indices = {name: classes.find(name) for name in folders}
        known = {name: index for name, index in indices.items() if index is not None}
        if len(known) == len(indices):
            return names, known
        if len(names) != len(indices) or known:
            file = Path(source.class_names_path or root)
            text = "folder {!r} is not among the class names"
            records.raise_problems(
                Problem(file, 0, "class", text.format(name))
                for name in folders
                if name not in known
            )
        if all(name.isdecimal() for name in folders):
            in_order.sort(key=int)
    elif source.num_classes not in (None, len(folders)):
        raise ListError(
            f"{len(folders)} folders of classes, but MODEL.NUM_CLASSES is {source.num_classes}. "
            f"Set MODEL.NUM_CLASSES {len(folders)}, remove what is no class "
            f"({records.first_few(folders)}), or name all classes in classes.txt or "
            "DATA.CLASS_NAMES_PATH",
            root,
        )
    index_of = {name: index for index, name in enumerate(in_order)}
    return names or tuple(in_order), {name: index_of[name] for name in folders}


# A folder without splits


def _held_out(files: Sequence[str]) -> set[str]:
    """One in ``HELD_OUT`` files of a class, at least one where it has two: those whose names have
    the lowest hashes, so that files that are added later hardly move the others."""

    def hash_of_name(file: str) -> bytes:
        name = file.partition("/")[2]  # without the class
        return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()

    count = max(round(len(files) / HELD_OUT), 1) if len(files) > 1 else 0
    return set(sorted(files, key=hash_of_name)[:count])


def _report_held_out(source: ListSource, num_files: int, num_held_out: int) -> None:
    if not num_held_out:
        raise ListError(
            "every class has a single file, so none can be held out for validation. Add files, or "
            "sort them into folders train and val",
            source.folder,
        )
    text = (
        f"no folders train and val, so of its {num_files} videos {num_held_out} (a fifth of each "
        "class, by their names) are held out for validation and testing; this reads "
        f"{'the others' if source.split == 'train' else 'those'}"
    )
    _log.info("%s: %s", source.folder, text)
