"""Finished videos on disk, one record each: what a killed test goes on from, and parts join from.

    OUTPUT_DIR/test_records/<key>/test.json                               what is tested
                                  part_00002_of_00004_rank_00000.jsonl    a video a line

Each process appends to a file of its own. The key is that of ``run_fingerprint.py``: records of
another config, other weights, another list or other arithmetic are elsewhere and never mixed in.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slowfast_mvit.errors import MissingViewsError
from slowfast_mvit.storage import AppendLog, whole_lines
from slowfast_mvit.structures import FailedVideo, ViewScores

logger = logging.getLogger(__name__)

_RECORD_NAME = re.compile(r"part_(\d+)_of_(\d+)_rank_(\d+)\.jsonl")

Outcome = ViewScores | FailedVideo


class Part(NamedTuple):
    """One of several contiguous parts of a list, counted from 1; (1, 1) is the whole."""

    number: int
    num_parts: int


@contextlib.contextmanager
def record_writer(folder: Path, *, part: Part, rank: int) -> Iterator[Callable[[Outcome], None]]:
    """Gives a function that appends a record to the file of one process.

    A killed process loses no record. They are forced to the disk at the end only: what a power cut
    damages is noticed when it is read.

    Args:
        folder: of ``run_fingerprint.records_folder``; made if need be.
        part: which part of the list this job scores.
        rank: of this process in its job.
    """
    name = f"part_{part.number:05d}_of_{part.num_parts:05d}_rank_{rank:05d}.jsonl"
    with AppendLog(folder / name) as log:
        try:
            yield lambda outcome: log.append(record_line(outcome))
        finally:
            log.sync()


def record_line(outcome: Outcome) -> bytes:
    """A line of a record file: JSON with a checksum; views that are equal are written once."""
    record: dict[str, Any]
    if isinstance(outcome, FailedVideo):
        record = {
            "video_id": outcome.video_id,
            "path": outcome.path,
            "failed": outcome.reason,
        }
    else:
        place_of: dict[bytes, int] = {}
        rows = [row.tobytes() for row in outcome.probs.astype("<f4")]
        record = {
            "video_id": outcome.video_id,
            "label": outcome.label,
            "num_classes": outcome.probs.shape[1],
            "places": [place_of.setdefault(row, len(place_of)) for row in rows],
            "probs": base64.b64encode(b"".join(place_of)).decode(),
        }
    return (json.dumps({**record, "crc32": _checksum(record)}) + "\n").encode()


def _checksum(record: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(record).encode()):08x}"


def finished_videos(folder: Path, views: np.ndarray) -> set[str]:
    """The videos that need not be scored again. One that could not be read is not among them:
    the reason may have passed.

    Args:
        folder: of ``run_fingerprint.records_folder``.
        views: (V, 2) int64, the (clip, crop) of each view of a record.
    """
    return {
        outcome.video_id
        for path in _record_files([folder])
        for outcome in read_records(path, views)
        if isinstance(outcome, ViewScores)
    }


def join_records(folders: Sequence[Path], views: np.ndarray) -> dict[str, Outcome]:
    """Return what became of each video that has a record; scores count more than a failure.

    Args:
        folders: of one or several jobs.
        views: (V, 2) int64, the (clip, crop) of each view of a record.

    Raises:
        MissingViewsError: a video has two records with different scores.
    """
    outcomes: dict[str, Outcome] = {}
    conflicts: dict[str, Path] = {}
    for path in _record_files(folders):
        for outcome in read_records(path, views):
            known = outcomes.get(outcome.video_id)
            if not isinstance(known, ViewScores):
                outcomes[outcome.video_id] = outcome
            elif isinstance(outcome, ViewScores) and not np.array_equal(known.probs, outcome.probs):
                conflicts[outcome.video_id] = path
    if conflicts:
        first, path = next(iter(conflicts.items()))
        raise MissingViewsError(
            f"{len(conflicts):,} videos were scored twice, with different results (first: "
            f"{first!r}, again in {path}). Nothing was averaged. Two jobs of equal settings give "
            "equal scores, so one of them read other videos or went wrong: delete its records"
        )
    return outcomes


def read_records(path: Path, views: np.ndarray) -> Iterator[Outcome]:
    """The records of one file. A damaged one is left out with a warning, so that its video is
    scored again; a last line that is still being written is left out without one.

    Args:
        path: of a ``record_writer``.
        views: (V, 2) int64, the (clip, crop) of each view.
    """
    num_damaged = 0
    for line in whole_lines(path):
        try:
            yield _outcome(line, views)
        except (ValueError, LookupError, TypeError, AttributeError):
            num_damaged += 1
    if num_damaged:
        logger.warning("%s: %d damaged records are left out", path, num_damaged)


def part_numbers(folders: Sequence[Path]) -> set[Part]:
    """The parts whose jobs have left records."""
    matches = (_RECORD_NAME.fullmatch(path.name) for path in _record_files(folders))
    return {Part(int(match[1]), int(match[2])) for match in matches if match}


def _record_files(folders: Sequence[Path]) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.glob("*.jsonl"))]


def _outcome(line: bytes, views: np.ndarray) -> Outcome:
    """Return what a line says; raises whatever comes of one that is damaged."""
    record = json.loads(line)
    if record.pop("crc32") != _checksum(record):
        raise ValueError("wrong checksum")
    if "failed" in record:
        return FailedVideo(record["video_id"], record["path"], record["failed"])
    values = np.frombuffer(base64.b64decode(record["probs"]), dtype="<f4")
    rows = values.reshape(-1, record["num_classes"])
    probs = rows[record["places"]].astype(np.float32)
    return ViewScores(record["video_id"], record["label"], views, probs)
