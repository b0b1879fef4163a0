#!/usr/bin/env python3
"""Kinetics-400, 600, 700 and 700-2020: annotation files and a folder of clips -> lists.

    python data_prep/kinetics.py --version k400 --videos /data/k400 --out lists/k400

Reads the public CSV files (label,youtube_id,time_start,time_end,split), by default those in
``annotations/`` below the videos, and finds the clips in any folder below: flat, by split, by
class. A clip is named <id>_<start>_<end> with any video suffix, or <id> alone. Clips in a folder
``replacement*`` take the place of clips of the same id. What the files are called, how many clips
there should be, and what goes wrong is in docs/data_prep.md.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# The code beside this file, installed or not, and not another version that may be installed too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.command_line import exit_status
from data_prep.plan import EXCLUDED, LeftOut, Plan, Wanted
from data_prep.plan_files import Found, Tree, list_tree
from data_prep.plan_kinetics import Clip, find_annotations, parsed_name, read_annotations, read_ids
from data_prep.plan_match import (
    class_map,
    match,
    packed_note,
    read_class_map,
    settle_rows,
    validation_note,
)
from data_prep.plan_run import add_plan_arguments, run_plan
from slowfast_mvit.errors import UserError, nearest


@dataclass(frozen=True)
class Version:
    """What is publicly known of one release.

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


# Finding the files


class ClipFiles:
    """The files of each clip, by the name of the clip.

    Args:
        files: what lies on disk.
        clips: what is annotated; a file that names no times is taken for the only clip of its id.
    """

    def __init__(self, files: Iterable[Found], clips: Iterable[Clip]) -> None:
        self._id_of = {clip.name: clip.youtube_id for clip in clips}
        self._num_clips = Counter(self._id_of.values())
        self._by_name: dict[str, list[Found]] = {}
        self._by_id: dict[str, list[Found]] = {}
        for file in files:
            youtube_id, start, end = parsed_name(os.path.basename(file.path))
            self._by_id.setdefault(youtube_id, []).append(file)
            if start is not None and end is not None:
                name = Clip(youtube_id, start, end, "", "").name
                self._by_name.setdefault(name, []).append(file)

    def of(self, name: str) -> list[Found]:
        """The files of a clip; a replacement of another time counts if its id has one clip."""
        exact = self._by_name.get(name, [])
        youtube_id = self._id_of[name]
        if self._num_clips[youtube_id] > 1:
            return exact
        same_id = [file for file in self._by_id.get(youtube_id, []) if file not in exact]
        return [
            *exact,
            *(file for file in same_id if is_replacement(file) or _names_no_times(file)),
        ]

    def why_missing(self, name: str) -> str:
        """What else there is of the same id."""
        others = self._by_id.get(self._id_of[name], [])
        return f"there is {others[0].path}, of the same id" if others else ""


def _names_no_times(file: Found) -> bool:
    return parsed_name(os.path.basename(file.path))[1] is None


def is_replacement(file: Found) -> bool:
    """Whether it lies in a folder such as ``replacement/replacement_for_corrupted_k400``."""
    return any(folder.startswith("replacement") for folder in file.path.lower().split("/")[:-1])


