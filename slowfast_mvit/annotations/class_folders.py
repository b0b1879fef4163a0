"""Folders of classes, ``<split>/<class>/<file>`` or ``<class>/<file>``, without any list."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slowfast_mvit.annotations import records
from slowfast_mvit.annotations.class_names import ClassIndex, class_names_of, spelling_problems
from slowfast_mvit.annotations.columns import columns
from slowfast_mvit.annotations.csv_lists import file_problem
from slowfast_mvit.annotations.files import (
    Passed,
    is_folder,
    is_hidden,
    is_packed,
    is_video,
    stem,
    walk,
)
from slowfast_mvit.annotations.held_out import held_out
from slowfast_mvit.annotations.records import Annotated, ListSource, Problem
from slowfast_mvit.errors import ListError, as_lines

_log = logging.getLogger(__name__)

# Kinds of problems that give videos a wrong class or split.
_FATAL = ("spelling", "split")


@dataclass
class ClassFolders:
    """The class folders below a folder.

    Attributes:
        root: the folder of the class folders, or of the folders of splits.
        splits: the name of the folder of each split; {} where there are none.
        names: of the class folders of all splits, sorted: a class that one split lacks must not
            shift the others.
        images: whether each image in any folder is an item, as in ImageNet.
        passed: the files that ``files`` left out, by split and class.
        problems: of the folders, and of those that ``files`` read.
    """

    root: Path
    splits: dict[str, str]
    names: list[str] = field(default_factory=list)
    images: bool = False
    passed: dict[tuple[str, str], Passed] = field(default_factory=dict)
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

        passed, files = Passed(), list[str]()
        for file in walk(
            folder, passed, start=name, images_in=lambda place: self.images or place == name
        ):
            # A million images are not opened one by one.
            problem = None if self.images else file_problem(os.path.join(folder, file), file)[0]
            if problem is None:
                files.append(file)
            else:
                passed.add(file, problem[0])
                passed.unusable.append((file, *problem))
        for place, reason in passed.unreadable:
            raise ListError(f"cannot be read ({reason})", place)
        if passed.counts:
            self.passed[split or "", name] = passed
        if not files:
            found = f": {passed}" if passed.counts else ""
            message = f"class folder {name!r} contains no videos{found}. Fill it or remove it"
            self.problems.append(Problem(folder, 0, "empty", message))
        files.sort()
        first: dict[str, str] = {}
        for file in files:
            other = first.setdefault(key_of(file), file)
            if other != file:  # most likely the same video twice
                message = f"{other!r} and {file!r} differ only in suffix. Keep one of them"
                self.problems.append(Problem(folder, 0, "duplicate", message))
        return files

    def left_out(self) -> list[str]:
        """The files that ``files`` left out: a line for each class of a split."""
        return [
            f"{os.path.join(self.splits.get(split, ''), name)}: {passed}"
            for (split, name), passed in self.passed.items()
        ]


def in_one_line(lines: Sequence[str], limit: int = records.SHOWN_PROBLEMS) -> str:
    """The first lines, and the number of the others."""
    more = len(lines) - limit
    return "; ".join([*lines[:limit], *([f"and {more:,} more"] if more > 0 else [])])


def key_of(path: str) -> str:
    """A path without suffix."""
    return os.path.join(os.path.dirname(path), stem(path))


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
        named, problems, others = {}, list(_splits_as_classes(root, inside)), []
    found = ClassFolders(root, named, problems=problems)
    roots = [found.folder_of(split) for split in named] or [root]
    found.names = sorted({name for place in roots for name in sub_folders(place)})
    for place in roots:
        for entry in _entries(place):
            if is_packed(entry.name) and not is_folder(entry):
                above = os.path.relpath(place, root)
                archive = os.path.normpath(os.path.join(above, entry.name))
                found.passed.setdefault(("", above), Passed()).add(archive)
    loose = (os.path.relpath(p / name, root) for p in roots for name in _loose_videos(p))
    found.problems += [
        Problem(root, 0, "outside", f"{path!r} is in no class folder") for path in (*others, *loose)
    ]
    found.problems += spelling_problems(found.names, root, "class folders")
    return found


def _splits_as_classes(root: Path, names: Sequence[str]) -> Iterator[Problem]:
    """Folders that are named like splits and divided like splits are no classes.

    They are ``train`` with videos in folders, or ``train_set`` and ``val_set`` with folders of the
    same names.
    """
    named = [name for name in names if records.split_named_in(name)]
    inside = {name: set(sub_folders(root / name)) for name in named}
    for name in named:
        alike = [other for other in named if other != name and inside[other] & inside[name]]
        in_folders = records.split_of_folder(name) and any(
            path.count("/") > 1 and is_video(path) for path in walk(root, Passed(), start=name)
        )
        if alike or in_folders:
            message = (
                f"folder {name!r} is named like a split and contains folders like one, so it is no "
                "class. Call the folders of splits train, val and test, and move away what is in "
                "none of them"
            )
            yield Problem(root, 0, "split", message)


def sub_folders(place: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    return [entry.name for entry in _entries(place) if is_folder(entry)]


def _loose_videos(place: Path) -> list[str]:
    return [e.name for e in _entries(place) if is_video(e.name) and not is_folder(e)]


def _entries(place: Path) -> list[os.DirEntry[str]]:
    with os.scandir(place) as entries:
        return sorted((e for e in entries if not is_hidden(e.name)), key=lambda entry: entry.name)


def _has_videos(root: Path, name: str) -> bool:
    return next(walk(root, Passed(), start=name, images_in=lambda inside: True), None) is not None


# Training


def read_folders(source: ListSource) -> Annotated:
    """Read ``<split>/<class>/<file>`` or, without folders of splits, ``<class>/<file>``.

    Without folders ``train``, ``val`` or ``test``, a fifth of each class is held out (see
    ``held_out``): validation and testing read it, training the rest.

    Raises:
        ListError: there is nothing to read, a class to train on has no videos, folders are two
            spellings of a class or of a split, or they do not fit ``source.num_classes``.
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
    listed, sizes = Counter[str](), Counter[str]()

    def rows() -> Iterator[tuple[int, str, int]]:
        for name, index in index_of.items():
            files = folders.files(split, name)
            sizes[name] = len(files)
            for_testing = held_out(map(key_of, files)) if hold_out else {}
            if hold_out and len(files) == 1:
                text = f"class {name!r} has a single video, so none can be held out. Add another"
                folders.problems.append(Problem(root, 0, "single", text))
            for file in files:
                if not hold_out or (key_of(file) in for_testing) == (source.split != "train"):
                    listed[name] += 1
                    yield 0, file, index

    files, labels, _ = columns(rows())
    _report_problems(source, folders, root, has_files=bool(sizes.total()))
    if hold_out:
        _report_held_out(source, sizes.total(), len(files))
    empty = [name for name in folders.names if not listed[name]]
    if empty:
        text = "%s: no videos of class %s for %s"
        _log.warning(text, root, records.first_few(empty), source.split)
    prefix = source.folder_of_paths / root.relative_to(source.folder)
    return Annotated(files, labels, None, prefix, root, class_names)


