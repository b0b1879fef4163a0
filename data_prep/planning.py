"""From annotations and the files on disk to the lists of a run.

    annotation  ->  [Row]   --+
                              +--  match  ->  Plan  --  write_plan  ->  lists and reports
    folder      ->  [path]  --+

Nothing is left out without a line in missing.csv or extra.csv, and the counts add up.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from slowfast_mvit.annotations.class_names import ClassIndex
from slowfast_mvit.annotations.csv_lists import file_problem
from slowfast_mvit.annotations.files import Passed, best_first, walk
from slowfast_mvit.annotations.records import Row
from slowfast_mvit.errors import UserError, in_one_message

SPLITS = ("train", "val", "test")
SHOWN = 20  # problems written out in one message

# Reasons why a video is in no list, with those of annotations/files.py. The last two are of files,
# the others of annotated videos.
NO_FILE = "no file"
NO_LABEL = "no label"
DUPLICATE = "duplicate"
EXCLUDED = "excluded"
UNREADABLE = "unreadable"
NOT_CHECKED = "not checked"
OVERRIDDEN = "overridden"
SECOND_FILE = "second file"


class LeftOut(NamedTuple):
    """A line of missing.csv: the video, one of the reasons above, the file in question or ""."""

    split: str
    video: str
    class_name: str
    reason: str
    path: str = ""
    detail: str = ""

    @classmethod
    def of(cls, row: Row | Listed, reason: str, detail: str = "", path: str = "") -> LeftOut:
        """The line for a row of the annotation."""
        return cls(row.split or "train", row.video, row.class_name or "", reason, path, detail)


class Listed(NamedTuple):
    """A line of a list; ``num_bytes`` is None for a folder of frames."""

    split: str
    video: str
    class_name: str
    path: str
    num_bytes: int | None


@dataclass
class Plan:
    """The videos of each list, and those in none.

    Attributes:
        name: of the data set, for the report.
        dataset: ``TRAIN.DATASET`` of a run on these lists.
        class_names: in the order of the labels.
        num_annotated: rows of the annotation, by split; ``match`` counts them.
        listed: videos with a file.
        left_out: everything else that the annotation names, and files passed over.
        extra: paths of files that the annotation does not name.
        public: for each split the numbers of videos in copies others report, by who reports them.
        notes: further remarks for the report, a sentence each.
        trains_all_classes: lists in which training lacks a class are refused.
    """

    name: str
    dataset: str
    class_names: tuple[str, ...]
    num_annotated: Mapping[str, int] = field(default_factory=dict)
    listed: list[Listed] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    public: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    trains_all_classes: bool = False

    @property
    def splits(self) -> list[str]:
        """The splits of the annotation: train, val, test, then others by name."""
        return sorted(self.num_annotated, key=lambda s: (SPLITS.index(s) if s in SPLITS else 9, s))


# Files


def list_tree(root: Path, *, images: bool = False) -> tuple[list[str], Passed]:
    """List the videos below a folder by their paths, and the files that are passed over.

    Args:
        root: the folder.
        images: whether each image is an item; else a folder with images and no videos
            is a video, made of these frames.

    Raises:
        UserError: when it is no folder, or folders below cannot be read (all of them named).
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "no such folder"
        raise UserError(f"{root}: {what}. Give the folder of the videos")
    passed = Passed()
    paths = walk(root, passed, images_in=lambda folder: images)
    videos = sorted(tqdm(paths, desc=f"listing {root}", unit=" files", delay=2, leave=False))
    if passed.unreadable:
        problems = [f"{folder}: {reason}" for folder, reason in sorted(passed.unreadable)]
        where = f"{root}: folders that cannot be read"
        raise UserError(in_one_message(where, problems, limit=SHOWN))
    return videos, passed


# Rows and files


