"""Videos that a strict check found damaged are left out of the lists."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.jobs import JobInput, run_jobs
from data_prep.journal import Record, read_records
from data_prep.merging import merge
from data_prep.parts import Shard
from data_prep.plan import NOT_CHECKED, UNREADABLE, Listed, Plan, keep_only, left_out_of
from data_prep.plan_check import check_file
from slowfast_mvit.errors import UserError

_RECORDS = "check.jsonl"


def records_of(files: Iterable[Path]) -> Iterator[Record]:
    """The records of these files of ``check_videos.py``, joined or of one shard each.

    Raises:
        UserError: when one is missing or damaged.
    """
    for file in files:
        yield from read_records(file)


def check_listed(
    plan: Plan, out: Path, *, videos: Path, shard: Shard, num_workers: int, timeout_s: float
) -> str:
    """Check the files of a plan that belong to a shard, as ``check_videos.py`` does.

    What was checked before and has not changed since is not checked again.

    Args:
        plan: its files are checked, except folders of frames.
        out: the folder for the records.
        videos: where the paths in the plan start.
        shard: which part of the files is checked here.
        num_workers: processes.
        timeout_s: for one file.

    Returns:
        The counts, in words.
    """
    files = sorted({item.file.path for item in plan.listed if not item.file.is_folder})
    counts = run_jobs(
        [JobInput(path, videos / path) for path in files],
        check_file,
        out / _RECORDS,
        job="check_videos",
        settings={},
        shard=shard,
        num_workers=num_workers,
        timeout_s=timeout_s,
    )
    return ", ".join(f"{number:,} {status}" for status, number in sorted(counts.items()))


def checked_records(out: Path) -> list[Record]:
    """The joined records of ``check_listed`` of all shards.

    Raises:
        UserError: when a shard is missing or unfinished.
    """
    return merge(out / _RECORDS)


def drop_unreadable(plan: Plan, records: Iterable[Record], *, videos: Path) -> Plan:
    """Leave out videos whose record is not "ok", or that have none, or changed since.

    Args:
        plan: what was matched.
        records: as ``check_videos.py`` writes them, their paths absolute or below ``videos``.
        videos: where the paths in the plan start.

    Raises:
        UserError: when no record is of a file of the plan.
    """
    by_path = {record["path"]: record for record in records}
    same: dict[str, list[Listed]] = {}
    folders = ("", str(videos), str(videos.absolute()))
    left_out = {}
    matched = 0
    for item in plan.listed:
        if item.file.is_folder:
            continue
        names = (os.path.join(folder, item.file.path) for folder in folders)
        record = next((by_path[name] for name in names if name in by_path), None)
        matched += record is not None
        problem = _problem(item, record)
        if record is not None and "sha256" in record:
            same.setdefault(record["sha256"], []).append(item)
        if problem:
            left_out[item.file.path] = left_out_of(item, *problem)
    if left_out and not matched:
        raise UserError(
            f"the records are of other files: they name {next(iter(by_path), 'nothing')!r}, for "
            f"example, and the videos are named as {plan.listed[0].file.path!r}. Run "
            f"data_prep/check_videos.py on {videos}"
        )
    plan = keep_only(plan, left_out)
    plan.notes = [*plan.notes, *_notes_on_copies(same.values())]
    return plan


def _notes_on_copies(groups: Iterable[list[Listed]]) -> list[str]:
    """Videos of the same content that would be trained on and tested, or belong to two classes."""
    groups = [group for group in groups if len({(i.split, i.class_name) for i in group}) > 1]
    if not groups:
        return []
    example = " = ".join(item.file.path for item in groups[0])
    return [
        f"videos whose content is also in another split or class: {len(groups):,} ({example}, "
        "for example)"
    ]


def _problem(item: Listed, record: Record | None) -> tuple[str, str] | None:
    """Reason and detail, or None for a video that is as it was when found good."""
    if record is None:
        return NOT_CHECKED, "no record names it"
    if record.get("status") != "ok":
        return UNREADABLE, f"{record.get('status')}: {record.get('reason', '')}"
    if record.get("bytes") != item.file.num_bytes:
        return NOT_CHECKED, f"{record.get('bytes')} bytes when checked, {item.file.num_bytes} now"
    return None
