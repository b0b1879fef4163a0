#!/usr/bin/env python3
"""Your own videos: class folders, or files with a table of labels -> lists.

    python data_prep/from_folder.py --videos clips --out lists
    python data_prep/from_folder.py --videos clips --out lists --labels labels.csv
    python data_prep/from_folder.py --videos clips --out lists --group-by '(camera[0-9]+)_'

Reads <class>/<file> or <split>/<class>/<file>, where a file may lie deeper in its class folder; or
the files that a table ``file,label`` or ``file,label,split`` names. Without splits, a part of the
videos is held out by their names: adding videos moves none from one side to the other.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# The code beside this file, installed or not, and not another version that may be installed too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.command_line import exit_status
from data_prep.label_table import FilesByName, rows_of_table
from data_prep.plan import LeftOut, Plan
from data_prep.plan_files import Found, Tree, list_tree, shortened
from data_prep.plan_match import clean, match, packed_note, spelling_problems, split_of_folder
from data_prep.plan_run import add_plan_arguments, run_plan
from data_prep.plan_split import VAL_FRACTION, Unsplit, assign_splits
from slowfast_mvit.errors import UserError, in_one_message


@dataclass(frozen=True, slots=True)
class Splitting:
    """How videos without a split are divided, as ``assign_splits`` takes it."""

    val_fraction: float | None = None
    test_fraction: float | None = None
    group_by: str | None = None


def plan_folder(videos: Path, *, labels: Path | None = None, splitting: Splitting) -> Plan:
    """Lists of the videos below a folder.

    Args:
        videos: the folder.
        labels: a table of files and labels; without one, folders are the classes.
        splitting: how to hold out videos.

    Raises:
        UserError: as ``rows_of_folders``, ``rows_of_table`` and ``assign_splits`` do; or for fewer
            than two classes.
    """
    tree = list_tree(videos)
    if not tree.videos:
        raise UserError(
            "\n".join([f"{videos}: no videos, {tree.others:,} other files", *_notes(tree)])
        )
    left_out: list[LeftOut] = []
    if labels:
        rows, left_out, class_names = rows_of_table(labels)
    else:
        tree, rows, class_names = rows_of_folders(videos, tree)
    if len(class_names) < 2:
        found = f"only one, {class_names[0]!r}" if class_names else "none"
        raise UserError(
            f"{labels or videos}: there must be two classes or more, found {found}. Expected "
            "<class>/<file>, <split>/<class>/<file>, or --labels with a table file,label"
        )
    wanted, notes = assign_splits(
        rows,
        val_fraction=splitting.val_fraction,
        test_fraction=splitting.test_fraction,
        group_by=splitting.group_by,
    )
    counted = Counter([*(row.split for row in wanted), *(item.split for item in left_out)])
    plan = Plan(
        videos.name, "csv", class_names, counted, left_out=left_out, notes=[*notes, *_notes(tree)]
    )
    files = FilesByName(tree.videos, videos) if labels else None
    by_path = {file.path: [file] for file in tree.videos}
    return match(
        plan,
        wanted,
        tree,
        root=videos,
        files_of=files.find if files else by_path.__getitem__,
        why_missing=files.why_missing if files else lambda video: "",
    )


def _notes(tree: Tree) -> list[str]:
    return packed_note(tree, "tar -xf ARCHIVE, or unzip ARCHIVE")


# Class folders


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a video lies: ``train/jump_rope/cam1/a.mp4``; None for what its path does not say."""

    file: Found
    split: str | None
    class_folder: str | None


