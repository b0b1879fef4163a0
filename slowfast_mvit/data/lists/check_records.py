"""Damaged videos that ``data_prep/check_videos.py`` has found, logged before training reads them.

Its records are read where they are next to the lists: ``check.jsonl`` in ``DATA.PATH_TO_DATA_DIR``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slowfast_mvit.data.lists.video_list import VideoList
from slowfast_mvit.errors import ListError, as_lines
from slowfast_mvit.structures import FailedVideo

_log = logging.getLogger(__name__)

RECORDS_FILE = "check.jsonl"
_SHOWN = 5


def report_damaged(videos: VideoList, folder: str | Path, *, max_fraction: float = 1.0) -> None:
    """Log the videos of a list that are damaged by the records in its folder, if there are records.

    Args:
        videos: the list.
        folder: of the lists.
        max_fraction: the allowed share of damaged videos, from 0 to 1.

    Raises:
        ListError: more are damaged, or the records cannot be read.
    """
    file = Path(folder, RECORDS_FILE)
    damaged = list(_damaged(videos, file)) if file.is_file() else []
    if not damaged:
        return
    lines = as_lines((f"{video.video_id}: {video.reason}" for video in damaged), limit=_SHOWN)
    text = f"{len(damaged):,} of {len(videos):,} videos of {videos.source} are damaged: {lines}"
    if len(damaged) <= max_fraction * len(videos):
        _log.warning("%s: %s", file, text)
        return
    raise ListError(
        f"{text}\nDATA.MAX_FAILED_FRACTION allows a share of {max_fraction:g}. Repair these videos "
        f"or remove them from the list, then check again or delete {RECORDS_FILE}",
        file,
    )


def _damaged(videos: VideoList, file: Path) -> Iterator[FailedVideo]:
    """Listed videos with a record "failed", unless the size of the file has changed since."""
    failed = {
        os.path.normpath(str(record.get("path"))): record
        for record in _records(file)
        if record.get("status") == "failed"
    }
    for video in videos if failed else ():
        names = (video.video_id, video.path, os.path.relpath(video.path, file.parent))
        record = next(filter(None, (failed.get(os.path.normpath(name)) for name in names)), None)
        is_named = record is not None
        if record is None:  # a folder below was checked: names start from it
            parts = os.path.normpath(video.path).split(os.sep)
            ends = (os.sep.join(parts[start:]) for start in range(1, len(parts)))
            record = next(filter(None, map(failed.get, ends)), None)
        if record is None or _size_of(video.path) != record.get("bytes"):
            continue
        if is_named or _sha256_of(video.path) == record.get("sha256"):
            yield FailedVideo(video.video_id, video.path, str(record.get("reason")), video.path)


def _sha256_of(path: str) -> str | None:
    """Return the digest that ``check_videos.py`` records; None of a missing or empty file."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return None
    return hashlib.sha256(content).hexdigest() if content else None


def _size_of(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _records(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                text = (
                    f"line {number} is not a record of check_videos.py. Delete it, or check again"
                )
                raise ListError(text, file)
            yield record
