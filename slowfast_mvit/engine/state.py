"""The objects of a training run, and its state: saved to checkpoints and resumed from them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from slowfast_mvit.engine.reporter import Reporter
from slowfast_mvit.engine.settings import BatchSource, Objective, TrainSettings, steps_in_epoch
from slowfast_mvit.engine.skipped_steps import SkippedSteps
from slowfast_mvit.errors import ResumeError, WeightsError
from slowfast_mvit.optim.averaging import MovingAverage
from slowfast_mvit.optim.schedule import Schedule
from slowfast_mvit.runtime.checkpoint import (
    Position,
    load_training_state,
    save_best,
    save_checkpoint,
)
from slowfast_mvit.runtime.distributed import is_main, world_size
from slowfast_mvit.runtime.parallel import whole_optimizer_state, whole_state
from slowfast_mvit.runtime.watchdog import note_progress

logger = logging.getLogger(__name__)

SAME_RATE = 0.01  # relative difference of two learning rates that is not reported as a change
# Plain values: the counts of an epoch so far; empty at its start.
EpochProgress = dict[str, Any]

# Stored in checkpoints: if one of these changes, a resumed run differs from an uninterrupted one.
DRAW_SETTINGS = {
    "seed": "RNG_SEED",
    "videos_per_step": "the number of videos a step",
    "world_size": "the number of ranks",
}


@dataclass(frozen=True)
class TrainingState:
    """The objects that training changes, and so the content of a checkpoint.

    Attributes:
        model: with PySlowFast's names.
        module: what training calls: the model, or its wrapper over several processes.
        optimizer: over the model's parameters.
        scaler: of the loss, in float16.
        average: the moving average of the weights, if there is one.
        skipped: the steps whose losses or gradients were not finite.
    """

    model: nn.Module
    module: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None = None
    skipped: SkippedSteps = field(default_factory=SkippedSteps)


@dataclass(frozen=True)
class Training:
    """The objects of the training loop; every rank has one.

    Attributes:
        state: model, optimizer and what else changes, on ``device``.
        objective: to minimise, see ``optim.objectives``.
        lr_at: learning rate at a fractional epoch.
        loader: the training batches of this rank.
        settings: plain numbers.
        device: of the model.
        output_dir: gets ``checkpoints/``, ``mid_epoch/`` and ``failed_videos.csv``.
        reporter: of records.
        cfg_text: the resolved config, stored in each checkpoint.
        extra: plain values stored in each checkpoint.
        before_saving: every rank calls it before a checkpoint is written; may refuse it.
    """

    state: TrainingState
    objective: Objective
    lr_at: Schedule
    loader: BatchSource
    settings: TrainSettings
    device: torch.device
    output_dir: Path
    reporter: Reporter
    cfg_text: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    before_saving: Callable[[], None] = lambda: None

    @property
    def num_steps(self) -> int:
        """Steps of the optimizer in an epoch."""
        return steps_in_epoch(self.loader, self.settings.accum_steps)

    @property
    def stored(self) -> dict[str, Any]:
        """The plain values of a checkpoint, among them those of ``DRAW_SETTINGS``."""
        num_videos = self.loader.num_videos // len(self.loader) * self.settings.accum_steps
        return {
            **self.extra,
            "seed": self.settings.seed,
            "videos_per_step": num_videos * world_size(),
            "world_size": world_size(),
        }

    def save(self, position: Position, so_far: EpochProgress) -> None:
        """Write a checkpoint; every rank calls this."""
        self.before_saving()
        state, average = self.state, self.state.average
        model_state = whole_state(state.module)
        optimizer_state = whole_optimizer_state(state.optimizer)
        ema_state = None if average is None else whole_state(average.module)
        note_progress(f"epoch {position.epoch + 1}, step {position.step}, writing a checkpoint")
        if not is_main():
            return
        position_values = {
            "num_averaged": None if average is None else int(average.n_averaged),
            "num_skipped": state.skipped.num,
            "next_lr": float(self.lr_at(position.epoch + position.step / self.num_steps)),
        }
        path = save_checkpoint(
            self.output_dir,
            epoch=position.epoch - 1,
            step=position.step,
            model_state=model_state,
            optimizer_state=optimizer_state,
            ema_state=ema_state,
            cfg_text=self.cfg_text,
            extra={**self.stored, **so_far, **position_values},
            scaler_state=state.scaler.state_dict() if state.scaler.is_enabled() else None,
        )
        logger.info("saved %s", path)

    def save_best(self, epoch: int) -> None:
        """Write the weights that have just validated best; every rank calls this."""
        self.before_saving()
        average = self.state.average
        weights = whole_state(self.state.module if average is None else average.module)
        if is_main():
            save_best(
                self.output_dir,
                epoch=epoch,
                model_state=weights,
                cfg_text=self.cfg_text,
                extra=self.stored,
            )

    def resume(self, path: str | Path) -> tuple[Position, EpochProgress]:
        """Restore the state from a checkpoint of ours or of PySlowFast, in place.

        Returns:
            The position to resume from, and the counts of its epoch so far.

        Raises:
            ResumeError: it cannot be read or does not fit.
        """
        state, stored, average = self.state, self.stored, self.state.average
        ema = None if average is None else average.module
        try:
            start, extra = load_training_state(
                path, state.module, state.optimizer, state.scaler, ema=ema
            )
        except WeightsError as error:
            raise ResumeError(str(error)) from error
        if average is not None:
            average.n_averaged.fill_(int(extra.get("num_averaged") or 0))
        state.skipped.num = int(extra.get("num_skipped") or 0)
        for name, label in DRAW_SETTINGS.items():
            before = extra.get(name, stored[name])
            if before != stored[name]:
                logger.warning(
                    "%s was %s and is now %s: random draws and steps will differ from those of an "
                    "uninterrupted run",
                    label,
                    before,
                    stored[name],
                )
        max_epoch = self.settings.max_epoch
        if start.epoch >= max_epoch:
            logger.info("%s: all %d epochs are finished already", path, max_epoch)
            return start, {}
        if start.step == 0:
            logger.info("resuming from %s with epoch %d/%d", path, start.epoch + 1, max_epoch)
            self._log_rates(start, extra.get("next_lr"))
            return start, {}
        num_videos = start.step * extra.get("videos_per_step", stored["videos_per_step"])
        start = Position(start.epoch, num_videos // stored["videos_per_step"])
        logger.info(
            "resuming from %s inside epoch %d/%d, after step %d",
            path,
            start.epoch + 1,
            max_epoch,
            start.step,
        )
        self._log_rates(start, extra.get("next_lr"))
        return start, {name: extra[name] for name in ("meter", "failures") if name in extra}

    def _log_rates(self, start: Position, planned: float | None) -> None:
        """Log the learning rates before and after a resume, and warn where the schedule changed.

        Args:
            start: the position to resume from.
            planned: the rate there by the schedule of the checkpoint, if it is known.
        """
        group = max(self.state.optimizer.param_groups, key=lambda group: group["layer_decay"])
        last = group["lr"] / group["layer_decay"]
        now = self.lr_at(start.epoch + start.step / self.num_steps)
        if planned is None or math.isclose(planned, now, rel_tol=SAME_RATE):
            logger.info("learning rate: %.4g in the last step, %.4g in the next", last, now)
            return
        logger.warning(
            "learning rate: jumps from %.4g in the last step to %.4g in the next. The schedule of "
            "the checkpoint would continue with %.4g, and the one of this config (SOLVER.MAX_EPOCH "
            "and the other SOLVER keys) differs. To train on at a low rate, start a new run from "
            "these weights with TRAIN.CHECKPOINT_EPOCH_RESET True and a low SOLVER.BASE_LR",
            last,
            now,
            planned,
        )
