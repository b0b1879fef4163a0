#!/usr/bin/env python3
"""User data: class folders, or files with a table of labels -> lists.

    python data_prep/from_folder.py --videos clips --out lists
    python data_prep/from_folder.py --videos clips --out lists --labels labels.csv
    python data_prep/from_folder.py --videos clips --out lists --group-by '(camera[0-9]+)_'

Reads <class>/<file> or <split>/<class>/<file>, where a file may be deeper in its class folder; or
the files that a table of files and labels names. Without splits, a part of the videos is held out
by their names, as in training on the folder itself: adding videos moves hardly any others.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# The package next to this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep import planning
from data_prep.command_line import exit_status
from data_prep.plan_run import run_script
from data_prep.planning import LeftOut, Plan
from slowfast_mvit.annotations.class_folders import ClassFolders, find_class_folders, key_of
from slowfast_mvit.annotations.class_names import clean
from slowfast_mvit.annotations.csv_lists import file_problem
from slowfast_mvit.annotations.files import missing_and_shared
from slowfast_mvit.annotations.held_out import VAL_FRACTION, held_out
from slowfast_mvit.annotations.records import Row, raise_problems
from slowfast_mvit.annotations.tables import FilesByName, Table, read_table
from slowfast_mvit.errors import UserError, in_one_message


def plan_folder(videos: Path, *, labels: Path | None = None, **splitting: Any) -> Plan:
    """Lists of the videos below a folder.

    Args:
        videos: the folder.
        labels: a table of files and labels; without one, folders are the classes.
        splitting: the options of ``assign_splits``.

    Raises:
        UserError: as ``rows_of_folders``, ``read_table`` and ``assign_splits`` do; or for fewer
            than two classes.
    """
    paths, passed = planning.list_tree(videos)
    notes = planning.packed_note(passed.packed, "tar -xf ARCHIVE, or unzip ARCHIVE")
    if not paths:
        num_others = passed.counts.total() - len(passed.packed)
        raise UserError("\n".join([f"{videos}: no videos, {num_others:,} other files", *notes]))
    if labels:
        plan = _plan_of_table(videos, paths, labels, splitting)
    else:
        plan = _plan_of_folders(videos, splitting)
    groups = ((str(videos / item.path), (item.split, item.class_name)) for item in plan.listed)
    _, shared = missing_and_shared(groups)
    if shared:
        text = f"videos that are, by links, also in another split or class: {len(shared):,}"
        notes.append(f"{text} ({' = '.join(shared[0])}, for example)")
    return replace(plan, notes=[*plan.notes, *notes], trains_all_classes=True)


def _plan_of_table(
    videos: Path, paths: Sequence[str], labels: Path, splitting: Mapping[str, Any]
) -> Plan:
    files = FilesByName(paths, videos)
    table = read_table(labels, files)
    _require_two_classes(table.class_names, labels)
    present, absent = list[Row](), list[Row]()
    for row in table.rows:
        if row.class_name:
            path = next(iter(files.find(row.video)), None)
            usable = path is not None and file_problem(videos / path, path)[0] is None
            (present if usable else absent).append(row)
    rows, notes = assign_splits(present, **splitting)
    notes = [*table.notes, *notes]
    left_out = _left_out_of_table(table)
    plan = Plan(videos.name, "csv", table.class_names, left_out=left_out, notes=notes)
    return planning.match(
        plan,
        rows + absent,
        paths,
        root=videos,
        files_of=files.find,
        why_missing=files.why_missing,
    )


def _plan_of_folders(videos: Path, splitting: Mapping[str, Any]) -> Plan:
    folders = find_class_folders(videos)
    rows, class_names = rows_of_folders(folders, videos)
    _require_two_classes(class_names, videos)
    start = os.path.relpath(folders.root, videos)
    rows, notes = assign_splits(rows, start=start, **splitting)
    notes += [f"left out: {line}" for line in folders.left_out()]
    left_out = _left_out_of_folders(folders, videos)
    plan = Plan(videos.name, "csv", class_names, left_out=left_out, notes=notes)
    paths = [row.video for row in rows]
    return planning.match(plan, rows, paths, root=videos, files_of=lambda path: [path])


def _require_two_classes(names: Sequence[str], where: Path) -> None:
    if len(names) < 2:
        found = f"only one, {names[0]!r}" if names else "none"
        raise UserError(
            f"{where}: there must be two classes or more, found {found}. Expected "
            "<class>/<file>, <split>/<class>/<file>, or --labels with a table of files and labels"
        )


def _left_out_of_table(table: Table) -> list[LeftOut]:
    """The rows of a table that cannot be listed."""
    unnamed = (row for row in table.rows if not row.class_name)
    return [
        *(LeftOut.of(row, planning.DUPLICATE, f"line {row.line}") for row in table.repeated),
        *(LeftOut.of(row, planning.NO_LABEL, "the table gives no label") for row in unnamed),
    ]


def _left_out_of_folders(folders: ClassFolders, videos: Path) -> list[LeftOut]:
    """The videos in class folders that cannot be used."""
    return [
        LeftOut.of(row, reason, detail, row.video)
        for (split, name), passed in folders.passed.items()
        for file, reason, detail in passed.unusable
        for row in [Row(_below(videos, folders, split, file), split or None, clean(name))]
    ]


def _below(videos: Path, folders: ClassFolders, split: str | None, file: str) -> str:
    return os.path.normpath(folders.folder_of(split).relative_to(videos) / file)


def rows_of_folders(folders: ClassFolders, videos: Path) -> tuple[list[Row], tuple[str, ...]]:
    """The videos in class folders, or in class folders of ``train``, ``val`` and ``test``.

    Labels count the class folders in the order of their names, as torchvision's ImageFolder does.

    Returns:
        Their rows, named by their paths below ``videos``, and the class names.

    Raises:
        UserError: all at once: videos outside of class folders, classes without videos, classes
            that differ only in spelling, two videos of the same name.
    """
    rows = [
        Row(_below(videos, folders, split, file), split, clean(name))
        for split in folders.splits or [None]
        for name in folders.names
        for file in folders.files(split, name)
    ]
    if not rows:
        message = "no video is in a class folder. Expected <class>/<file>, or a table with --labels"
        raise UserError("\n  ".join([f"{folders.root}: {message}", *folders.left_out()]))
    for_testing = [folders.folder_of(split) for split in folders.splits if split != "train"]
    raise_problems(p for p in folders.problems if p.kind != "empty" or p.file not in for_testing)
    return rows, tuple(map(clean, folders.names))


# Splits


def assign_splits(
    rows: Sequence[Row],
    *,
    start: str = "",
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    group_by: str | None = None,
) -> tuple[list[Row], list[str]]:
    """Give each video a split.

    Videos without a split, and videos of "train" where there is no other split, are divided, those
    of each class by itself (see ``held_out``); the rest stay where they are.

    Args:
        rows: the videos.
        start: the folder in which their class folders are.
        val_fraction: fraction of them for validation, 0 to 1; None for 0.2 where no video has a
            split, else for 0.
        test_fraction: the same for testing; None for 0.
        group_by: a regular expression that finds the source of a video in its name (its groups,
            or all of it if it has none). Videos of one source get one split.

    Returns:
        The videos, and notes on how they were divided.

    Raises:
        UserError: when the fractions do not fit each other or the splits that exist, or names have
            no source.
    """
    splits = {row.split for row in rows if row.split}
    val = (0.0 if splits else VAL_FRACTION) if val_fraction is None else val_fraction
    test = test_fraction or 0.0
    _check_fractions(val, test, splits)
    divides = bool(val or test)
    source_of = _sources(rows, start, group_by)
    divided: dict[str, list[str]] = {}
    for row in rows:
        if divides and row.split in (None, "train"):
            key = "" if group_by else row.class_name or ""  # a source may have several classes
            divided.setdefault(key, []).append(source_of[row.video])
    splits_of = [held_out(sources, val=val, test=test) for sources in divided.values()]
    split_of = {source: split for held in splits_of for source, split in held.items()}
    assigned = []
    for row in rows:
        split = row.split or "train"
        if divides and split == "train":
            split = split_of.get(source_of[row.video], "train")
        assigned.append(row._replace(split=split))
    notes = []
    if divides:
        by = f"sources ({group_by})" if group_by else "names"
        notes.append(f"{val:g} of the videos go to val and {test:g} to test, by their {by}")
    elif splits:
        notes.append(f"the splits {', '.join(sorted(splits))} are taken as they are")
    return assigned, [*notes, *_leaks(assigned, source_of, group_by)]


def _check_fractions(val: float, test: float, splits: set[str]) -> None:
    problems = []
    for split, fraction in (("val", val), ("test", test)):
        option = f"--{split}-fraction {fraction:g}"
        if not 0 <= fraction < 1:
            problems.append(f"{option} is not from 0 to below 1")
        if fraction and split in splits:
            problems.append(f"{option}, but there is a split {split!r} already")
    if not problems and val + test >= 1:
        problems.append(f"--val-fraction {val:g} and --test-fraction {test:g} leave none for train")
    if problems:
        raise UserError(in_one_message("options", problems))


def _sources(rows: Sequence[Row], start: str, group_by: str | None) -> dict[str, str]:
    """The key by which each video is divided: its source, or its path without suffix."""
    if group_by is None:
        inside = "" if start in ("", ".") else f"{start}/"
        return {row.video: key_of(row.video.removeprefix(inside)) for row in rows}
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UserError(f"--group-by {group_by}: not a regular expression ({error})") from None
    matches = {row.video: pattern.search(row.video) for row in rows}
    without = [f"{video!r} does not match" for video, match in matches.items() if match is None]
    if without:
        raise UserError(in_one_message(f"--group-by {group_by}", without, limit=planning.SHOWN))
    return {
        video: "\n".join(group or "" for group in match.groups()) or match[0]
        for video, match in matches.items()
        if match is not None
    }


def _leaks(rows: Sequence[Row], source_of: dict[str, str], group_by: str | None) -> list[str]:
    """Sources in several splits, which only existing splits can have."""
    if group_by is None:
        return []
    num_splits = Counter(source for source, _ in {(source_of[r.video], r.split) for r in rows})
    leaked = sorted(source for source, count in num_splits.items() if count > 1)
    if not leaked:
        return []
    return [f"{len(leaked)} sources are in several splits, {leaked[0]!r} for example: a leak"]


# The command line


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--labels", type=Path, help="a table of files and labels, and splits if it has them")
    fraction = f"({VAL_FRACTION:g} where there are no splits)"
    add("--val-fraction", type=float, help=f"part held out for validation {fraction}")
    add("--test-fraction", type=float, help="part held out for testing (0)")
    add("--group-by", metavar="REGEX", help="finds the source in a path; sources are not divided")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    return run_script(plan_folder, __doc__, _add_arguments, arguments)


if __name__ == "__main__":
    sys.exit(exit_status(main))
