#!/usr/bin/env python3
"""Kinetics-400, 600, 700 and 700-2020: annotation files and a folder of clips -> lists.

    python data_prep/kinetics.py --version k400 --videos /data/k400 --out lists/k400

Reads the public CSV files (label,youtube_id,time_start,time_end,split), by default those in
``annotations/`` below the videos, and finds the clips in any folder below: flat, by split, by
class. A clip is named <id>_<start>_<end> with any video suffix, or <id> alone. Clips in a folder
``replacement*`` replace clips of the same id. The names of the files, the numbers of clips that
there should be, and common problems are in docs/data_prep.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# The package next to this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep import planning
from data_prep.command_line import exit_status
from data_prep.plan_run import files_option, run_script
from data_prep.planning import LeftOut, Plan
from slowfast_mvit.annotations import kinetics
from slowfast_mvit.annotations.class_names import class_map, read_class_names, spelling_problems
from slowfast_mvit.annotations.records import Row, raise_problems, usable_rows
from slowfast_mvit.annotations.texts import csv_rows, open_text
from slowfast_mvit.errors import ListError, UserError, nearest

_SHOWN = 5


@dataclass(frozen=True)
class Version:
    """Public facts about one release.

    Attributes:
        num_classes: None for any number.
        rows: rows of the public annotation files, by split.
        copies: for each split the clips in copies that others use, by who uses them.
    """

    num_classes: int | None
    rows: dict[str, int]
    copies: dict[str, dict[str, int]]


VERSIONS = {
    "k400": Version(
        400,
        {"train": 246_534, "val": 19_906, "test": 39_805},
        {
            "train": {"CVDF": 240_258, "mmaction2": 240_436, "PySlowFast": 234_643},
            "val": {"CVDF": 19_881, "mmaction2": 19_796, "PySlowFast": 19_761},
            "test": {"CVDF": 38_685},
        },
    ),
    "k600": Version(600, {}, {"train": {"mmaction2": 383_393}, "val": {"mmaction2": 27_910}}),
    "k700": Version(700, {}, {"train": {"mmaction2": 542_357}, "val": {"mmaction2": 34_824}}),
    "k700_2020": Version(700, {}, {}),
    "other": Version(None, {}, {}),
}


def plan_kinetics(
    version: str,
    *,
    videos: Path,
    annotations: Sequence[Path] = (),
    classes: Path | None = None,
    exclude_ids: Sequence[Path] = (),
) -> Plan:
    """Match the annotations of a release with the clips below a folder.

    Args:
        version: a key of ``VERSIONS``, in any spelling.
        videos: the folder of the clips.
        annotations: annotation files or folders of them; ``videos/annotations`` if none.
        classes: a file with the classes in the order of their labels; else they are sorted.
        exclude_ids: files with YouTube ids that must not be in training (see ``read_ids``).

    Raises:
        UserError: when annotations are missing or wrong, or of another number of classes.
    """
    version = find_version(version)
    release = VERSIONS[version]
    files, notes = kinetics.find_annotations(annotations or [videos / "annotations"])
    rows = [row for file in files for row in read_annotations(file)]
    notes += [*planning.row_notes(rows, release.rows), *_incomplete_notes(version, files)]
    names = _class_names(rows, classes, version)
    paths, passed = planning.list_tree(videos)
    notes += planning.packed_note(passed.packed, "tar -xzf ARCHIVE -C FOLDER")
    dataset = "kinetics" if version == "other" else version
    plan = Plan(version, dataset, names, public=release.copies, notes=notes)
    settled, left_out = planning.settle_rows(rows, names)
    settled, excluded, exclude_notes = exclude(settled, exclude_ids)
    plan.left_out = [*left_out, *excluded]
    plan.notes += [*exclude_notes, *planning.validation_note(settled), *_shared_id_notes(rows)]
    clips = kinetics.ClipFiles(paths, (row.video for row in rows))
    return planning.match(
        plan,
        settled,
        paths,
        root=videos,
        files_of=clips.of,
        overrides=kinetics.is_replacement,
        why_missing=clips.why_missing,
    )


def read_annotations(file: Path) -> list[Row]:
    """The clips of one annotation file.

    Raises:
        ListError: all problems of the file at once, with their lines.
    """
    rows = usable_rows(kinetics.read_rows(file))
    if not rows:
        raise ListError("no clips. Expected lines of label,youtube_id,time_start,...", file)
    return rows


def _class_names(rows: Iterable[Row], classes: Path | None, version: str) -> tuple[str, ...]:
    """The classes of a file in its order, or those of the annotations, sorted."""
    expected = VERSIONS[version].num_classes
    if classes:
        listed = read_class_names(classes)
        raise_problems(spelling_problems(listed, classes, "classes", loosely=True))
        if expected not in (None, len(listed)):
            raise UserError(
                f"--classes names {len(listed)} classes, but {version} has {expected}. Give the "
                "list of this version, or --version other"
            )
        return listed
    counts = Counter(row.class_name for row in rows if row.class_name)
    names = tuple(sorted(class_map(counts).values()))
    if expected not in (None, len(names)):
        rarest = sorted(names, key=lambda name: (counts[name], name))[:_SHOWN]
        raise UserError(
            f"{version}: the annotations name {len(names)} classes, but {version} has {expected}. "
            f"The rarest are {', '.join(rarest)}. An annotation file is missing or of another "
            "version; for a part of the data set give --version other"
        )
    return names


def exclude(
    rows: Iterable[Row], files: Sequence[Path]
) -> tuple[list[Row], list[LeftOut], list[str]]:
    """Set aside training videos whose id is in one of these files; with a note on each file."""
    file_of = {youtube_id: file for file in reversed(files) for youtube_id in read_ids(file)}
    kept: list[Row] = []
    left_out: list[LeftOut] = []
    num_excluded = Counter[Path]()
    for row in rows:
        file = file_of.get(kinetics.id_of(row.video)) if row.split == "train" else None
        if file is None:
            kept.append(row)
            continue
        num_excluded[file] += 1
        left_out.append(LeftOut.of(row, planning.EXCLUDED, f"its id is in {file}"))
    notes = [f"training clips whose id is in {file}: {num_excluded[file]:,}" for file in files]
    return kept, left_out, notes


def read_ids(file: Path) -> set[str]:
    """The YouTube ids in a file: an annotation file, a ``path label`` list, or one id a line.

    Raises:
        UserError: when it is missing or contains none.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file (--exclude-ids)")
    columns = kinetics.columns_of(file)
    if columns:
        place = columns.index("youtube_id")
        cells = {row[place].strip() for _, row in csv_rows(file) if len(row) > place}
        ids = cells - {"youtube_id"}
    else:
        with open_text(file, errors="replace") as text:
            lines = text.read().splitlines()
        paths = (re.sub(r"[ \t,][0-9]+\s*$", "", line).strip().strip('"') for line in lines)
        ids = {kinetics.id_of(path) for path in paths if path}
    if not ids:
        raise UserError(f"{file}: no ids (--exclude-ids)")
    return ids


