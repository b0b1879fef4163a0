"""The reporter of a run: records go to the JSON log, the metric writers, and a line or bar."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slowfast_mvit.engine.settings import BatchSource
from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.runtime.log import IN_BAR_TOO, Progress, StatsLog, duration
from slowfast_mvit.runtime.metric_writers import MetricWriter
from slowfast_mvit.structures import ClipBatch

logger = logging.getLogger(__name__)

# The fields of a record in a line of the log, and their formats.
SHOWN = {
    "iter": "step {}",
    "loss": "loss {:.4f}",
    "top1_err": "top-1 error {:.2f} %",
    "min_top1_err": "(least {:.2f} %)",
    "top5_err": "top-5 error {:.2f} %",
    "lr": "lr {:.6g}",
    "grad_norm": "gradient norm {:.3g}",
    "num_failed": "failed videos {:,.0f}",
    "num_skipped": "skipped steps {:,}",
    "clips_per_s": "{:.1f} clips/s",
    "dt": "{:.3f} s a step",
    "dt_data": "({:.3f} s for data)",
    "gpu_mem": "GPU {}",
    "time_diff": "{:.1f} s",
    "eta": "ETA {}",
}
# Values without information, which are not shown.
NOTHING = {"gpu_mem": "0.00G", "num_failed": 0, "num_skipped": 0}
KINDS = {
    "train_iter_": "training",
    "train_epoch": "trained",
    "val_iter": "validating",
    "val_epoch": "validated",
}
IN_BAR = ("loss", "lr", "top1_err")


@dataclass(frozen=True)
class Reporter:
    """The destinations of a run's records.

    Attributes:
        stats: ``json_stats.log``.
        writers: TensorBoard, Weights & Biases and the like.
    """

    stats: StatsLog
    writers: Sequence[MetricWriter] = ()

    def report(self, record: Mapping[str, Any], bar: Progress[Any] | None = None) -> None:
        """Write a record to the JSON log, to the writers, and as a line; the main process only.

        Args:
            record: of a kind of ``KINDS``.
            bar: the progress bar. On a terminal it takes the place of the lines of single steps,
                which then go to ``stdout.log`` alone.
        """
        if not is_main():
            return
        self.stats.write(record)
        for writer in self.writers:
            writer.write(record)
        if bar is not None:
            bar.show(describe(record, IN_BAR))
        logger.info(
            "epoch %s %s: %s",
            record["epoch"],
            KINDS[record["_type"]],
            describe(record),
            extra={IN_BAR_TOO: bar is not None},
        )


@dataclass(frozen=True)
class ReportedLoader:
    """A loader for one validation that reports its progress, and reads nothing from the device.

    Attributes:
        loader: of this rank; the progress of the main rank is reported.
        epoch_validated: 0-based, after which the run validates.
        max_epoch: epochs of the whole run.
        reporter: of the run.
        log_period: a line after every so many batches.
    """

    loader: BatchSource
    epoch_validated: int
    max_epoch: int
    reporter: Reporter
    log_period: int

    @property
    def num_videos(self) -> int:
        """Videos of this rank."""
        return self.loader.num_videos

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[ClipBatch]:
        """Yield the batches of the loader; report a ``val_iter`` record when one is due."""
        of_run = f"{self.epoch_validated + 1}/{self.max_epoch}"
        batches = Progress(
            self.loader.epoch(epoch, start_step),
            total=len(self),
            what=f"validating epoch {of_run}",
            start=start_step,
        )
        start_s = time.monotonic()
        for done, batch in enumerate(batches, start=start_step + 1):
            yield batch
            if done % self.log_period == 0:
                per_batch_s = (time.monotonic() - start_s) / (done - start_step)
                record = {
                    "_type": "val_iter",
                    "epoch": of_run,
                    "iter": f"{done}/{len(self)}",
                    "time_diff": round(per_batch_s, 5),
                    "eta": duration(per_batch_s * (len(self) - done)),
                }
                self.reporter.report(record, bar=batches)


def describe(record: Mapping[str, Any], names: Sequence[str] = tuple(SHOWN)) -> str:
    """Describe a record as in a line of the log, by its fields ``names`` that have a value."""
    return "  ".join(
        SHOWN[name].format(record[name])
        for name in names
        if name in record and record[name] != NOTHING.get(name)
    )