def _report_problems(
    source: ListSource, folders: ClassFolders, root: Path, *, has_files: bool
) -> None:
    """Log what is left out; refuse wrong classes, and classes for training without videos."""
    left_out, problems = folders.left_out(), folders.problems
    if not has_files:
        found = [*left_out, *(p.message for p in problems if p.kind == "outside")]
        shown = f"; found {in_one_line(found, 5)}" if found else ""
        text = "no videos or images. Expected folders of classes with files in them"
        advice = ". data_prep/from_folder.py --labels writes lists from a table of files and labels"
        is_flat = any(problem.kind == "outside" for problem in problems)
        raise ListError(f"{text}{shown}{advice if is_flat else ''}", root)
    fatal = (*_FATAL, "empty") if source.split == "train" else _FATAL
    if any(problem.kind in fatal for problem in problems):
        records.raise_problems(problems)
    if problems:
        _log.warning("%s: %s", root, as_lines(map(str, problems), limit=records.SHOWN_PROBLEMS))
    if left_out:
        _log.warning("%s: files are left out: %s", root, in_one_line(left_out))


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


def _report_held_out(source: ListSource, num_files: int, num_listed: int) -> None:
    num_held_out = num_files - num_listed if source.split == "train" else num_listed
    if not num_held_out:
        raise ListError(
            "every class has a single file, so none can be held out for validation. Add files, or "
            "sort them into folders train and val",
            source.folder,
        )
    text = (
        f"no folders train and val, so of its {num_files} videos {num_held_out} (about a fifth of "
        "each class, by their names) are held out for validation and testing; this reads "
        f"{'the others' if source.split == 'train' else 'those'}"
    )
    _log.info("%s: %s", source.folder, text)
