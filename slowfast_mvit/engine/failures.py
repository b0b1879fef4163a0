"""Videos that could not be read: written down once each, and a run stopped where they are many."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from slowfast_mvit.errors import UserError
from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.structures import ClipBatch, FailedVideo

COLUMNS = ("video_id", "path", "reason")


def record_failed_videos(path: str | Path, failures: Iterable[FailedVideo]) -> None:
    """Append to ``failed_videos.csv`` the videos that are not in it yet; the main process only."""
    path = Path(path)
    known = _recorded(path)
    new = {failed.video_id: failed for failed in failures if _cell(failed.video_id) not in known}
    if not new or not is_main():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    is_first = not path.is_file()
    with open(path, "a", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        if is_first:
            writer.writerow(COLUMNS)
        for failed in new.values():
            writer.writerow(_cell(text) for text in (failed.video_id, failed.path, failed.reason))


class FailureLimit:
    """Counts the failed videos of an epoch and stops the run when they exceed a share of it.

    A failure counts against all videos of the epoch while it runs, so that no early cluster of
    them stops a run that would have stayed below the limit; at its end, against those tried.
    """

    def __init__(self, path: str | Path, *, max_fraction: float, num_videos: int) -> None:
        """
        Args:
            path: ``failed_videos.csv`` of the run.
            max_fraction: ``DATA.MAX_FAILED_FRACTION``, from 0 to 1.
            num_videos: videos in an epoch.
        """
        self.path = Path(path)
        self.max_fraction = max_fraction
        self.num_videos = num_videos
        self.num_tried = 0
        self.failed: list[FailedVideo] = []

    def start_epoch(self) -> None:
        """Count from zero."""
        self.num_tried = 0
        self.failed = []

    def add(self, batch: ClipBatch) -> None:
        """Count a batch, write its failures down, and stop if the epoch is over the limit now.

        Raises:
            UserError: more videos failed than the limit allows in a whole epoch.
        """
        self.num_tried += len(batch.video_ids) + len(batch.failures)
        if batch.failures:
            self.failed += batch.failures
            record_failed_videos(self.path, batch.failures)
            self._stop_above(max(self.num_tried, self.num_videos))

    def end_epoch(self) -> None:
        """Stop if the epoch was over the limit.

        Raises:
            UserError: more than the allowed share of the videos tried could not be read.
        """
        self._stop_above(self.num_tried)

    def _stop_above(self, num_videos: int) -> None:
        if len(self.failed) <= self.max_fraction * num_videos:
            return
        first = self.failed[0]
        raise UserError(
            f"{len(self.failed):,} of {num_videos:,} videos of this epoch could not be read, "
            f"DATA.MAX_FAILED_FRACTION allows a share of {self.max_fraction:g}. "
            f"First: {first.path}: {first.reason}. All are listed in {self.path}; "
            "repair or remove them, or raise the limit"
        )


def _recorded(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        return {row[0] for row in csv.reader(file) if row}


def _cell(text: str) -> str:
    """The text so that a spreadsheet does not run it as a formula."""
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return f"'{safe}" if safe.startswith(("=", "+", "-", "@")) else safe
