"""The validations of a run: their metrics, the best weights so far, and early stopping."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from slowfast_mvit.engine.reporter import Reporter
from slowfast_mvit.engine.settings import TrainSettings
from slowfast_mvit.runtime.distributed import from_main
from slowfast_mvit.runtime.log import done_of, memory_in_use

logger = logging.getLogger(__name__)

# Called with the 0-based epoch, and a function to call between two batches, which may raise
# ``Stopped``; returns "top1_err", "top5_err" and the like.
Validate = Callable[[int, Callable[[], None]], Mapping[str, float]]
SaveBest = Callable[[int], None]  # called with the 0-based epoch


class Validations:
    """Runs validations and records their results, also those before the run was resumed.

    Args:
        validate: None for a run without validations.
        reporter: of the run; its log is read where the run is resumed.
        settings: when to validate, when to stop early.
        save_best: writes the weights that have just validated best.
    """

    def __init__(
        self,
        validate: Validate | None,
        reporter: Reporter,
        *,
        settings: TrainSettings,
        save_best: SaveBest,
    ) -> None:
        self._validate = validate
        self._reporter = reporter
        self._settings = settings
        self._save_best = save_best
        # Only the main process writes the log, and so only it reads the current content.
        self._records: list[dict[str, Any]] = from_main(reporter.stats.read("val_epoch"))
        self._epochs_reported = from_main(
            [done_of(r, "epoch") for r in reporter.stats.read("train_epoch")]
        )

    def are_due(self, epoch: int) -> bool:
        """Return whether there is a validation after the 0-based ``epoch``."""
        is_due = self._settings.is_due(epoch, self._settings.eval_period)
        return is_due and self._validate is not None

    def was_interrupted(self, epoch: int) -> bool:
        """Return whether the validation after the 0-based ``epoch`` was interrupted."""
        if not self.are_due(epoch):
            return False
        validated = [done_of(record, "epoch") for record in self._records]
        return epoch + 1 in self._epochs_reported and epoch + 1 not in validated

    def run(self, epoch: int, should_stop: Callable[[], None]) -> None:
        """Validate after the 0-based ``epoch``; save the weights if they are the best so far.

        Raises:
            Stopped: ``should_stop`` raised it; nothing was reported.
        """
        assert self._validate is not None, "call are_due first"
        start_s = time.monotonic()
        measured = dict(self._validate(epoch, should_stop))
        if measured["top1_err"] < min(self._errors("top1_err"), default=float("inf")):
            self._save_best(epoch)  # before the report: a reported validation is not repeated
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
        self._reporter.report(record)
        self._records.append(record)

    def have_stalled(self) -> bool:
        """Return whether the last ``early_stopping`` validations are no better than one before."""
        errors, patience = self._errors("top1_err"), self._settings.early_stopping
        if not patience or not errors:
            return False
        return len(errors) - 1 - errors.index(min(errors)) >= patience

    def _errors(self, name: str) -> list[float]:
        return [record[name] for record in self._records]