def _incomplete_notes(version: str, files: Iterable[Path]) -> list[str]:
    return [
        f"{file} is marked as incomplete by the publisher; {file.stem}.txt is complete"
        for file in files
        if version == "k600" and file.name in ("train.csv", "val.csv")
    ]


def _shared_id_notes(rows: Iterable[Row]) -> list[str]:
    """YouTube videos of which one clip is for training and another for evaluation."""
    ids: dict[str, set[str]] = {}
    for row in rows:
        ids.setdefault(row.split or "", set()).add(kinetics.id_of(row.video))
    shared = {split: len(ids[split] & ids.get("train", set())) for split in sorted(ids)}
    return [
        f"{number:,} YouTube ids of {split} are in train too, with the same or other times"
        for split, number in shared.items()
        if number and split != "train"
    ]


def find_version(name: str) -> str:
    """The key of ``VERSIONS`` for a name: ``Kinetics-400`` and ``K400`` are ``k400``."""
    key = re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")
    key = re.sub(r"^kinetics_?", "k", key)
    if key in VERSIONS:
        return key
    guess = nearest(key, VERSIONS)
    hint = f" Did you mean {guess}?" if guess else ""
    raise UserError(f"--version {name}: not known.{hint} Choose from: {', '.join(VERSIONS)}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--version", required=True, help=f"one of {', '.join(VERSIONS)}; other: any classes")
    text = "annotation files or folders of them (VIDEOS/annotations)"
    files_option(parser, "--annotations", "PLACE", text)
    add("--classes", type=Path, help="the classes in the order of their labels (sorted by name)")
    text = "annotation files, lists or ids of videos not to train on: K400's val.csv for K700"
    files_option(parser, "--exclude-ids", "FILE", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    return run_script(plan_kinetics, __doc__, _add_arguments, arguments)


if __name__ == "__main__":
    sys.exit(exit_status(main))
