"""What a run tells of itself: a record for the JSON log, the curves, a line or a bar for people."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from slowfast_mvit.runtime.curves import Curves
from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.runtime.log import IN_THE_BAR, Progress, StatsLog

logger = logging.getLogger(__name__)

# The parts of a record that a person wants to see in a line, and how each is written.
SHOWN = {
    "iter": "step {}",
    "loss": "loss {:.4f}",
    "top1_err": "top-1 error {:.2f} %",
    "min_top1_err": "(least {:.2f} %)",
    "top5_err": "top-5 error {:.2f} %",
    "lr": "lr {!r}",
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
# Values that say nothing, and are not shown.
NOTHING = {"gpu_mem": "0.00G", "num_failed": 0, "num_skipped": 0}
KINDS = {"train_iter_": "training", "train_epoch": "trained", "val_epoch": "validated"}
IN_BAR = ("loss", "lr", "top1_err")


def tell(
    record: Mapping[str, Any],
    stats: StatsLog,
    curves: Sequence[Curves] = (),
    bar: Progress[Any] | None = None,
) -> None:
    """Write a record to the JSON log, to the curves, and for people; the main process only.

    Args:
        record: of a kind of ``KINDS``.
        stats: the JSON log.
        curves: who else wants it.
        bar: the bar that shows how far the run is. On a terminal it takes the place of the lines
            of single steps, which then go to ``stdout.log`` alone.
    """
    if not is_main():
        return
    stats.write(record)
    for curve in curves:
        curve.write(record)
    if bar is not None:
        bar.show(in_words(record, IN_BAR))
    logger.info(
        "epoch %s %s: %s",
        record["epoch"],
        KINDS[record["_type"]],
        in_words(record),
        extra={IN_THE_BAR: bar is not None},
    )


def in_words(record: Mapping[str, Any], names: Sequence[str] = tuple(SHOWN)) -> str:
    """The parts ``names`` of a record that say something, as in a line of the log."""
    return "  ".join(
        SHOWN[name].format(record[name])
        for name in names
        if name in record and record[name] != NOTHING.get(name)
    )
