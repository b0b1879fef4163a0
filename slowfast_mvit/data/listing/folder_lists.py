"""Folders of classes, ``<split>/<class>/<file>`` or ``<class>/<file>``; ImageNet's two forms."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from slowfast_mvit.data.listing.class_names import ClassIndex, class_names_of
from slowfast_mvit.data.listing.texts import json_entries, raise_problems
from slowfast_mvit.data.lists import (
    IMAGE_SUFFIXES,
    SPLIT_NAMES,
    ListSource,
    VideoList,
    check_folder,
    columns,
    duplicate_problems,
    find_split,
    label_problem,
    path_problem,
)
from slowfast_mvit.errors import ListError, in_one_message

_log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (
    *(".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".ts", ".mts", ".m2ts", ".3gp", ".ogv", ".vob"),
)

HELD_OUT = 5  # without folders of splits one in so many files of a class is held out

_SHOWN_NAMES = 5
_WORDNET_ID = re.compile(r"n[0-9]+")

Taken = Callable[[os.DirEntry[str]], bool]


def read_folders(source: ListSource) -> VideoList:
    """Read ``<split>/<class>/<file>`` or, without folders of splits, ``<class>/<file>``.

    A file is a video or an image; a folder of images is a video too. Without folders ``train``,
    ``val`` or ``test``, a fifth of each class is held out: validation and testing read it, training
    the rest. Which files these are follows from their names alone.

    Raises:
        ListError: there is nothing to read, or the folders do not fit ``source.num_classes``.
    """
    check_folder(source.folder)
    split_folders = _split_folders(source.folder)
    root = find_split(source, suffix="") if split_folders else source.folder
    class_folders = _class_folders(split_folders or [root])
    return _list_of_files(source, root, class_folders, _is_video, hold_out=not split_folders)


def read_imagenet(source: ListSource) -> VideoList:
    """Read ``<split>.json``, [{"im_path": ..., "class": 0}, ...], or ``<split>/<class>/<image>``.

    As in PySlowFast, folders named like ``n01440764`` are the classes; other folders are classes
    only where none is named so.

    Raises:
        ListError: all problems of the list at once.
    """
    check_folder(source.folder)
    names = [f"{name}.json" for name in SPLIT_NAMES[source.split]]
    if any((source.folder / name).is_file() for name in names):
        return _read_image_json(source)
    root = find_split(source, suffix="")
    class_folders = _class_folders(_split_folders(source.folder))
    wordnet = [name for name in class_folders if _WORDNET_ID.fullmatch(name)]
    return _list_of_files(source, root, wordnet or class_folders, _is_image, hold_out=False)


# Folders


def _split_folders(folder: Path) -> list[Path]:
    names = dict.fromkeys(name for names in SPLIT_NAMES.values() for name in names)
    return [folder / name for name in names if (folder / name).is_dir()]


def _class_folders(folders: Sequence[Path]) -> list[str]:
    """The classes of all splits: a class that one split lacks must not shift the others."""
    return sorted(
        {
            entry.name
            for folder in folders
            for entry in os.scandir(folder)
            if entry.is_dir() and not entry.name.startswith(".")
        }
    )


def _list_of_files(
    source: ListSource, root: Path, class_folders: Sequence[str], is_taken: Taken, *, hold_out: bool
) -> VideoList:
    class_names, index_of = _classes(source, root, class_folders)
    ignored = _loose_files(root, is_taken)
    sizes: list[tuple[int, int]] = []  # of each class: files, and how many are held out

    def rows() -> Iterator[tuple[int, str, int]]:
        for name in class_folders:
            names = _files_of_class(root / name, is_taken, ignored)
            held_out = _held_out(names) if hold_out else set[str]()
            sizes.append((len(names), len(held_out)))
            for file in names:
                if not hold_out or (file in held_out) == (source.split != "train"):
                    yield 0, f"{name}/{file}", index_of[name]

    files, labels, _ = columns(rows())
    num_files = sum(size for size, _ in sizes)
    if not num_files:
        found = f"; found {_shortened(ignored)}" if ignored else ""
        raise ListError(
            f"{root}: no videos or images. Expected folders of classes with files in them{found}"
        )
    if ignored:
        what = "no video or image, or not directly in the folder of a class"
        shown = _shortened(ignored)
        _log.warning("%s: left out %d entries that are %s: %s", root, len(ignored), what, shown)
    empty = [name for name, (size, _) in zip(class_folders, sizes, strict=True) if not size]
    if empty and source.split == "train":
        _log.warning("%s: no videos of class %s", root, _shortened(empty))
    if hold_out:
        _tell_of_held_out(source, num_files, sum(held_out for _, held_out in sizes))
    prefix = Path(source.path_prefix or source.folder) / root.relative_to(source.folder)
    return VideoList(files, labels, folder=prefix, class_names=class_names, source=root)


def _loose_files(root: Path, is_taken: Taken) -> list[str]:
    """Files beside the folders of classes: nobody says of which class they are."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_file() and is_taken(entry))


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")


