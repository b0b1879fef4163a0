#!/usr/bin/env python3
"""ImageNet-1k: class folders, or a flat folder with its ground truth -> lists of images.

    python data_prep/imagenet.py --images imagenet --out lists
    python data_prep/imagenet.py --images imagenet --out lists --val-labels LOC_val_solution.csv
    python data_prep/imagenet.py --images imagenet --out lists --devkit ILSVRC2012_devkit_t12

Reads train/<synset>/<image> and val/<synset>/<image>, or the images of val/ in one folder with
their classes in a file. The label is the place of the synset (n01440764) among the sorted ones.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# The code beside this file, installed or not, and not another version that may be installed too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.command_line import exit_status
from data_prep.plan import Plan, Wanted
from data_prep.plan_files import Found, Tree, list_tree
from data_prep.plan_match import match, packed_note, split_of_folder
from data_prep.plan_run import add_plan_arguments, run_plan
from slowfast_mvit.data.listing.texts import open_text, raise_problems, read_json
from slowfast_mvit.errors import ListError, UserError

NUM_CLASSES = 1000
PUBLIC = {"train": {"ILSVRC2012": 1_281_167}, "val": {"ILSVRC2012": 50_000}}

_SYNSET = re.compile(r"n[0-9]{8}")
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
        images: the folder that holds ``train`` and ``val``.
        val_labels: classes of a flat ``val`` (see ``read_val_labels``).
        devkit: a folder with the ground truth and what its numbers mean (see ``read_devkit``).
        names: what the synsets are called (see ``read_names``).
        num_classes: how many there must be.

    Raises:
        UserError: when the classes are not as many, or flat images have no ground truth.
    """
    tree = list_tree(images, images=True)
    in_folders, flat = _sorted_by_form(tree)
    truth = _truth_of(flat, val_labels, devkit, _synsets(in_folders.values()))
    synsets = sorted({*_synsets(in_folders.values()), *truth.values()})
    _check_number(synsets, num_classes, images, names)
    names_of = _distinct(synsets, read_names(names) if names else {})
    wanted = [
        *(
            Wanted(path, row.split, names_of[row.class_name or ""])
            for path, row in in_folders.items()
        ),
        *(Wanted(stem, "val", names_of[synset]) for stem, synset in truth.items()),
    ]
    by_name = {file.path: [file] for file in tree.videos if file.path in in_folders}
    for file in flat:
        by_name.setdefault(file.stem, []).append(file)
    plan = Plan(
        "imagenet",
        "csv",
        tuple(names_of[synset] for synset in synsets),
        Counter(row.split for row in wanted),
        public=PUBLIC if num_classes == NUM_CLASSES else {},
        notes=packed_note(tree, "tar -xf ARCHIVE -C FOLDER"),
    )
    return match(plan, wanted, tree, root=images, files_of=lambda name: by_name.get(name, []))


def _sorted_by_form(tree: Tree) -> tuple[dict[str, Wanted], list[Found]]:
    """Images in class folders, by path; and those of a flat validation folder."""
    in_folders: dict[str, Wanted] = {}
    flat: list[Found] = []
    for file in tree.videos:
        folders = file.path.split("/")[:-1]
        split = next(filter(None, map(split_of_folder, reversed(folders))), None)
        synset = next((folder for folder in reversed(folders) if _SYNSET.fullmatch(folder)), None)
        if synset and split:
            in_folders[file.path] = Wanted(file.path, split, synset)
        elif split == "val":
            flat.append(file)
    return in_folders, flat


def _truth_of(
    flat: Sequence[Found], val_labels: Path | None, devkit: Path | None, synsets: set[str]
) -> dict[str, str]:
    """The synset of each image of a flat folder, by its name; {} where there is no such folder."""
    if not flat:
        return {}
    if val_labels:
        return read_val_labels(val_labels, truth_of_numbers(devkit), synsets)
    if devkit:
        return read_devkit(devkit)
    raise UserError(
        f"{len(flat):,} images of val lie in no class folder (first: {flat[0].path}). Give their "
        "classes with --val-labels or --devkit"
    )


def _synsets(rows: Iterable[Wanted]) -> set[str]:
    return {row.class_name for row in rows if row.class_name}


def _check_number(synsets: Sequence[str], expected: int, images: Path, names: Path | None) -> None:
    if len(synsets) == expected:
        return
    lacking = sorted(set(read_names(names)) - set(synsets)) if names else []
    hint = f" Of {names} are missing: {', '.join(lacking[:_SHOWN])}." if lacking else ""
    raise UserError(
        f"{images}: found {len(synsets)} classes, expected {expected}.{hint} Expected "
        f"train/n01440764/*.JPEG and the like; for a part of ImageNet give --num-classes "
        f"{len(synsets)}"
    )


# Ground truth of a flat folder


