"""The training loop: built objects and plain numbers in, checkpoints and logs out.

``train`` runs the epochs, ``train_epoch`` the steps of one, ``train_step`` one optimizer step.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_
from torch.optim import Optimizer

from slowfast_mvit.engine.failed_videos import FailureLimit
from slowfast_mvit.engine.meter import EpochMeter
from slowfast_mvit.engine.rank_sums import sum_measured
from slowfast_mvit.engine.reporter import Reporter
from slowfast_mvit.engine.resume import (
    EpochProgress,
    RunState,
    resume_state,
    save_best_weights,
    save_state,
)
from slowfast_mvit.engine.settings import (
    BatchSource,
    Objective,
    TrainSettings,
    steps_in_epoch,
)
from slowfast_mvit.engine.validation import Validate, Validations
from slowfast_mvit.errors import Stopped
from slowfast_mvit.optim.schedule import Schedule, set_lr
from slowfast_mvit.randomness import BATCH, MODEL_MASKS, generator
from slowfast_mvit.runtime.checkpoint_files import Position, remove_mid_epoch, remove_unfinished
from slowfast_mvit.runtime.distributed import is_main, rank, world_size
from slowfast_mvit.runtime.log import progress
from slowfast_mvit.runtime.parallel import gradients_stay_local, total_norm
from slowfast_mvit.runtime.precision import autocast
from slowfast_mvit.runtime.stopping import StopRequest, stop_requests
from slowfast_mvit.structures import ClipBatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """The objects that the loop works with; every rank has one.

    Attributes:
        state: model, optimizer and what else changes, on ``device``.
        objective: what is minimised, see ``optim.objectives``.
        lr_at: learning rate at a fractional epoch.
        loader: the training batches of this rank.
        settings: plain numbers.
        device: of the model.
        output_dir: gets ``checkpoints/``, ``mid_epoch/`` and ``failed_videos.csv``.
        reporter: where records go.
        cfg_text: the resolved config, stored in each checkpoint.
        extra: plain values stored in each checkpoint.
    """

    state: RunState
    objective: Objective
    lr_at: Schedule
    loader: BatchSource
    settings: TrainSettings
    device: torch.device
    output_dir: Path
    reporter: Reporter
    cfg_text: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Steps of the optimizer in an epoch."""
        return steps_in_epoch(self.loader, self.settings.accum_steps)

    @property
    def stored(self) -> dict[str, Any]:
        """The plain values of a checkpoint: with other draws, a resumed run is another run."""
        num_videos = self.loader.num_videos // len(self.loader) * self.settings.accum_steps
        return {
            **self.extra,
            "seed": self.settings.seed,
            "videos_per_step": num_videos * world_size(),
            "world_size": world_size(),
        }

    def save(self, position: Position, so_far: EpochProgress) -> None:
        """Write a checkpoint; every rank calls this."""
        extra = {**self.stored, **so_far}
        save_state(self.state, self.output_dir, position, cfg_text=self.cfg_text, extra=extra)

    def save_best(self, epoch: int) -> None:
        """Write the weights that have just validated best; every rank calls this."""
        save_best_weights(
            self.state, self.output_dir, epoch, cfg_text=self.cfg_text, extra=self.stored
        )


def train(
    run: Training, *, validate: Validate | None = None, resume_from: str | Path | None = None
) -> None:
    """Train a model in place, writing checkpoints and logs; every rank calls this.

    A run that is cut off and resumes from its checkpoint ends with the same weights, to the bit, as
    one that was not, on the same machines and as many of them.

    Args:
        run: what to train.
        validate: see ``engine.validation``; with a moving average of the weights, that is what is
            validated.
        resume_from: a checkpoint to resume from; its epoch and step count.

    Raises:
        UserError: the loss is not finite, or too many videos cannot be read.
        ResumeError: ``resume_from`` does not fit.
        Stopped: a signal asked for it; what was done is saved.
    """
    settings, start, so_far = run.settings, Position(0), EpochProgress()
    if resume_from is not None:
        start, so_far = resume_state(run.state, resume_from, run.stored, settings.max_epoch)
    if is_main():
        remove_unfinished(run.output_dir)
    run.reporter.stats.keep_until(*start)
    validations = Validations(validate, run.reporter, settings=settings, save_best=run.save_best)
    failures = FailureLimit(
        run.output_dir / "failed_videos.csv",
        max_fraction=settings.max_failed_fraction,
        num_videos=run.loader.num_videos * world_size(),
    )
    with stop_requests() as stop:
        if start.step == 0 and validations.were_cut_off(start.epoch - 1):
            validations.run(start.epoch - 1, stop.raise_if_asked)
        while start.epoch < settings.max_epoch and not validations.have_stalled():
            epoch = start.epoch
            so_far = train_epoch(run, start, so_far, failures=failures, stop=stop)
            start = Position(epoch + 1)
            is_saved = settings.is_due(epoch, settings.checkpoint_period)
            if is_saved:
                run.save(start, EpochProgress())
            if validations.are_due(epoch):
                try:
                    validations.run(epoch, stop.raise_if_asked)
                except Stopped:
                    run.save(Position(epoch, run.num_steps), so_far)
                    raise
            if validations.have_stalled() and not is_saved:
                run.save(start, EpochProgress())
            so_far = EpochProgress()
    if validations.have_stalled():
        logger.info(
            "early stopping: top-1 has not improved in the last %d validations",
            settings.early_stopping,
        )
    if is_main():
        remove_mid_epoch(run.output_dir)


