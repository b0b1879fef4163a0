#!/usr/bin/env python3
"""Something-Something v2: the JSON files of the labels and a folder of videos -> lists.

    python data_prep/ssv2.py --annotations labels --videos 20bn-something-something-v2 --out lists

Reads labels.json, train.json, validation.json, test.json and test-answers.csv, or the same under
the older names (something-something-v2-labels.json), and finds <id>.webm, re-encoded copies of any
suffix, or folders of frames named <id>. The lists replace the JSON files: they hold only what is
there.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# The code beside this file, installed or not, and not another version that may be installed too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.command_line import exit_status
from data_prep.plan import Plan, Wanted
from data_prep.plan_files import Found, list_tree
from data_prep.plan_match import match, packed_note, read_class_map, settle_rows, validation_note
from data_prep.plan_run import add_plan_arguments, run_plan
from slowfast_mvit.data.listing.ssv2_lists import read_answers
from slowfast_mvit.data.listing.texts import raise_problems, read_json
from slowfast_mvit.errors import ListError, UserError

NUM_CLASSES = 174
ROWS = {"train": 168_913, "val": 24_777, "test": 27_157}  # of the public release

_PREFIXES = ("", "something-something-v2-")
_FILES = {"train": ("train",), "val": ("validation", "val"), "test": ("test",)}


def find_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of these files that a folder holds, under its newer or older name."""
    files = (folder / f"{prefix}{name}" for name in names for prefix in _PREFIXES)
    return next((file for file in files if file.is_file()), None)


def read_entries(file: Path, split: str, answers: dict[str, str]) -> list[Wanted]:
    """The videos of a JSON file: [{"id": "78687", "template": "Pushing [something]"}, ...].

    Args:
        file: one of train.json, validation.json, test.json.
        split: the list that its videos belong to.
        answers: classes of videos whose entries name none, by id.

    Raises:
        ListError: all problems of the file at once.
    """
    entries = read_json(file)
    if not isinstance(entries, list) or not entries:
        raise ListError(f'{file}: expected entries such as {{"id": "1", "template": "..."}}')
    problems = [
        (number, 'lacks "id", the name of the video')
        for number, entry in enumerate(entries, start=1)
        if not (isinstance(entry, dict) and isinstance(entry.get("id"), (int, str)))
    ]
    raise_problems(file, problems, what="entry")
    return [Wanted(str(entry["id"]), split, _class_of(entry, answers)) for entry in entries]


def _class_of(entry: dict[str, Any], answers: dict[str, str]) -> str | None:
    """Brackets mark what the person held; the class is the template without them."""
    if not entry.get("template"):
        return answers.get(str(entry["id"]))
    return re.sub(r"[\[\]]", "", str(entry["template"]))


def plan_ssv2(
    *, videos: Path, annotations: Path | None = None, num_classes: int = NUM_CLASSES
) -> Plan:
    """Match the JSON files of a folder with the videos below another.

    Args:
        videos: the folder of the videos.
        annotations: the folder of the JSON files; else ``videos`` or ``videos/labels``.
        num_classes: how many labels.json must name.

    Raises:
        UserError: when files are missing or wrong, or of another number of classes.
    """
    folder, labels_file = _find_labels(annotations, videos)
    of_folded = read_class_map(labels_file)
    if len(of_folded) != num_classes:
        raise UserError(
            f"{labels_file}: names {len(of_folded)} classes, expected {num_classes}. For labels of "
            f"another data set in this form give --num-classes {len(of_folded)}"
        )
    names = tuple(of_folded.values())
    wanted = list(_all_entries(folder))
    if not wanted:
        raise UserError(f"{folder}: no train.json, validation.json or test.json")
    counted = Counter(row.split for row in wanted)
    tree = list_tree(videos)
    notes = [
        *_row_notes(counted, num_classes),
        *_side_notes(names),
        *validation_note(wanted),
        *packed_note(tree, "cat 20bn-something-something-v2-?? | tar zx"),
    ]
    plan = Plan("ssv2", "ssv2", names, counted, notes=notes)
    rows, plan.left_out = settle_rows(wanted, of_folded)
    by_id: dict[str, list[Found]] = {}
    for file in tree.videos:
        by_id.setdefault(file.stem, []).append(file)
    return match(plan, rows, tree, root=videos, files_of=lambda video: by_id.get(video, []))


def _find_labels(annotations: Path | None, videos: Path) -> tuple[Path, Path]:
    folders = [annotations] if annotations else [videos, videos / "labels"]
    for folder in folders:
        file = find_file(folder, ["labels.json"])
        if file:
            return folder, file
    shown = " or ".join(map(str, folders))
    raise UserError(
        f"{shown}: no labels.json or something-something-v2-labels.json. Give the folder of the "
        "JSON files with --annotations"
    )


def _all_entries(folder: Path) -> Iterator[Wanted]:
    answers_file = find_file(folder, ["test-answers.csv"])
    answers = read_answers(answers_file) if answers_file else {}
    for split, names in _FILES.items():
        file = find_file(folder, [f"{name}.json" for name in names])
        if file:
            yield from read_entries(file, split, answers)


def _row_notes(counted: Counter[str], num_classes: int) -> list[str]:
    if num_classes != NUM_CLASSES:
        return []
    return [
        f"{split} has {counted[split]:,} entries, the public release {rows:,}"
        for split, rows in ROWS.items()
        if split in counted and counted[split] != rows
    ]


def _side_notes(names: Sequence[str]) -> list[str]:
    """Classes that a mirrored video would show wrongly."""
    sided = [name for name in names if re.search(r"\b(left|right)\b", name.replace("_", " "))]
    if not sided:
        return []
    return [f"keep DATA.RANDOM_FLIP False, since these classes name a side: {'; '.join(sided)}"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_plan_arguments(made)
    made.add_argument(
        "--annotations", type=Path, help="the folder of the JSON files (VIDEOS or VIDEOS/labels)"
    )
    made.add_argument(
        "--num-classes", type=int, default=NUM_CLASSES, help="that labels.json names (%(default)s)"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the lists that the command line asks for; returns the exit status."""
    options = parser().parse_args(arguments)
    return run_plan(
        options,
        lambda: plan_ssv2(
            videos=options.videos,
            annotations=options.annotations,
            num_classes=options.num_classes,
        ),
    )


if __name__ == "__main__":
    sys.exit(exit_status(main))