def rows_of_folders(videos: Path, tree: Tree) -> tuple[Tree, list[Unsplit], tuple[str, ...]]:
    """The videos in class folders, or in class folders of ``train``, ``val`` and ``test``.

    Labels count the class folders in the order of their names, as torchvision's ImageFolder does.
    Folders that only hold one other folder, as archives have them, are passed through. Where the
    class folders hold images themselves, each image is an item; a folder of images inside a class
    folder is a video.

    Returns:
        What is listed (again, where it turned out to be images), its rows, and the class names.

    Raises:
        UserError: all at once: videos outside of class folders, classes without videos, classes
            that differ only in spelling, two videos of the same name.
    """
    top = _top(videos)
    has_splits = _has_splits(tree, top)
    places = [_place(file, top, has_splits) for file in tree.videos]
    if any(place.file.is_folder and place.class_folder is None for place in places):
        tree = list_tree(videos, images=True)
        places = [_place(file, top, has_splits) for file in tree.videos]
    roots = [videos / top]
    if has_splits:
        roots = [Path(e.path) for e in _folders(roots[0]) if split_of_folder(e.name)]
    class_folders = sorted({entry.name for root in roots for entry in _folders(root)})
    names = {folder: clean(folder) for folder in class_folders}
    problems = [*_folder_problems(places, names), *_name_problems(places)]
    if problems:
        raise UserError(in_one_message(str(videos), shortened(problems)))
    rows = [Unsplit(p.file.path, p.split, names[p.class_folder or ""]) for p in places]
    return tree, rows, tuple(names[folder] for folder in class_folders)


def _folders(root: Path) -> list[os.DirEntry[str]]:
    with os.scandir(root) as entries:
        return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _top(videos: Path) -> str:
    """The folder of the class folders below ``videos``: "" for itself."""
    top = ""
    while True:
        folders = _folders(videos / top)
        only = folders[0].name if len(folders) == 1 else ""
        if not only or split_of_folder(only) or not _folders(videos / top / only):
            return top
        top = os.path.join(top, only)


def _has_splits(tree: Tree, top: str) -> bool:
    """Whether all folders with videos are called splits; one class alone may be called "test"."""
    start = len(top) + 1 if top else 0
    first = {video.path[start:].partition("/")[0] for video in tree.videos if "/" in video.path}
    return bool(first) and all(map(split_of_folder, first))


def _place(file: Found, top: str, has_splits: bool) -> _Place:
    folders = os.path.relpath(os.path.dirname(file.path) or ".", top or ".").split("/")
    folders = [folder for folder in folders if folder != "."]
    split = split_of_folder(folders.pop(0)) if has_splits and folders else None
    return _Place(file, split, folders[0] if folders else None)


def _folder_problems(places: Sequence[_Place], names: Mapping[str, str]) -> Iterator[str]:
    """Videos outside of class folders, classes without videos, classes of one name."""
    astray = [place.file.path for place in places if place.class_folder is None]
    if len(astray) == len(places):
        yield "no video lies in a class folder. Expected <class>/<file>, or a table with --labels"
        return
    yield from (f"{path!r} lies in no class folder" for path in astray)
    filled = {place.class_folder for place in places}
    for folder in names:
        if folder not in filled:
            yield f"class folder {folder!r} holds no videos. Fill it or remove it"
    yield from spelling_problems(names, "class folders")


def _name_problems(places: Iterable[_Place]) -> Iterator[str]:
    """Two files of one name in one folder: most likely the same video twice."""
    first: dict[str, str] = {}
    for place in places:
        path = place.file.path
        name = os.path.join(os.path.dirname(path), place.file.stem)
        if first.setdefault(name, path) != path:
            yield f"{first[name]!r} and {path!r} differ only in suffix. Keep one of them"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_plan_arguments(made)
    add = made.add_argument
    add("--labels", type=Path, help="a table file,label or file,label,split")
    fraction = f"({VAL_FRACTION:g} where there are no splits)"
    add("--val-fraction", type=float, help=f"part held out for validation {fraction}")
    add("--test-fraction", type=float, help="part held out for testing (0)")
    add("--group-by", metavar="REGEX", help="finds the source in a path; sources are not divided")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the lists that the command line asks for; returns the exit status."""
    options = parser().parse_args(arguments)
    splitting = Splitting(options.val_fraction, options.test_fraction, options.group_by)
    return run_plan(
        options, lambda: plan_folder(options.videos, labels=options.labels, splitting=splitting)
    )


if __name__ == "__main__":
    sys.exit(exit_status(main))
