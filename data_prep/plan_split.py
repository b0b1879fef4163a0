"""The split into videos for training, validation and testing.

A video's side follows from its name alone, through a hash: videos that are added later move none
of the others, and the same folder is split alike on every machine.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence

from data_prep.plan import SHOWN
from slowfast_mvit.annotations.records import Row
from slowfast_mvit.errors import UserError, in_one_message

VAL_FRACTION = 0.2  # where neither folders, nor a table, nor the user says how to split


def assign_splits(
    rows: Sequence[Row],
    *,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    group_by: str | None = None,
) -> tuple[list[Row], list[str]]:
    """Give each video a side.

    Videos without a split, and videos of "train" where there is no other split, are divided; the
    rest stay where they are.

    Args:
        rows: the videos.
        val_fraction: part of them to hold out for validation, 0 to 1; None for 0.2 where no video
            has a split, else for 0.
        test_fraction: the same for testing; None for 0.
        group_by: a regular expression that finds the source of a video in its name (its groups,
            or all of it if it has none). Videos of one source get one side.

    Returns:
        The videos, and notes on how they were divided.

    Raises:
        UserError: when the fractions do not fit each other or the splits that exist, or names have
            no source.
    """
    given = {row.split for row in rows if row.split}
    val = (0.0 if given else VAL_FRACTION) if val_fraction is None else val_fraction
    test = test_fraction or 0.0
    _check_fractions(val, test, given)
    divides = bool(val or test)
    source_of = _sources(rows, group_by)
    wanted = []
    for row in rows:
        split = row.split or "train"
        if divides and split == "train":
            split = _side(source_of[row.video], val, test)
        wanted.append(row._replace(split=split))
    notes = []
    if divides:
        by = f"sources ({group_by})" if group_by else "names"
        notes.append(f"{val:g} of the videos go to val and {test:g} to test, by their {by}")
    elif given:
        notes.append(f"the splits {', '.join(sorted(given))} are taken as they are")
    return wanted, [*notes, *_leaks(wanted, source_of, group_by)]


def _check_fractions(val: float, test: float, given: set[str]) -> None:
    problems = [
        f"--{split}-fraction {fraction:g} is not from 0 to below 1"
        for split, fraction in (("val", val), ("test", test))
        if not 0 <= fraction < 1
    ]
    if not problems and val + test >= 1:
        problems.append(f"--val-fraction {val:g} and --test-fraction {test:g} leave none for train")
    problems += [
        f"--{split}-fraction {fraction:g}, but there is a split {split!r} already"
        for split, fraction in (("val", val), ("test", test))
        if fraction and split in given
    ]
    if problems:
        raise UserError(in_one_message("options", problems))


def _sources(rows: Sequence[Row], group_by: str | None) -> dict[str, str]:
    """Return what a video is divided by: its source, or its name without suffix."""
    if group_by is None:
        return {row.video: os.path.splitext(row.video)[0] for row in rows}
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UserError(f"--group-by {group_by}: not a regular expression ({error})") from None
    found = {row.video: pattern.search(row.video) for row in rows}
    without = [f"{video!r} does not match" for video, match in found.items() if match is None]
    if without:
        raise UserError(in_one_message(f"--group-by {group_by}", without, limit=SHOWN))
    return {
        video: "\n".join(group or "" for group in match.groups()) or match[0]
        for video, match in found.items()
        if match is not None
    }


def _side(source: str, val: float, test: float) -> str:
    digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    if place < test:
        return "test"
    return "val" if place < test + val else "train"


def _leaks(wanted: Sequence[Row], source_of: dict[str, str], group_by: str | None) -> list[str]:
    """Sources on several sides, which only splits that were given can have."""
    if group_by is None:
        return []
    sides = Counter(source for source, _ in {(source_of[r.video], r.split) for r in wanted})
    leaked = sorted(source for source, count in sides.items() if count > 1)
    if not leaked:
        return []
    return [f"{len(leaked)} sources are in several splits, {leaked[0]!r} for example: a leak"]
