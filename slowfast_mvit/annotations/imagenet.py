"""ImageNet: class folders named by WordNet, PySlowFast's JSON, and the ground truth of a flat val.

train/n01440764/n01440764_10026.JPEG
train.json                       [{"im_path": "train/n01440764/...", "class": 0}, ...]
val/ILSVRC2012_val_00000001.JPEG with LOC_val_solution.csv or the devkit
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from slowfast_mvit.annotations import records
from slowfast_mvit.annotations.class_folders import ClassFolders, list_of_files, sub_folders
from slowfast_mvit.annotations.records import Annotated, ListSource, Problem
from slowfast_mvit.annotations.texts import json_entries, numbered_lines, read_json
from slowfast_mvit.errors import ListError

IMAGENET_FILES = ("train.json", "val.json", "test.json")

_SYNSET = re.compile(r"n[0-9]+")


# Class folders


def place_of(path: str) -> tuple[str | None, str | None]:
    """The split and the synset of an image by its folders, the innermost that are named so."""
    folders = path.split("/")[-2::-1]
    split = next(filter(None, map(records.split_of_folder, folders)), None)
    return split, next(filter(_SYNSET.fullmatch, folders), None)


def read_imagenet(source: ListSource) -> Annotated:
    """Read ``<split>.json``, or ``<split>/<class>/<image>``.

    As in PySlowFast, folders named like ``n01440764`` are the classes; other folders are classes
    only where none is named so.

    Raises:
        ListError: all problems of the list at once.
    """
    records.check_folder(source.folder)
    names = [f"{name}.json" for name in records.SPLIT_NAMES[source.split]]
    if any((source.folder / name).is_file() for name in names):
        return _read_json(source)
    root = records.find_split(source, suffix="")
    named = {records.split_of_folder(name): name for name in sub_folders(source.folder)}
    splits = {split: name for split, name in named.items() if split} | {source.split: root.name}
    folders = ClassFolders(source.folder, splits, images=True)
    names_in = {name for split in splits for name in sub_folders(folders.folder_of(split))}
    folders.names = sorted(filter(_SYNSET.fullmatch, names_in)) or sorted(names_in)
    return list_of_files(source, folders, source.split)


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
        synset_of_number: of the numbers of the devkit; {} if unknown.
        synsets: those of the class folders, which labels count.

    Raises:
        ListError: all lines that cannot be read, at once.
    """
    truth: dict[str, str] = {}
    problems: list[Problem] = []
    by_label = dict(enumerate(sorted(synsets)))
    lines = ((line, text.replace(",", " ").split()) for line, text in numbered_lines(file))
    rows = ((line, cells) for line, cells in lines if cells and cells[0] != "ImageId")
    for position, (line, cells) in enumerate(rows, start=1):
        alone = len(cells) == 1
        image = f"ILSVRC2012_val_{position:08d}" if alone else cells[0].rpartition("/")[2]
        word = cells[0] if alone else cells[1]
        table = synset_of_number if alone else by_label
        synset = word if _SYNSET.fullmatch(word) else table.get(_number(word))
        if synset is None:
            problems.append(Problem(file, line, "class", _unknown_word(word, alone)))
        else:
            truth[image.partition(".")[0]] = synset
    records.raise_problems(problems)
    if not truth:
        raise ListError("contains no labels", file)
    return truth


def _number(word: str) -> int:
    return int(word) if re.fullmatch(r"[0-9]{1,9}", word) else -1


def _unknown_word(word: str, alone: bool) -> str:
    if alone and _number(word) >= 0:
        return f"number {word} is not known. Give its devkit with --devkit"
    return f"{word!r} is no synset such as n01440764 and no label of one"


def read_devkit(folder: Path) -> dict[str, str]:
    """The synset of each validation image from the devkit's ground truth.

    Raises:
        ListError: when its files are missing or wrong.
    """
    files = sorted(folder.glob("**/ILSVRC*validation_ground_truth.txt"))
    if not files:
        raise ListError(
            "no ILSVRC2012_validation_ground_truth.txt below. Give the unpacked devkit", folder
        )
    return read_val_labels(files[0], read_numbers(folder), ())