def settle_rows(rows: Sequence[Row], class_names: Sequence[str]) -> tuple[list[Row], list[LeftOut]]:
    """Give rows the canonical spelling of their class; set aside rows without, and repetitions.

    Of a video annotated twice the first row counts, and one for evaluation before one for training.
    """
    classes = ClassIndex(class_names)
    settled: dict[str, Row] = {}
    left_out = []
    for row in sorted(rows, key=lambda row: row.split == "train"):
        label = classes.find(row.class_name) if row.class_name else None
        name = None if label is None else class_names[label]
        first = settled.get(row.video)
        if first is not None:
            other = f" of {first.class_name!r}" if name != first.class_name else ""
            left_out.append(LeftOut.of(row, DUPLICATE, f"also annotated in {first.split}{other}"))
        elif name is None:
            unknown = f"not among the classes{classes.hint(row.class_name or '')}"
            detail = unknown if row.class_name else "the annotation gives no label"
            left_out.append(LeftOut.of(row, NO_LABEL, detail))
        else:
            settled[row.video] = row._replace(class_name=name)
    return list(settled.values()), left_out


def match(
    plan: Plan,
    rows: Sequence[Row],
    videos: Sequence[str],
    *,
    root: Path,
    files_of: Callable[[str], Sequence[str]],
    overrides: Callable[[str], bool] = lambda path: False,
    why_missing: Callable[[str], str] = lambda video: "",
) -> Plan:
    """Find the file of each annotated video; links to the same file count as one.

    Videos whose file is empty, a broken link, or of a name that no list can contain are left out.

    Args:
        plan: the plan so far, with the rows that are left out; the rest is added to a copy.
        rows: the other rows: videos with a class, each once.
        videos: all files below ``root``.
        root: the folder of the videos.
        files_of: the files of a video, by its name.
        overrides: whether a file replaces others of the same video.
        why_missing: a remark on a video without a file, by its name.
    """
    listed, left_out = list(plan.listed), list(plan.left_out)
    used: set[str] = set()
    listed_as: dict[str, Row] = {}
    for row in rows:
        files = best_first(files_of(row.video), row, root=root, overrides=overrides)
        used.update(files)
        if not files:
            left_out.append(LeftOut.of(row, NO_FILE, why_missing(row.video)))
            continue
        chosen, *others = files
        other = listed_as.setdefault(chosen, row)
        if other is not row:
            detail = f"its file is listed as {other.video!r} of {other.class_name!r}"
            left_out.append(LeftOut.of(row, DUPLICATE, detail, chosen))
            continue
        problem, num_bytes = file_problem(root / chosen, chosen)
        if problem:
            left_out.append(LeftOut.of(row, *problem, chosen))
        else:
            listed.append(
                Listed(row.split or "train", row.video, row.class_name or "", chosen, num_bytes)
            )
        reason = OVERRIDDEN if overrides(chosen) else SECOND_FILE
        left_out += [
            LeftOut.of(row, reason, f"by {chosen}", path)
            for path in others
            if not _same_file(root / path, root / chosen)
        ]
    # The file of a video that is left out is named by the annotation all the same.
    used.update(path for item in plan.left_out for path in files_of(item.video))
    extra = [path for path in videos if path not in used]
    counted = Counter(row.split or "train" for row in rows)
    counted.update(item.split for item in plan.left_out)
    return replace(plan, num_annotated=counted, listed=listed, left_out=left_out, extra=extra)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


# Notes


def validation_note(rows: Iterable[Row]) -> list[str]:
    """A note on labelled test videos, where the published results are of validation."""
    if not any(row.split == "test" and row.class_name for row in rows):
        return []
    return [
        "test.csv is among the lists, so testing reads it; published results are of the "
        "validation videos: to compare with them, remove test.csv"
    ]


def packed_note(packed: Sequence[str], unpack: str) -> list[str]:
    """Notes with the commands that unpack the archives that are still packed."""
    if not packed:
        return []
    many = "1 archive is" if len(packed) == 1 else f"{len(packed)} archives are"
    return [f"{many} still packed (first: {min(packed)}). Unpack with: {unpack}"]


def row_notes(rows: Iterable[Row], public: Mapping[str, int]) -> list[str]:
    """Notes on annotation files that differ from the public release in the number of rows."""
    counted = Counter(row.split for row in rows)
    return [
        f"the {split} annotations have {counted[split]:,} rows, the public ones {number:,}"
        for split, number in public.items()
        if split in counted and counted[split] != number
    ]
