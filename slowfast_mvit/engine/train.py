"""The training loop: built objects and plain numbers in, checkpoints and logs out.

``train`` runs the epochs, ``train_epoch`` the steps of one, ``train_step`` one optimizer step.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_
from torch.optim import Optimizer

from slowfast_mvit.engine.failed_videos import FailureLimit
from slowfast_mvit.engine.meter import EpochMeter
from slowfast_mvit.engine.settings import TrainSettings
from slowfast_mvit.engine.state import EpochProgress, Training
from slowfast_mvit.engine.validation import Validate, Validations
from slowfast_mvit.errors import Stopped
from slowfast_mvit.optim.schedule import set_lr
from slowfast_mvit.randomness import BATCH, MODEL_MASKS, generator
from slowfast_mvit.runtime.checkpoint import Position, remove_mid_epoch, remove_unfinished
from slowfast_mvit.runtime.distributed import is_main, rank, sum_over_ranks, world_size
from slowfast_mvit.runtime.log import Progress
from slowfast_mvit.runtime.parallel import gradients_stay_local, total_norm
from slowfast_mvit.runtime.precision import autocast
from slowfast_mvit.runtime.stopping import StopRequest, stop_requests
from slowfast_mvit.runtime.watchdog import note_progress, waiting_for_ranks
from slowfast_mvit.structures import ClipBatch

logger = logging.getLogger(__name__)


def train(
    run: Training, *, validate: Validate | None = None, resume_from: str | Path | None = None
) -> None:
    """Train a model in place, writing checkpoints and logs; every rank calls this.

    An interrupted run that resumes from its checkpoint ends with the same weights, to the bit, as
    an uninterrupted one, on the same machines and as many of them.

    Args:
        run: its objects.
        validate: see ``engine.validation``; of the moving average of the weights, if there is one.
        resume_from: a checkpoint; its epoch and step count.

    Raises:
        UserError: the losses or gradients of too many steps are not finite, or too many videos
            cannot be read.
        ResumeError: ``resume_from`` does not fit.
        Stopped: a signal was received; the progress is saved.
    """
    settings, start, so_far = run.settings, Position(0), EpochProgress()
    if resume_from is not None:
        start, so_far = run.resume(resume_from)
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
        if start.step == 0 and validations.was_interrupted(start.epoch - 1):
            validations.run(start.epoch - 1, stop.raise_if_requested)
        while start.epoch < settings.max_epoch and not validations.have_stalled():
            epoch = start.epoch
            so_far = train_epoch(run, start, so_far, failures=failures, stop=stop)
            start = Position(epoch + 1)
            is_saved = settings.is_due(epoch, settings.checkpoint_period)
            if is_saved:
                run.save(start, EpochProgress())
            if validations.are_due(epoch):
                try:
                    validations.run(epoch, stop.raise_if_requested)
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
    """Train one epoch, or the rest of it.

    Args:
        run: its objects.
        start: the epoch, and the number of its finished steps.
        so_far: the counts of those steps.
        failures: counts unreadable videos.
        stop: checked after each step.

    Returns:
        The counts of the epoch.

    Raises:
        Stopped: a signal was received; the progress is saved.
    """
    state, settings, num_steps = run.state, run.settings, run.num_steps
    meter = _start_epoch(run, start, so_far, failures)
    state.module.train()
    batches = failures.recording(run.loader.epoch(start.epoch, start.step * settings.accum_steps))
    what = f"epoch {start.epoch + 1}/{settings.max_epoch}"
    steps = Progress(range(start.step, num_steps), total=num_steps, start=start.step, what=what)
    for step in steps:
        lr = run.lr_at(start.epoch + step / num_steps)
        set_lr(state.optimizer, lr)
        grad_norm = train_step(run, batches, Position(start.epoch, step), meter, failures)
        meter.end_step(step, lr, grad_norm)

        here = Position(start.epoch, step + 1)
        if here.step % settings.log_period == 0 or here.step == num_steps:
            settle(run, meter, failures)
            run.reporter.report({**meter.line(), **failures.counts}, steps)
            failures.require_below_limit()
        signal_number = stop.agreed()
        if signal_number or settings.saves_at(here, num_steps):
            settle(run, meter, failures)
            failures.require_below_limit()
            run.save(here, {"meter": meter.state(), "failures": failures.state()})
        if signal_number:
            raise Stopped(signal_number)
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
    """Take one optimizer step with the mean of the gradients of its batches, in place.

    Several ranks exchange gradients once, with the last batch. If the loss of any rank or the
    gradient is not finite, the step is skipped on all ranks: nothing changes, and the host does not
    wait to know it.

    Args:
        run: its weights and its optimizer change.
        batches: the next ones are taken.
        at: the epoch, and the number of the step in it, from 0.
        meter: measures the batches.
        failures: counts unreadable videos.

    Returns:
        The L2 norm of all gradients together, (), before clipping; not finite if the step was
        skipped.
    """
    state, settings = run.state, run.settings
    num_batches = settings.accum_steps
    first, where = at.step * num_batches, f"epoch {at.epoch + 1}, step {at.step + 1}"
    losses = list[Tensor]()
    for number in range(first, first + num_batches):
        note_progress(f"{where}, reading videos", (at.epoch, number, 0))
        meter.data_stall.start()
        batch = next(batches)
        meter.data_stall.stop()
        failures.add(batch)
        seed_model_masks(settings.seed, at.epoch, number)
        rng = generator(settings.seed, at.epoch, number, BATCH, rank())
        is_last = number == first + num_batches - 1
        stay_local = contextlib.nullcontext() if is_last else gradients_stay_local(state.module)
        note_progress(f"{where}, forward pass", (at.epoch, number, 1))
        with waiting_for_ranks(), stay_local:
            with autocast(run.device, settings.precision):
                outcome = run.objective(state.module, batch.to(run.device, non_blocking=True), rng)
            meter.add(outcome, batch.video_ids)
            losses.append(outcome.loss.detach())
            note_progress(f"{where}, backward pass", (at.epoch, number, 2))
            state.scaler.scale(outcome.loss / num_batches).backward()
    note_progress(f"{where}, update of the weights", (at.epoch, number, 3))
    spread_bad_loss(state.model, torch.stack(losses).sum())
    grad_norm = apply_gradients(state.model, state.optimizer, state.scaler, settings)
    if state.average is not None:
        state.average.update_parameters(state.model, _is_bad(grad_norm))
    return grad_norm


def spread_bad_loss(model: nn.Module, loss: Tensor) -> None:
    """Make a gradient NaN on every rank, in place, if the loss of any rank is not finite.

    A gradient that is not finite is exchanged between the ranks anyway; but a loss may be NaN and
    all gradients finite.
    """
    gradient = next(p.grad for p in model.parameters() if p.grad is not None)
    gradient.mul_(1 + 0 * sum_over_ranks(loss.double()))


def apply_gradients(
    model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler, settings: TrainSettings
) -> Tensor:
    """Clip the gradients, update the weights in place, and reset the gradients.

    Gradients that are not finite change neither weights nor optimizer. A fused optimizer skips such
    a step on the device; for any other (see ``optim.params``) the host waits until it knows.

    Returns:
        The L2 norm of all gradients together, (), before clipping.
    """
    scaler.unscale_(optimizer)
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = total_norm(parameters)
    if settings.clip_value is not None:
        clip_grad_value_(parameters, settings.clip_value)
    elif settings.clip_norm is not None:
        clip_grads_with_norm_(parameters, settings.clip_norm, norm)
    if scaler.is_enabled():
        scaler.step(optimizer)
        scaler.update()
    elif getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = _is_bad(norm)  # type: ignore[attr-defined]  # as GradScaler sets it
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
    elif norm.isfinite():
        optimizer.step()
    optimizer.zero_grad()
    return norm


def _is_bad(norm: Tensor) -> Tensor:
    """Return 1.0 on the device where a norm is not finite, else 0.0, ()."""
    return norm.isfinite().logical_not().float()


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


def settle(run: Training, meter: EpochMeter, failures: FailureLimit) -> None:
    """Sum what all ranks measured into meter and failures: one exchange, one transfer.

    Raises:
        UserError: too many losses or gradients are not finite; the same message on every rank.
    """
    failures.add_totals(meter.sum_over_ranks(failures.counts_of_rank()))
    for step in meter.bad_steps():
        run.state.skipped.add(step, run.settings.max_skipped_steps)