def read_numbers(devkit: Path) -> dict[int, str]:
    """The synset of each number of a devkit, from its ``map_clsloc.txt`` or ``meta.mat``.

    Raises:
        ListError: when it has neither, or SciPy is missing for the latter.
    """
    for name, read in {"map_clsloc.txt": _read_clsloc, "meta.mat": _read_meta}.items():
        files = sorted(devkit.glob(f"**/{name}"))
        if files:
            return read(files[0])
    raise ListError("no map_clsloc.txt and no meta.mat below. Give the unpacked devkit", devkit)


def _read_clsloc(file: Path) -> dict[int, str]:
    rows = (line.split() for _, line in numbered_lines(file))
    return {_number(row[1]): row[0] for row in rows if len(row) > 1}


def _read_meta(file: Path) -> dict[int, str]:
    try:
        scipy_io = importlib.import_module("scipy.io")
    except ImportError:
        raise ListError(
            "needs SciPy, which is not installed: pip install scipy. Or give --val-labels with a "
            "file that names synsets",
            file,
        ) from None
    try:
        synsets = scipy_io.loadmat(str(file), squeeze_me=True)["synsets"]
        numbers, names = synsets["ILSVRC2012_ID"], synsets["WNID"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ListError(f"not the meta.mat of a devkit ({error})", file) from None
    return {int(number): str(name) for number, name in zip(numbers, names, strict=True)}


# Names


def read_names(file: Path) -> dict[str, str]:
    """The names of synsets: lines of ``n01440764 tench, Tinca tinca``; or JSON, {synset: name} or
    {"0": [synset, name]}.

    Raises:
        ListError: when it is of no such form.
    """
    if file.suffix == ".json":
        content = read_json(file)
        pairs = list(content.items()) if isinstance(content, dict) else []
        rows = [v if isinstance(v, list) and len(v) == 2 else [k, v] for k, v in pairs]
    else:
        rows = [line.split(None, 1) for _, line in numbered_lines(file)]
    wrong = [row for row in rows if len(row) != 2 or not _SYNSET.fullmatch(str(row[0]))]
    if wrong or not rows:
        found = f"found {wrong[0]!r}" if wrong else "it is empty"
        raise ListError(f"expected lines such as n01440764 tench, Tinca tinca; {found}", file)
    return {str(synset): str(name).partition(",")[0].strip() for synset, name in rows}


def distinct_names(synsets: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """A name for each synset; two are cranes and two are maillots, whose names get their synset."""
    times = Counter(names.get(synset, synset) for synset in synsets)
    return {
        synset: name if times[name] == 1 else f"{name} ({synset})"
        for synset in synsets
        for name in [names.get(synset, synset)]
    }


# PySlowFast's JSON


def _read_json(source: ListSource) -> Annotated:
    file = records.find_split(source, suffix=".json")
    return records.collect(_entries(file, source.num_classes), file, source)


def _entries(file: Path, num_classes: int | None) -> Iterator[tuple[int, str, int] | Problem]:
    for number, entry in enumerate(json_entries(file), start=1):
        fault = _fault(entry, num_classes)
        if fault:
            yield Problem(file, number, *fault)
        else:
            yield number, entry["im_path"], entry["class"]


def _fault(entry: object, num_classes: int | None) -> tuple[str, str] | None:
    if not isinstance(entry, dict) or not {"im_path", "class"} <= entry.keys():
        return "columns", 'lacks "im_path" or "class"'
    path, label = entry["im_path"], entry["class"]
    if not isinstance(path, str):
        return "path", f"im_path {path!r} is not a text"
    if not isinstance(label, int) or isinstance(label, bool):
        return "label", f"class {label!r} is not a whole number"
    return records.entry_fault(path, label, num_classes)
