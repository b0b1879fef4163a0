"""From what an annotation names and what lies on disk to the lists a run trains on.

    annotation  ->  [Wanted]  --+
                                +--  match  ->  Plan  --  write_plan  ->  lists and reports
    folder      ->  [Found]   --+

Nothing is left out without a line in missing.csv or extra.csv, and the counts add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from data_prep.plan_files import Found, usable_path

SPLITS = ("train", "val", "test")

# Why a video is in no list. The last two are of files, the others of annotated videos.
NO_FILE = "no file"
NO_LABEL = "no label"
DUPLICATE = "duplicate"
EXCLUDED = "excluded"
EMPTY = "empty file"
BROKEN_LINK = "broken link"
BAD_NAME = "unusable name"
UNREADABLE = "unreadable"
NOT_CHECKED = "not checked"
OVERRIDDEN = "overridden"
SECOND_FILE = "second file"
REASONS_OF_FILES = (OVERRIDDEN, SECOND_FILE)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A video that an annotation names.

    Attributes:
        video: its name in the annotation, for messages.
        split: the list it belongs to.
        class_name: its class, or None where the annotation does not say.
    """

    video: str
    split: str
    class_name: str | None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A line of missing.csv.

    Attributes:
        reason: one of the reasons above.
        path: the file in question; "" where there is none.
        detail: more in words.
    """

    split: str
    video: str
    class_name: str
    reason: str
    path: str = ""
    detail: str = ""

    @classmethod
    def of(cls, row: Wanted, reason: str, detail: str = "", path: str = "") -> LeftOut:
        """The line for a row of the annotation."""
        return cls(row.split, row.video, row.class_name or "", reason, path, detail)


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of a list, before the path is written out."""

    split: str
    video: str
    class_name: str
    file: Found


@dataclass
class Plan:
    """What goes into the lists and what does not.

    Attributes:
        name: the data set, for people.
        dataset: what a run calls data of this kind, ``TRAIN.DATASET``.
        class_names: in the order of the labels.
        num_annotated: rows of the annotation, by split.
        listed: videos with a file.
        left_out: everything else that the annotation names, and files passed over.
        extra: paths of files that the annotation does not name.
        public: for each split the numbers of videos in copies others report, by who reports them.
        notes: what else a reader should know, a sentence each.
    """

    name: str
    dataset: str
    class_names: tuple[str, ...]
    num_annotated: Mapping[str, int]
    listed: list[Listed] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    public: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def splits(self) -> list[str]:
        """The splits of the annotation: train, val, test, then others by name."""
        return sorted(self.num_annotated, key=lambda s: (SPLITS.index(s) if s in SPLITS else 9, s))


def drop_unusable(plan: Plan) -> Plan:
    """Move videos whose file is empty, a broken link, or of a name no list can hold.

    Returns:
        A plan with those among ``left_out``.
    """
    kept, left_out = [], list(plan.left_out)
    for item in plan.listed:
        reason, detail = _file_problem(item.file)
        if reason:
            left_out.append(left_out_of(item, reason, detail))
        else:
            kept.append(item)
    return _replaced(plan, kept, left_out)


def _file_problem(file: Found) -> tuple[str, str]:
    if file.num_bytes is None and not file.is_folder:
        return BROKEN_LINK, "the link leads nowhere"
    if file.num_bytes == 0:
        return EMPTY, "0 bytes"
    _, problem = usable_path(file.path)
    return (BAD_NAME, problem) if problem else ("", "")


def left_out_of(item: Listed, reason: str, detail: str = "") -> LeftOut:
    """The line of missing.csv for a video that was to be listed."""
    return LeftOut(item.split, item.video, item.class_name, reason, item.file.path, detail)


def keep_only(plan: Plan, left_out_of_item: Mapping[str, LeftOut]) -> Plan:
    """The plan without the videos whose file is named here, which move to ``left_out``."""
    kept = [item for item in plan.listed if item.file.path not in left_out_of_item]
    moved = [
        left_out_of_item[item.file.path]
        for item in plan.listed
        if item.file.path in left_out_of_item
    ]
    return _replaced(plan, kept, [*plan.left_out, *moved])


def _replaced(plan: Plan, listed: list[Listed], left_out: list[LeftOut]) -> Plan:
    return Plan(**{**vars(plan), "listed": listed, "left_out": left_out})
