"""Which file is which annotated video."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from data_prep.plan import (
    DUPLICATE,
    NO_FILE,
    NO_LABEL,
    OVERRIDDEN,
    SECOND_FILE,
    LeftOut,
    Listed,
    Plan,
    Wanted,
)
from data_prep.plan_files import Found, Tree
from slowfast_mvit.data.listing.class_names import folded, read_class_names
from slowfast_mvit.errors import UserError, in_one_message, nearest

_SHOWN = 5
_SPLIT_OF_NAME = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_of_folder(name: str) -> str | None:
    """The split that a folder holds by its name, or None: ``Validation`` -> "val"."""
    return _SPLIT_OF_NAME.get(name.lower())


def split_named_in(text: str) -> str | None:
    """The split that the name of a file speaks of: ``kinetics_700_validate`` -> "val"."""
    words = set(re.split(r"[^a-z]+", text.lower()))
    if "holdout" in words:
        return "holdout_test"
    found = {_SPLIT_OF_NAME[word] for word in words & _SPLIT_OF_NAME.keys()}
    return found.pop() if len(found) == 1 else None


# Classes


def class_map(names: Iterable[str], *, expected: int | None, what: str) -> dict[str, str]:
    """One spelling for each class, by its folded name.

    Args:
        names: the class of each annotated video; the most frequent spelling wins.
        expected: how many classes the data set has; None for any number.
        what: the data set, for messages.

    Raises:
        UserError: when there are more or fewer classes than expected.
    """
    spellings: dict[str, Counter[str]] = {}
    for name in names:
        spellings.setdefault(folded(name), Counter())[name] += 1
    if expected is not None and len(spellings) != expected:
        rarest = sorted(spellings, key=lambda key: (spellings[key].total(), key))[:_SHOWN]
        raise UserError(
            f"{what}: the annotations name {len(spellings)} classes, but {what} has {expected}. "
            f"The rarest are {', '.join(rarest)}. An annotation file is missing or of another "
            "version; for a part of the data set give --version other"
        )
    return {
        key: min(counts, key=lambda name: (-counts[name], name))
        for key, counts in spellings.items()
    }


def read_class_map(file: Path) -> dict[str, str]:
    """The classes of a file, in its order, by folded name.

    Raises:
        UserError: when two of its names fold to the same; both are named.
    """
    names = read_class_names(file)
    by_folded: dict[str, str] = {}
    problems = [
        f"{name!r} and {by_folded[folded(name)]!r} are the same class"
        for name in names
        if by_folded.setdefault(folded(name), name) is not name
    ]
    if problems:
        raise UserError(in_one_message(str(file), problems))
    return by_folded


def clean(name: str) -> str:
    """A class folder's name as people read it: ``jump__rope `` -> "jump rope"."""
    return re.sub(r"[_\s]+", " ", name).strip()


def composed(name: str) -> str:
    """Letters with accents as one character each; macOS writes file names with two."""
    return unicodedata.normalize("NFC", name)


def spelling_problems(names: Iterable[str], what: str) -> Iterator[str]:
    """Names that people would read as the same class, in words."""
    first: dict[str, str] = {}
    for name in names:
        key = composed(clean(name)).casefold()
        if first.setdefault(key, name) != name:
            show = ascii if composed(first[key]) == composed(name) else repr  # they look alike
            yield f"{what} {show(first[key])} and {show(name)} differ only in spelling"


# Videos


def settle_rows(
    wanted: Sequence[Wanted], classes: dict[str, str]
) -> tuple[list[Wanted], list[LeftOut]]:
    """Give rows their class in the one spelling; set aside those without, and repetitions.

    Of a video annotated twice the first row counts, and one for evaluation before one for training.
    """
    settled: dict[str, Wanted] = {}
    left_out = []
    unknown: dict[str | None, str] = {}
    for row in sorted(wanted, key=lambda row: row.split == "train"):
        name = classes.get(folded(row.class_name)) if row.class_name else None
        first = settled.get(row.video)
        if first is not None:
            other = f" of {first.class_name!r}" if name != first.class_name else ""
            left_out.append(LeftOut.of(row, DUPLICATE, f"also annotated in {first.split}{other}"))
        elif name is None:
            if row.class_name not in unknown:  # the nearest of 700 takes a while
                unknown[row.class_name] = _why_no_class(row.class_name, classes)
            left_out.append(LeftOut.of(row, NO_LABEL, unknown[row.class_name]))
        else:
            settled[row.video] = Wanted(row.video, row.split, name)
    return list(settled.values()), left_out


