"""The validations of a run: what came out of each, which was best, whether it still gets better."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slowfast_mvit.engine.metrics_report import tell
from slowfast_mvit.engine.settings import TrainSettings
from slowfast_mvit.runtime.distributed import from_main
from slowfast_mvit.runtime.log import StatsLog, done_of, memory_in_use
from slowfast_mvit.runtime.metric_writers import Curves

logger = logging.getLogger(__name__)

# Called with the 0-based epoch, and with what is to be called between two batches and may raise
# ``Stopped``; gives "top1_err", "top5_err" and the like.
Validate = Callable[[int, Callable[[], None]], Mapping[str, float]]
SaveBest = Callable[[int], None]  # called with the 0-based epoch


class Validations:
    """Validates, and knows the validations so far, also those before the run was resumed.

    Args:
        validate: None for a run without validations.
        stats: the log of the run, read where it is resumed.
        curves: where else the numbers go.
        settings: when to validate, when to give up.
        save_best: writes the weights that have just turned out better than all before.
    """

    def __init__(
        self,
        validate: Validate | None,
        stats: StatsLog,
        curves: Sequence[Curves],
        *,
        settings: TrainSettings,
        save_best: SaveBest,
    ) -> None:
        self._validate = validate
        self._stats = stats
        self._curves = curves
        self._settings = settings
        self._save_best = save_best
        # Only the main process writes the log, and so only it can be sure of what is in it.
        self._records: list[dict[str, Any]] = from_main(stats.read("val_epoch"))
        self._epochs_told = from_main([done_of(r, "epoch") for r in stats.read("train_epoch")])

    def are_due(self, epoch: int) -> bool:
        """Whether there is a validation after the 0-based ``epoch``."""
        is_due = self._settings.is_due(epoch, self._settings.eval_period)
        return is_due and self._validate is not None

    def were_cut_off(self, epoch: int) -> bool:
        """Whether this run trained the 0-based ``epoch`` and did not validate it to the end."""
        if not self.are_due(epoch):
            return False
        validated = [done_of(record, "epoch") for record in self._records]
        return epoch + 1 in self._epochs_told and epoch + 1 not in validated

    def run(self, epoch: int, should_stop: Callable[[], None]) -> None:
        """Validate after the 0-based ``epoch``; keep the weights if they are the best so far.

        Raises:
            Stopped: ``should_stop`` raised it; nothing was told.
        """
        assert self._validate is not None, "ask are_due first"
        start_s = time.monotonic()
        measured = dict(self._validate(epoch, should_stop))
        if measured["top1_err"] < min(self._errors("top1_err"), default=float("inf")):
            self._save_best(epoch)  # before it is told: what is told is not done again
        least = {
            f"min_{name}": min([measured[name], *self._errors(name)])
            for name in ("top1_err", "top5_err")
        }
        record = {
            "_type": "val_epoch",
            "epoch": f"{epoch + 1}/{self._settings.max_epoch}",
            "time_diff": round(time.monotonic() - start_s, 3),
            "RAM": memory_in_use(),
            **measured,
            **least,
        }
        tell(record, self._stats, self._curves)
        self._records.append(record)

    def have_stalled(self) -> bool:
        """Whether the last ``early_stopping`` validations were no better than one before them."""
        errors, patience = self._errors("top1_err"), self._settings.early_stopping
        if not patience or not errors:
            return False
        return len(errors) - 1 - errors.index(min(errors)) >= patience

    def _errors(self, name: str) -> list[float]:
        return [record[name] for record in self._records]
