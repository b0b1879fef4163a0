"""Videos that could not be read: written down once each, and a run stopped where they are many."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from slowfast_mvit.errors import DecodeError, UserError
from slowfast_mvit.evaluation.files import read_limited
from slowfast_mvit.runtime.distributed import gather_objects, is_main
from slowfast_mvit.storage import AppendLog, csv_text, safe_cell, whole_lines
from slowfast_mvit.structures import ClipBatch, FailedVideo

logger = logging.getLogger(__name__)

COLUMNS = ("video_id", "path", "reason", "split", "epoch")

FAILED_FILE = "failed_videos.csv"
MAX_FAILED_BYTES = 100_000_000
NUM_SHOWN = 3  # reasons in the summary of an epoch


def record_failed_videos(
    path: str | Path,
    failures: Iterable[FailedVideo],
    *,
    split: str = "test",
    epoch: int | None = None,
) -> None:
    """Append to ``failed_videos.csv`` the videos that are not in it yet; the main process only.

    Args:
        path: of the file.
        failures: the videos.
        split: "train", "val" or "test": where they were met.
        epoch: in which 0-based epoch; written counted from 1, as in the logs.
    """
    path = Path(path)
    known = _recorded(path)
    new = {f.video_id: f for f in failures if safe_cell(f.video_id) not in known}
    if not new or not is_main():
        return
    shown_epoch = "" if epoch is None else epoch + 1
    rows = [(f.video_id, f.path, f.message, split, shown_epoch) for f in new.values()]
    with AppendLog(path) as log:
        head = [COLUMNS] if log.is_empty else []
        log.append(csv_text([*head, *rows], line_end="\r\n").encode())


def summarise_reasons(failures: Sequence[FailedVideo]) -> str:
    """Return the most frequent reasons, each with the number of its failures and the first of them.

    Reasons that differ in numbers are one.
    """
    groups: dict[str, list[FailedVideo]] = {}
    for failed in failures:
        kind = re.sub(r"\d+", "N", failed.reason.split("\n")[0])
        groups.setdefault(kind, []).append(failed)
    ordered = sorted(groups.values(), key=len, reverse=True)
    shown = [
        f"{len(group):,} x {group[0].reason.splitlines()[0]} (first: {group[0].video_id})"
        for group in ordered[:NUM_SHOWN]
    ]
    rest = sum(map(len, ordered[NUM_SHOWN:]))
    return "; ".join([*shown, f"{rest:,} x other reasons"] if rest else shown)


def failures_of_training(folder: Path) -> list[str]:
    """Return a line about the videos that a training run could not read, for a report; or none."""
    try:  # the folder may be damaged, or a stranger's
        text = read_limited(folder / FAILED_FILE, MAX_FAILED_BYTES).decode("utf-8", "replace")
        rows = [r for r in csv.reader(io.StringIO(text)) if len(r) == len(COLUMNS)]
    except (OSError, ValueError, csv.Error):
        return []
    rows = [row for row in rows if row[3] == "train"]
    if not rows:
        return []
    shown = [f"{row[0]} ({row[2].removeprefix(f'{row[1]}: ')})" for row in rows[:NUM_SHOWN]]
    more = [f"and {len(rows) - NUM_SHOWN:,} more"] if len(rows) > NUM_SHOWN else []
    text = "; ".join([*shown, *more])
    return [f"training could not read {len(rows):,} of its videos, see {FAILED_FILE}: {text}"]


class FailureLimit:
    """Counts the failed videos of an epoch and stops the run when they exceed a share of it.

    A failure counts against all videos of the epoch while it runs, so that no early cluster of
    them stops a run that would have stayed below the limit; at its end, against those tried. Each
    rank notes its own (``add``); when a line of the log is due, the sum over the ranks comes back
    (``add_totals``), so that all stop at the same step.
    """

    def __init__(self, path: str | Path, *, max_fraction: float, num_videos: int) -> None:
        """
        Args:
            path: ``failed_videos.csv`` of the run.
            max_fraction: ``DATA.MAX_FAILED_FRACTION``, from 0 to 1.
            num_videos: videos in an epoch, of all processes.
        """
        self.path = Path(path)
        self.max_fraction = max_fraction
        self.num_videos = num_videos
        self.start_epoch()

    def start_epoch(self, epoch: int = 0) -> None:
        """Count from zero."""
        self.epoch = epoch
        self.num_tried = 0
        self.failed: list[FailedVideo] = []
        self._of_rank = {"num_tried": 0.0, "num_failed": 0.0}
        self._new: list[FailedVideo] = []

    def add(self, batch: ClipBatch) -> None:
        """Note what this process read and could not read."""
        self._of_rank["num_tried"] += len(batch.video_ids) + len(batch.failures)
        self._of_rank["num_failed"] += len(batch.failures)
        self._new += batch.failures

    def recording(self, batches: Iterator[ClipBatch]) -> Iterator[ClipBatch]:
        """Pass the batches on. If they end because nothing can be read, record those videos."""
        try:
            yield from batches
        except DecodeError as error:
            failures = [*self._new, *error.failures]
            record_failed_videos(self.path, failures, split="train", epoch=self.epoch)
            raise

    def counts_of_rank(self) -> dict[str, float]:
        """Return what this rank noted in this epoch, to be summed over the ranks."""
        return dict(self._of_rank)

    @property
    def counts(self) -> dict[str, int]:
        """Return what all ranks noted, up to the last ``add_totals``."""
        return {"num_tried": self.num_tried, "num_failed": len(self.failed)}

    def add_totals(self, counts: Mapping[str, float]) -> None:
        """Take the sums of ``counts_of_rank`` over the ranks, and record new failures."""
        self.num_tried = int(counts["num_tried"])
        if counts["num_failed"] == len(self.failed):
            return
        new, self._new = self._new, []
        of_all_ranks = [failed for part in gather_objects(new) for failed in part]
        self.failed += of_all_ranks
        record_failed_videos(self.path, of_all_ranks, split="train", epoch=self.epoch)

    def require_below_limit(self) -> None:
        """Stop the run, on all ranks, if too many videos failed for a whole epoch.

        Raises:
            UserError: more videos failed than the limit allows in a whole epoch.
        """
        self._stop_above(max(self.num_tried, self.num_videos))

    def end_epoch(self) -> None:
        """Tell how many failed and why; stop if that was over the limit.

        Raises:
            UserError: more than the allowed share of the videos tried could not be read.
        """
        if self.failed:
            logger.warning(
                "epoch %d: %s, and others took their places: %s",
                self.epoch + 1,
                self._share(self.num_tried),
                summarise_reasons(self.failed),
            )
        self._stop_above(self.num_tried)

    def state(self) -> dict[str, Any]:
        """The counts so far, as plain values, for a checkpoint inside the epoch."""
        failed = [list(astuple(failed)) for failed in self.failed]
        return {"num_tried": self.num_tried, "failed": failed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume the counts of an epoch that was cut off; the main process has them in its sum."""
        self.num_tried = int(state["num_tried"])
        self.failed = [FailedVideo(*texts) for texts in state["failed"]]
        if is_main():
            self._of_rank = {"num_tried": self.num_tried, "num_failed": len(self.failed)}

    def _share(self, num_videos: int) -> str:
        """Return the share of failures as text; one video may be drawn and fail more than once."""
        num_failed, num_different = len(self.failed), len({f.video_id for f in self.failed})
        if num_different == num_failed:
            return f"{num_failed:,} of {num_videos:,} videos could not be read"
        return (
            f"{num_failed:,} of {num_videos:,} attempts to read a video failed, with "
            f"{num_different:,} different videos"
        )

    def _stop_above(self, num_videos: int) -> None:
        if len(self.failed) <= self.max_fraction * num_videos:
            return
        raise UserError(
            f"{self._share(num_videos)} in this epoch, "
            f"DATA.MAX_FAILED_FRACTION allows a share of {self.max_fraction:g}. "
            f"First: {self.failed[0]}. All are listed in {self.path}; "
            "repair or remove them, or raise the limit"
        )


def _recorded(path: Path) -> set[str]:
    return {row[0] for row in _rows(path)}


def _rows(path: Path) -> list[list[str]]:
    """Return the whole rows of the file; none where there is no file."""
    if not path.is_file():
        return []
    lines = (line.decode("utf-8", "replace") for line in whole_lines(path))
    return [row for row in csv.reader(lines) if row]