def _why_no_class(name: str | None, classes: dict[str, str]) -> str:
    if not name:
        return "the annotation gives no label"
    guess = nearest(name, classes.values())
    return "not among the classes" + (f"; the nearest is {guess!r}" if guess else "")


def match(
    plan: Plan,
    wanted: Iterable[Wanted],
    tree: Tree,
    *,
    root: Path,
    files_of: Callable[[str], Sequence[Found]],
    overrides: Callable[[Found], bool] = lambda file: False,
    why_missing: Callable[[str], str] = lambda video: "",
) -> Plan:
    """Find the file of each wanted video.

    Where several files are of one video, one that holds something comes first, then one that
    ``overrides``, one in a folder named for its split, the first by name. Links to the same file
    count as one.

    Args:
        plan: what is known so far; videos and files are added to a copy.
        wanted: videos with a class, each once.
        tree: what lies below ``root``.
        root: the folder of the videos.
        files_of: the files of a video, by its name.
        overrides: whether a file replaces others of the same video.
        why_missing: what else is known of a video without a file.
    """
    listed, left_out = list(plan.listed), list(plan.left_out)
    used: set[str] = set()
    listed_as: dict[str, Wanted] = {}
    for row in wanted:
        files = sorted(files_of(row.video), key=lambda file: _rank(file, row.split, overrides))
        used.update(file.path for file in files)
        if not files:
            left_out.append(LeftOut.of(row, NO_FILE, why_missing(row.video)))
            continue
        chosen, *others = files
        other = listed_as.setdefault(chosen.path, row)
        if other is not row:
            detail = f"its file is listed as {other.video!r} of {other.class_name!r}"
            left_out.append(LeftOut.of(row, DUPLICATE, detail, chosen.path))
            continue
        listed.append(Listed(row.split, row.video, row.class_name or "", chosen))
        reason = OVERRIDDEN if overrides(chosen) else SECOND_FILE
        left_out += [
            LeftOut.of(row, reason, f"by {chosen.path}", file.path)
            for file in others
            if not _same_file(root / file.path, root / chosen.path)
        ]
    # A second row of a video does not make its file one that nobody asked for.
    repeated = {item.video for item in plan.left_out}
    used.update(file.path for video in repeated for file in files_of(video))
    extra = [file.path for file in tree.videos if file.path not in used]
    return Plan(**{**vars(plan), "listed": listed, "left_out": left_out, "extra": extra})


def _rank(
    file: Found, split: str, overrides: Callable[[Found], bool]
) -> tuple[bool, bool, bool, str]:
    folders = os.path.dirname(file.path).split("/")
    in_split = any(split_of_folder(folder) == split for folder in folders)
    holds_nothing = not (file.num_bytes or file.is_folder)
    return holds_nothing, not overrides(file), not in_split, file.path


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def validation_note(rows: Iterable[Wanted]) -> list[str]:
    """For a release with labelled test videos whose published results are of validation."""
    if not any(row.split == "test" and row.class_name for row in rows):
        return []
    return [
        "test.csv is among the lists, so testing reads it; published results are of the "
        "validation videos: to compare with them, remove test.csv"
    ]


def packed_note(tree: Tree, unpack: str) -> list[str]:
    """What to do with archives that are still packed, as a note; none where there are none."""
    if not tree.packed:
        return []
    many = "1 archive is" if len(tree.packed) == 1 else f"{len(tree.packed)} archives are"
    return [f"{many} still packed (first: {tree.packed[0]}). Unpack with: {unpack}"]