# The plan


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
        version: a key of ``VERSIONS``.
        videos: the folder of the clips.
        annotations: annotation files or folders of them; ``videos/annotations`` if none.
        classes: a file with the classes in the order of their labels; else they are sorted.
        exclude_ids: files with YouTube ids that must not be trained on (see ``read_ids``).

    Raises:
        UserError: when annotations are missing or wrong, or of another number of classes.
    """
    release = VERSIONS[version]
    files, notes = find_annotations(annotations or [videos / "annotations"])
    clips = [clip for file in files for clip in read_annotations(file)]
    counted = Counter(clip.split for clip in clips)
    notes += [*_row_notes(version, counted), *_incomplete_notes(version, files)]
    labels = (clip.label for clip in clips if clip.label)
    of_folded = (
        read_class_map(classes)
        if classes
        else class_map(labels, expected=release.num_classes, what=version)
    )
    names = tuple(of_folded.values() if classes else sorted(of_folded.values()))
    _check_number(names, release.num_classes, version)
    tree = list_tree(videos)
    notes += packed_note(tree, "tar -xzf ARCHIVE -C FOLDER")
    dataset = "kinetics" if version == "other" else version
    plan = Plan(version, dataset, names, counted, public=release.copies, notes=notes)
    rows, left_out = settle_rows(
        [Wanted(c.name, c.split, c.label or None) for c in clips], of_folded
    )
    id_of = {clip.name: clip.youtube_id for clip in clips}
    rows, excluded, exclude_notes = exclude(rows, id_of, exclude_ids)
    plan.left_out = [*left_out, *excluded]
    plan.notes += [*exclude_notes, *validation_note(rows), *_shared_id_notes(clips)]
    return _matched(plan, rows, tree, clips, videos)


def _matched(
    plan: Plan, rows: Sequence[Wanted], tree: Tree, clips: Sequence[Clip], videos: Path
) -> Plan:
    files = ClipFiles(tree.videos, clips)
    return match(
        plan,
        rows,
        tree,
        root=videos,
        files_of=files.of,
        overrides=is_replacement,
        why_missing=files.why_missing,
    )


def exclude(
    rows: Sequence[Wanted], id_of: dict[str, str], files: Sequence[Path]
) -> tuple[list[Wanted], list[LeftOut], list[str]]:
    """Set aside training videos whose id is in one of these files; with a note a file."""
    file_of = {youtube_id: file for file in reversed(files) for youtube_id in read_ids(file)}
    kept: list[Wanted] = []
    left_out: list[LeftOut] = []
    num_excluded = Counter[Path]()
    for row in rows:
        file = file_of.get(id_of[row.video]) if row.split == "train" else None
        if file is None:
            kept.append(row)
            continue
        num_excluded[file] += 1
        left_out.append(LeftOut.of(row, EXCLUDED, f"its id is in {file}"))
    notes = [f"training clips whose id is in {file}: {num_excluded[file]:,}" for file in files]
    return kept, left_out, notes


def _row_notes(version: str, counted: Counter[str]) -> list[str]:
    """Where the annotation files are not those of the public release, by their rows."""
    public = VERSIONS[version].rows
    return [
        f"the {split} annotations have {counted[split]:,} rows, the public ones {rows:,}"
        for split, rows in public.items()
        if split in counted and counted[split] != rows
    ]


def _incomplete_notes(version: str, files: Iterable[Path]) -> list[str]:
    return [
        f"{file} is marked as incomplete by the publisher; {file.stem}.txt is complete"
        for file in files
        if version == "k600" and file.name in ("train.csv", "val.csv")
    ]


def _shared_id_notes(clips: Iterable[Clip]) -> list[str]:
    """Videos of which one part is trained on and another is for evaluation."""
    ids: dict[str, set[str]] = {}
    for clip in clips:
        ids.setdefault(clip.split, set()).add(clip.youtube_id)
    shared = {split: len(ids[split] & ids.get("train", set())) for split in sorted(ids)}
    return [
        f"{number:,} YouTube ids of {split} are in train too, with the same or other times"
        for split, number in shared.items()
        if number and split != "train"
    ]


def _check_number(names: Sequence[str], expected: int | None, version: str) -> None:
    if expected is not None and len(names) != expected:
        raise UserError(
            f"--classes names {len(names)} classes, but {version} has {expected}. Give the list of "
            "this version, or --version other"
        )


def find_version(name: str) -> str:
    """The key of ``VERSIONS`` that is meant: ``Kinetics-400`` and ``K400`` are ``k400``."""
    key = re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")
    key = re.sub(r"^kinetics_?", "k", key)
    if key in VERSIONS:
        return key
    guess = nearest(key, VERSIONS)
    hint = f" Did you mean {guess}?" if guess else ""
    raise UserError(f"--version {name}: not known.{hint} Choose from: {', '.join(VERSIONS)}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--version", required=True, help=f"one of {', '.join(VERSIONS)}; other: any classes")
    add_plan_arguments(made)
    add(
        "--annotations",
        type=Path,
        nargs="+",
        default=(),
        metavar="PLACE",
        help="annotation files or folders of them (VIDEOS/annotations)",
    )
    add("--classes", type=Path, help="the classes in the order of their labels (sorted by name)")
    add(
        "--exclude-ids",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="annotation files, lists or ids of videos not to train on: K400's val.csv for K700",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the lists that the command line asks for; returns the exit status."""
    options = parser().parse_args(arguments)

    def plan() -> Plan:
        return plan_kinetics(
            find_version(options.version),
            videos=options.videos,
            annotations=options.annotations,
            classes=options.classes,
            exclude_ids=options.exclude_ids,
        )

    return run_plan(options, plan)


if __name__ == "__main__":
    sys.exit(exit_status(main))