def read_val_labels(
    file: Path, synset_of_number: Mapping[int, str], synsets: Iterable[str]
) -> dict[str, str]:
    """The synset of each validation image, by its name without suffix.

    Read are ``ImageId,PredictionString`` with ``ILSVRC2012_val_00000001,n01751748 111 ...``; lines
    of an image and its synset; of an image and its label among the sorted synsets; of a synset, or
    of a number of the devkit, for image 1, 2, ... in turn.

    Args:
        file: the file.
        synset_of_number: what the numbers of the devkit mean; {} if unknown.
        synsets: those of the class folders, which labels count.

    Raises:
        ListError: all lines that cannot be read, at once.
    """
    truth: dict[str, str] = {}
    problems: list[tuple[int, str]] = []
    by_label = dict(enumerate(sorted(synsets)))
    lines = [line.split() for line in _text_of(file).replace(",", " ").splitlines()]
    rows = [(n, cells) for n, cells in enumerate(lines, 1) if cells and cells[0] != "ImageId"]
    for position, (line, cells) in enumerate(rows, start=1):
        alone = len(cells) == 1
        image = f"ILSVRC2012_val_{position:08d}" if alone else cells[0].rpartition("/")[2]
        word = cells[0] if alone else cells[1]
        table = synset_of_number if alone else by_label
        synset = word if _SYNSET.fullmatch(word) else table.get(_number(word))
        if synset is None:
            problems.append((line, _unknown_word(word, alone)))
        else:
            truth[image.partition(".")[0]] = synset
    raise_problems(file, problems)
    if not truth:
        raise ListError(f"{file}: holds no labels")
    return truth


def _number(word: str) -> int:
    return int(word) if re.fullmatch(r"[0-9]{1,9}", word) else -1


def _unknown_word(word: str, alone: bool) -> str:
    if alone and _number(word) >= 0:
        return f"number {word} is not known. Give the devkit that it counts in with --devkit"
    return f"{word!r} is no synset such as n01440764 and no label of one"


def read_devkit(folder: Path) -> dict[str, str]:
    """The synset of each validation image from the devkit's ground truth.

    Raises:
        ListError: when its files are missing or wrong.
    """
    files = sorted(folder.glob("**/ILSVRC*validation_ground_truth.txt"))
    if not files:
        raise ListError(
            f"{folder}: no ILSVRC2012_validation_ground_truth.txt below. Give the unpacked devkit"
        )
    return read_val_labels(files[0], truth_of_numbers(folder), ())


def truth_of_numbers(devkit: Path | None) -> dict[int, str]:
    """What the numbers of a devkit mean, from its ``map_clsloc.txt`` or ``meta.mat``.

    Raises:
        ListError: when it has neither, or SciPy is missing for the latter.
    """
    if devkit is None:
        return {}
    for name, read in {"map_clsloc.txt": _read_clsloc, "meta.mat": _read_meta}.items():
        files = sorted(devkit.glob(f"**/{name}"))
        if files:
            return read(files[0])
    raise ListError(f"{devkit}: no map_clsloc.txt and no meta.mat below. Give the unpacked devkit")


def _read_clsloc(file: Path) -> dict[int, str]:
    rows = [line.split() for line in _text_of(file).splitlines() if line.strip()]
    return {_number(row[1]): row[0] for row in rows if len(row) > 1}


def _read_meta(file: Path) -> dict[int, str]:
    try:
        scipy_io = importlib.import_module("scipy.io")
    except ImportError:
        raise ListError(
            f"{file}: needs SciPy, which is not installed: pip install scipy. Or give --val-labels "
            "with a file that names synsets"
        ) from None
    try:
        synsets = scipy_io.loadmat(str(file), squeeze_me=True)["synsets"]
        numbers, names = synsets["ILSVRC2012_ID"], synsets["WNID"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ListError(f"{file}: not the meta.mat of a devkit ({error})") from None
    return {int(number): str(name) for number, name in zip(numbers, names, strict=True)}


def _text_of(file: Path) -> str:
    with open_text(file) as text:
        return text.read()


# Names


def read_names(file: Path) -> dict[str, str]:
    """What synsets are called: lines of ``n01440764 tench, Tinca tinca``; or JSON, {synset: name}
    or {"0": [synset, name]}.

    Raises:
        ListError: when it is of no such form.
    """
    if file.suffix == ".json":
        content = read_json(file)
        pairs = list(content.items()) if isinstance(content, dict) else []
        rows = [v if isinstance(v, list) and len(v) == 2 else [k, v] for k, v in pairs]
    else:
        rows = [line.split(None, 1) for line in _text_of(file).splitlines() if line.strip()]
    wrong = [row for row in rows if len(row) != 2 or not _SYNSET.fullmatch(str(row[0]))]
    if wrong or not rows:
        found = f"found {wrong[0]!r}" if wrong else "it is empty"
        raise ListError(f"{file}: expected lines such as n01440764 tench, Tinca tinca; {found}")
    return {str(synset): str(name).partition(",")[0].strip() for synset, name in rows}


def _distinct(synsets: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """A name for each synset; two are cranes and two are maillots, which then show their synset."""
    times = Counter(names.get(synset, synset) for synset in synsets)
    return {
        synset: name if times[name] == 1 else f"{name} ({synset})"
        for synset in synsets
        for name in [names.get(synset, synset)]
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_plan_arguments(made, videos="--images")
    add = made.add_argument
    add("--val-labels", type=Path, help="the classes of a val folder without class folders")
    add("--devkit", type=Path, help="the unpacked devkit: ground truth of val and its numbers")
    add("--names", type=Path, help="what synsets are called: LOC_synset_mapping.txt or JSON")
    add("--num-classes", type=int, default=NUM_CLASSES, help="to be found (%(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the lists that the command line asks for; returns the exit status."""
    options = parser().parse_args(arguments)
    return run_plan(
        options,
        lambda: plan_imagenet(
            images=options.videos,
            val_labels=options.val_labels,
            devkit=options.devkit,
            names=options.names,
            num_classes=options.num_classes,
        ),
    )


if __name__ == "__main__":
    sys.exit(exit_status(main))
