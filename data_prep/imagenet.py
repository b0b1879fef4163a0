#!/usr/bin/env python3
"""ImageNet-1k: class folders, or a flat folder with its ground truth -> lists of images.

    python data_prep/imagenet.py --images imagenet --out lists
    python data_prep/imagenet.py --images imagenet --out lists --val-labels LOC_val_solution.csv
    python data_prep/imagenet.py --images imagenet --out lists --devkit ILSVRC2012_devkit_t12

Reads train/<synset>/<image> and val/<synset>/<image>, or the images of val/ in one folder with
their classes in a file. The label is the index of the synset (n01440764) among the sorted ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# The package next to this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.command_line import exit_status
from data_prep.plan_run import run_script
from data_prep.planning import Plan, list_tree, match, packed_note
from slowfast_mvit.annotations import imagenet
from slowfast_mvit.annotations.columns import KeyIndex
from slowfast_mvit.annotations.files import stem
from slowfast_mvit.annotations.records import Row
from slowfast_mvit.errors import UserError

NUM_CLASSES = 1000
PUBLIC = {"train": {"ILSVRC2012": 1_281_167}, "val": {"ILSVRC2012": 50_000}}

_SHOWN = 5


def plan_imagenet(
    *,
    images: Path,
    val_labels: Path | None = None,
    devkit: Path | None = None,
    names: Path | None = None,
    num_classes: int = NUM_CLASSES,
) -> Plan:
    """Match class folders, or the ground truth of a flat folder, with the images below a folder.

    Args:
        images: the folder of ``train`` and ``val``.
        val_labels: classes of a flat ``val`` (see ``read_val_labels``).
        devkit: a folder with the ground truth and the synsets of its numbers (see ``read_devkit``).
        names: a file with the names of the synsets (see ``read_names``).
        num_classes: the expected number.

    Raises:
        UserError: when the classes are not as many, or flat images have no ground truth.
    """
    paths, passed = list_tree(images, images=True)
    in_folders: list[Row] = []
    flat: list[str] = []
    for path in paths:
        split, synset = imagenet.place_of(path)
        if synset and split:
            in_folders.append(Row(path, split, synset))
        elif split == "val":
            flat.append(path)
    of_folders = {row.class_name for row in in_folders if row.class_name}
    truth = _truth_of(flat, val_labels, devkit, of_folders)
    synsets = sorted({*of_folders, *truth.values()})
    _check_number(synsets, num_classes, images, names)
    names_of = imagenet.distinct_names(synsets, imagenet.read_names(names) if names else {})
    rows = [row._replace(class_name=names_of[row.class_name or ""]) for row in in_folders]
    rows += [Row(image, "val", names_of[synset]) for image, synset in truth.items()]
    plan = Plan(
        "imagenet",
        "csv",
        tuple(names_of[synset] for synset in synsets),
        public=PUBLIC if num_classes == NUM_CLASSES else {},
        notes=packed_note(passed.packed, "tar -xf ARCHIVE -C FOLDER"),
    )
    in_folder = {row.video for row in in_folders}
    by_stem = KeyIndex(flat, stem)

    def files_of(name: str) -> list[str]:
        return [name] if name in in_folder else by_stem.find(name)

    return match(plan, rows, paths, root=images, files_of=files_of)


def _truth_of(
    flat: Sequence[str], val_labels: Path | None, devkit: Path | None, synsets: set[str]
) -> dict[str, str]:
    """The synset of each image of a flat folder, by its name; {} where there is no such folder."""
    if not flat:
        return {}
    if val_labels:
        numbers = imagenet.read_numbers(devkit) if devkit else {}
        return imagenet.read_val_labels(val_labels, numbers, synsets)
    if devkit:
        return imagenet.read_devkit(devkit)
    raise UserError(
        f"{len(flat):,} images of val are in no class folder (first: {flat[0]}). Give their "
        "classes with --val-labels or --devkit"
    )


def _check_number(synsets: Sequence[str], expected: int, images: Path, names: Path | None) -> None:
    if len(synsets) == expected:
        return
    lacking = sorted(set(imagenet.read_names(names)) - set(synsets)) if names else []
    hint = f" Of {names} are missing: {', '.join(lacking[:_SHOWN])}." if lacking else ""
    raise UserError(
        f"{images}: found {len(synsets)} classes, expected {expected}.{hint} Expected "
        f"train/n01440764/*.JPEG and the like; for a part of ImageNet give --num-classes "
        f"{len(synsets)}"
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--val-labels", type=Path, help="the classes of a val folder without class folders")
    add("--devkit", type=Path, help="the unpacked devkit: ground truth of val and its numbers")
    add("--names", type=Path, help="what synsets are called: LOC_synset_mapping.txt or JSON")
    add("--num-classes", type=int, default=NUM_CLASSES, help="to be found (%(default)s)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    return run_script(plan_imagenet, __doc__, _add_arguments, arguments, videos="images")


if __name__ == "__main__":
    sys.exit(exit_status(main))