def _files_of_class(folder: Path, is_taken: Taken, ignored: list[str]) -> list[str]:
    """The names of the files of one class, sorted; what is none is added to ``ignored``."""
    if not folder.is_dir():  # a class that only another split has
        return []
    with os.scandir(folder) as entries:
        taken = {entry.name: is_taken(entry) for entry in entries if entry.name[0] != "."}
    ignored += [f"{folder.name}/{name}" for name in sorted(taken) if not taken[name]]
    return [name for name in sorted(taken) if taken[name]]


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and entry.name.lower().endswith(IMAGE_SUFFIXES)


def _is_video(entry: os.DirEntry[str]) -> bool:
    """Whether this is a video file, an image, or a folder that holds images."""
    if entry.is_dir():
        with os.scandir(entry.path) as frames:
            return any(_is_image(frame) for frame in frames)
    return entry.name.lower().endswith(VIDEO_SUFFIXES + IMAGE_SUFFIXES)


def _classes(
    source: ListSource, root: Path, class_folders: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The class names, and the class index of each folder.

    Given names say which folder is which class; names of another kind than the folders (``tench``
    for ``n01440764``) are taken in the order of the folders; where these are numbers, of those.
    """
    given = class_names_of(source)
    if given is not None:
        found = {name: ClassIndex(given).find(name) for name in class_folders}
        known = {name: index for name, index in found.items() if index is not None}
        if len(known) == len(found):
            return given, known
        if len(given) != len(found) or known:
            problems = [f"folder {name!r} is no class" for name in found if name not in known]
            where = source.class_names_path or f"{root}: the class names beside it"
            raise ListError(in_one_message(str(where), problems[:_SHOWN_NAMES]))
        if all(name.isdecimal() for name in class_folders):
            class_folders = sorted(class_folders, key=int)
    elif source.num_classes not in (None, len(class_folders)):
        raise ListError(
            f"{root}: {len(class_folders)} folders of classes, but MODEL.NUM_CLASSES is "
            f"{source.num_classes}. Set MODEL.NUM_CLASSES {len(class_folders)}, remove what is no "
            f"class ({_shortened(class_folders)}), or name all classes in classes.txt or "
            "DATA.CLASS_NAMES_PATH"
        )
    return given or tuple(class_folders), {name: i for i, name in enumerate(class_folders)}


# A folder without splits


def _held_out(files: Sequence[str]) -> set[str]:
    """One in ``HELD_OUT`` files of a class, at least one where it has two: those whose names have
    the lowest hashes, so that files that come later hardly move the others."""
    count = max(round(len(files) / HELD_OUT), 1) if len(files) > 1 else 0
    return set(sorted(files, key=_hash_of_name)[:count])


def _hash_of_name(file: str) -> bytes:
    return hashlib.sha256(file.encode("utf-8", "surrogateescape")).digest()


def _tell_of_held_out(source: ListSource, num_files: int, num_held_out: int) -> None:
    if not num_held_out:
        raise ListError(
            f"{source.folder}: every class has a single file, so none can be held out for "
            "validation. Add files, or sort them into folders train and val"
        )
    _log.info(
        "%s: no folders train and val, so of its %d videos %d (a fifth of each class, by their "
        "names) are held out for validation and testing; this reads %s",
        source.folder,
        num_files,
        num_held_out,
        "the others" if source.split == "train" else "those",
    )


# ImageNet as JSON


def _read_image_json(source: ListSource) -> VideoList:
    file = find_split(source, suffix=".json")
    entries = json_entries(file)
    problems: list[tuple[int, str]] = []
    paths, labels, numbers = columns(_good_entries(entries, source.num_classes, problems))
    if not paths and not problems:
        raise ListError(f"{file}: the list is empty")
    problems += duplicate_problems(
        paths, numbers, file, must_be_unique=source.must_be_unique, what="entry"
    )
    raise_problems(file, problems, what="entry")
    return VideoList(paths, labels, folder=source.path_prefix or source.folder, source=file)


def _good_entries(
    entries: Iterable[object], num_classes: int | None, problems: list[tuple[int, str]]
) -> Iterator[tuple[int, str, int]]:
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not {"im_path", "class"} <= entry.keys():
            problems.append((number, 'lacks "im_path" or "class"'))
            continue
        path, label = entry["im_path"], entry["class"]
        problem: str | None
        if not isinstance(path, str):
            problem = f"im_path {path!r} is not a text"
        elif not isinstance(label, int) or isinstance(label, bool):
            problem = f"class {label!r} is not a whole number"
        else:
            problem = path_problem(path) or label_problem(label, num_classes)
        if problem:
            problems.append((number, problem))
        else:
            yield number, path, label
