#!/usr/bin/env python3
"""Something-Something v2: the JSON files of the labels and a folder of videos -> lists.

    python data_prep/ssv2.py --annotations labels --videos 20bn-something-something-v2 --out lists

Reads labels.json, train.json, validation.json, test.json and test-answers.csv, or the same under
the older names (something-something-v2-labels.json), and finds <id>.webm, re-encoded copies of any
suffix, or folders of frames named <id>. The lists replace the JSON files: they contain only
videos that exist.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# The package next to this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep import planning
from data_prep.command_line import exit_status
from data_prep.plan_run import run_script
from data_prep.planning import Plan
from slowfast_mvit.annotations import ssv2
from slowfast_mvit.annotations.class_names import read_class_names, spelling_problems
from slowfast_mvit.annotations.columns import KeyIndex
from slowfast_mvit.annotations.files import stem
from slowfast_mvit.annotations.records import Row, raise_problems, usable_rows
from slowfast_mvit.errors import ListError, UserError

NUM_CLASSES = 174
ROWS = {"train": 168_913, "val": 24_777, "test": 27_157}  # of the public release


def plan_ssv2(
    *, videos: Path, annotations: Path | None = None, num_classes: int = NUM_CLASSES
) -> Plan:
    """Match the JSON files of a folder with the videos below another.

    Args:
        videos: the folder of the videos.
        annotations: the folder of the JSON files; else ``videos`` or ``videos/labels``.
        num_classes: the number of classes that labels.json must name.

    Raises:
        UserError: when files are missing or wrong, or of another number of classes.
    """
    folder, labels_file = _find_labels(annotations, videos)
    names = read_class_names(labels_file)
    raise_problems(spelling_problems(names, labels_file, "classes", loosely=True))
    if len(names) != num_classes:
        raise UserError(
            f"{labels_file}: names {len(names)} classes, expected {num_classes}. For labels of "
            f"another data set in this form give --num-classes {len(names)}"
        )
    rows = list(_all_rows(folder))
    if not rows:
        raise UserError(f"{folder}: no train.json, validation.json or test.json")
    paths, passed = planning.list_tree(videos)
    notes = [
        *(planning.row_notes(rows, ROWS) if num_classes == NUM_CLASSES else []),
        *_side_notes(names),
        *planning.validation_note(rows),
        *planning.packed_note(passed.packed, "cat 20bn-something-something-v2-?? | tar zx"),
    ]
    plan = Plan("ssv2", "ssv2", names, notes=notes)
    settled, plan.left_out = planning.settle_rows(rows, names)
    files = KeyIndex(paths, stem)
    return planning.match(plan, settled, paths, root=videos, files_of=files.find)


def _find_labels(annotations: Path | None, videos: Path) -> tuple[Path, Path]:
    folders = [annotations] if annotations else [videos, videos / "labels"]
    for folder in folders:
        file = ssv2.find_file(folder, ssv2.LABELS)
        if file:
            return folder, file
    shown = " or ".join(map(str, folders))
    raise UserError(
        f"{shown}: no labels.json or something-something-v2-labels.json. Give the folder of the "
        "JSON files with --annotations"
    )


def _all_rows(folder: Path) -> Iterator[Row]:
    answers_file = ssv2.find_file(folder, ssv2.ANSWERS)
    answers = ssv2.read_answers(answers_file) if answers_file else {}
    for split, names in ssv2.SPLITS.items():
        file = ssv2.find_file(folder, names)
        if file is None:
            continue
        rows = usable_rows(ssv2.read_rows(file, split, answers))
        if not rows:
            raise ListError('expected entries such as {"id": "1", "template": "..."}', file)
        yield from rows


def _side_notes(names: Sequence[str]) -> list[str]:
    """A note on classes that change when a video is mirrored."""
    sided = [name for name in names if re.search(r"\b(left|right)\b", name.replace("_", " "))]
    if not sided:
        return []
    return [f"keep DATA.RANDOM_FLIP False, since these classes name a side: {'; '.join(sided)}"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--annotations", type=Path, help="the folder of the JSON files (VIDEOS or VIDEOS/labels)")
    text = "that labels.json names (%(default)s)"
    add("--num-classes", type=int, default=NUM_CLASSES, help=text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    return run_script(plan_ssv2, __doc__, _add_arguments, arguments)


if __name__ == "__main__":
    sys.exit(exit_status(main))