def train_epoch(
    run: Training,
    start: Position,
    so_far: EpochProgress,
    *,
    failures: FailureLimit,
    stop: StopRequest,
) -> EpochProgress:
    """Train one epoch, or what is left of it.

    Args:
        run: what to train.
        start: the epoch, and how many of its steps are done.
        so_far: what was counted in those steps.
        failures: counts unreadable videos.
        stop: asked after each step.

    Returns:
        What was counted in the epoch.

    Raises:
        Stopped: a signal asked for it; what was done is saved.
    """
    state, settings, num_steps = run.state, run.settings, run.num_steps
    meter = _start_epoch(run, start, so_far, failures)
    state.module.train()
    batches = failures.recording(run.loader.epoch(start.epoch, start.step * settings.accum_steps))
    what = f"epoch {start.epoch + 1}/{settings.max_epoch}"
    steps = progress(range(start.step, num_steps), total=num_steps, start=start.step, what=what)
    for step in steps:
        lr = run.lr_at(start.epoch + step / num_steps)
        set_lr(state.optimizer, lr)
        grad_norm = train_step(run, batches, Position(start.epoch, step), meter, failures)
        meter.end_step(step, lr, grad_norm)

        here = Position(start.epoch, step + 1)
        if here.step % settings.log_period == 0 or here.step == num_steps:
            sum_over_ranks(meter, failures)
            run.reporter.report({**meter.line(), **failures.counts}, steps)
            failures.require_below_limit()
        asked = stop.agreed()
        if asked or settings.saves_at(here, num_steps):
            sum_over_ranks(meter, failures)
            failures.require_below_limit()
            run.save(here, {"meter": meter.state(), "failures": failures.state()})
        if asked:
            raise Stopped(asked)
    failures.end_epoch()
    last_lr = run.lr_at(start.epoch + (num_steps - 1) / num_steps)
    run.reporter.report({**meter.summary(last_lr), **failures.counts})
    return {"meter": meter.state(), "failures": failures.state()}


def train_step(
    run: Training,
    batches: Iterator[ClipBatch],
    at: Position,
    meter: EpochMeter,
    failures: FailureLimit,
) -> Tensor:
    """Take the batches of a step, and move the weights down the mean of their gradients, in place.

    Several ranks exchange gradients once, with those of the last batch.

    Args:
        run: its weights and its optimizer change.
        batches: the next ones are taken.
        at: the epoch, and the number of the step in it, from 0.
        meter: measures the batches.
        failures: counts unreadable videos.

    Returns:
        The L2 norm of all gradients together, (), as it was before it was clipped.
    """
    state, settings = run.state, run.settings
    num_batches = settings.accum_steps
    first = at.step * num_batches
    for number in range(first, first + num_batches):
        meter.batch_wanted()
        batch = next(batches)
        meter.batch_arrived()
        failures.add(batch)
        seed_model_masks(settings.seed, at.epoch, number)
        rng = generator(settings.seed, at.epoch, number, BATCH, rank())
        is_last = number == first + num_batches - 1
        with contextlib.nullcontext() if is_last else gradients_stay_local(state.module):
            with autocast(run.device, settings.precision):
                outcome = run.objective(state.module, batch.to(run.device, non_blocking=True), rng)
            meter.add(outcome, batch.video_ids)
            state.scaler.scale(outcome.loss / num_batches).backward()
    grad_norm = apply_gradients(state.model, state.optimizer, state.scaler, settings)
    if state.average is not None:
        state.average.update_parameters(state.model)
    return grad_norm


def apply_gradients(
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    settings: TrainSettings,
) -> Tensor:
    """Clip the gradients, move the weights down them, in place, and forget them.

    Returns:
        The L2 norm of all gradients together, (), as it was before it was clipped.
    """
    scaler.unscale_(optimizer)
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = total_norm(parameters)
    if settings.clip_value is not None:
        clip_grad_value_(parameters, settings.clip_value)
    elif settings.clip_norm is not None:
        clip_grads_with_norm_(parameters, settings.clip_norm, norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return norm


def seed_model_masks(seed: int, epoch: int, step: int) -> None:
    """Make dropout and drop path of this step the same in every run with this seed."""
    rng = generator(seed, epoch, step, MODEL_MASKS, rank())
    torch.manual_seed(int(rng.integers(1 << 63)))


def _start_epoch(
    run: Training, start: Position, so_far: EpochProgress, failures: FailureLimit
) -> EpochMeter:
    """Start the meter and the failure counts of an epoch, or resume them."""
    meter = EpochMeter(
        epoch=start.epoch,
        max_epoch=run.settings.max_epoch,
        num_steps=run.num_steps,
        device=run.device,
        skips_infinite_gradients=run.state.scaler.is_enabled(),
    )
    failures.start_epoch(start.epoch)
    if so_far:
        meter.restore(so_far["meter"])
        failures.restore(so_far["failures"])
    return meter


def sum_over_ranks(meter: EpochMeter, failures: FailureLimit) -> None:
    """Give meter and failures what all ranks measured: one exchange, one transfer to the host.

    Raises:
        UserError: a loss or gradient is not finite on some rank; the same message on every rank.
    """
    totals = sum_measured(meter.take_unread(), failures.counts_of_rank())
    failures.add_totals(totals.counts)
    meter.add_totals(totals)
