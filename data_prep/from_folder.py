#!/usr/bin/env python3
"""User data: class folders, or files with a table of labels -> lists.

    python data_prep/from_folder.py --videos clips --out lists
    python data_prep/from_folder.py --videos clips --out lists --labels labels.csv
    python data_prep/from_folder.py --videos clips --out lists --group-by '(camera[0-9]+)_'

Reads <class>/<file> or <split>/<class>/<file>, where a file may be deeper in its class folder; or
the files that a table ``file,label`` or ``file,label,split`` names. Without splits, a part of the
videos is held out by their names: adding videos moves none from one split to the other.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The package next to this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep import planning
from data_prep.command_line import exit_status
from data_prep.plan_run import run_script
from data_prep.planning import LeftOut, Plan
from slowfast_mvit.annotations.class_folders import find_class_folders
from slowfast_mvit.annotations.class_names import clean
from slowfast_mvit.annotations.records import Problem, Row, raise_problems
from slowfast_mvit.annotations.tables import FilesByName, read_table
from slowfast_mvit.errors import UserError, in_one_message

VAL_FRACTION = 0.2  # where neither folders, nor a table, nor options define splits


def plan_folder(videos: Path, *, labels: Path | None = None, **splitting: Any) -> Plan:
    """Lists of the videos below a folder.

    Args:
        videos: the folder.
        labels: a table of files and labels; without one, folders are the classes.
        splitting: the options of ``assign_splits``.

    Raises:
        UserError: as ``rows_of_folders``, ``rows_of_table`` and ``assign_splits`` do; or for fewer
            than two classes.
    """
    paths, passed = planning.list_tree(videos)
    notes = planning.packed_note(passed.packed, "tar -xf ARCHIVE, or unzip ARCHIVE")
    left_out: list[LeftOut] = []
    if not paths:
        message = f"{videos}: no videos, {passed.num_others:,} other files"
        raise UserError("\n".join([message, *notes]))
    if labels:
        rows, left_out, class_names = _rows_of_table(labels)
    else:
        rows, class_names = rows_of_folders(videos)
        paths = [row.video for row in rows]
    if len(class_names) < 2:
        found = f"only one, {class_names[0]!r}" if class_names else "none"
        raise UserError(
            f"{labels or videos}: there must be two classes or more, found {found}. Expected "
            "<class>/<file>, <split>/<class>/<file>, or --labels with a table file,label"
        )
    rows, split_notes = assign_splits(rows, **splitting)
    notes = [*split_notes, *notes]
    plan = Plan(videos.name, "csv", class_names, left_out=left_out, notes=notes)
    if not labels:
        return planning.match(plan, rows, paths, root=videos, files_of=lambda path: [path])
    files = FilesByName(paths, videos)
    return planning.match(
        plan, rows, paths, root=videos, files_of=files.find, why_missing=files.why_missing
    )


def _rows_of_table(table: Path) -> tuple[list[Row], list[LeftOut], tuple[str, ...]]:
    """The videos in a table, its rows that cannot be listed, and the class names."""
    rows, repeated, class_names = read_table(table)
    left_out = [LeftOut.of(row, planning.DUPLICATE, f"line {row.line}") for row in repeated]
    unnamed = (row for row in rows if not row.class_name)
    left_out += [LeftOut.of(row, planning.NO_LABEL, "the table gives no label") for row in unnamed]
    return [row for row in rows if row.class_name], left_out, class_names


def rows_of_folders(videos: Path) -> tuple[list[Row], tuple[str, ...]]:
    """The videos in class folders, or in class folders of ``train``, ``val`` and ``test``.

    Labels count the class folders in the order of their names, as torchvision's ImageFolder does.

    Returns:
        Their rows, named by their paths, and the class names.

    Raises:
        UserError: all at once: videos outside of class folders, classes without videos, classes
            that differ only in spelling, two videos of the same name.
    """
    folders = find_class_folders(videos)
    rows = [
        Row(os.path.normpath(folders.folder_of(split).relative_to(videos) / file), split, name)
        for split in folders.splits or [None]
        for name in folders.names
        for file in folders.files(split, name)
    ]
    filled = {row.class_name for row in rows}
    if not rows:
        message = "no video is in a class folder. Expected <class>/<file>, or a table with --labels"
        raise UserError(f"{folders.root}: {message}")
    text = "class folder {!r} contains no videos. Fill it or remove it"
    empty = [name for name in folders.names if name not in filled]
    problems = [Problem(folders.root, 0, "empty", text.format(name)) for name in empty]
    raise_problems([*folders.problems, *problems])
    names = {name: clean(name) for name in folders.names}
    named = [row._replace(class_name=names[row.class_name or ""]) for row in rows]
    return named, tuple(names.values())


# Splits


def assign_splits(
    rows: Sequence[Row],
    *,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    group_by: str | None = None,
) -> tuple[list[Row], list[str]]:
    """Give each video a split.

    Videos without a split, and videos of "train" where there is no other split, are divided; the
    rest stay where they are.

    Args:
        rows: the videos.
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
    source_of = _sources(rows, group_by)
    assigned = []
    for row in rows:
        split = row.split or "train"
        if divides and split == "train":
            split = _split_of(source_of[row.video], val, test)
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


def _sources(rows: Sequence[Row], group_by: str | None) -> dict[str, str]:
    """The key by which each video is divided: its source, or its name without suffix."""
    if group_by is None:
        return {row.video: os.path.splitext(row.video)[0] for row in rows}
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


def _split_of(source: str, val: float, test: float) -> str:
    digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    if place < test:
        return "test"
    return "val" if place < test + val else "train"


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
    add("--labels", type=Path, help="a table file,label or file,label,split")
    fraction = f"({VAL_FRACTION:g} where there are no splits)"
    add("--val-fraction", type=float, help=f"part held out for validation {fraction}")
    add("--test-fraction", type=float, help="part held out for testing (0)")
    add("--group-by", metavar="REGEX", help="finds the source in a path; sources are not divided")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    return run_script(plan_folder, __doc__, _add_arguments, arguments)


if __name__ == "__main__":
    sys.exit(exit_status(main))
