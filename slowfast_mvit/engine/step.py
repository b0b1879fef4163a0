"""One step of the optimizer: the gradients of its batches, clipped, applied."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_
from torch.optim import Optimizer

from slowfast_mvit.engine.failed_videos import FailureLimit
from slowfast_mvit.engine.meter import EpochMeter
from slowfast_mvit.engine.resume import RunState
from slowfast_mvit.engine.settings import Objective, TrainSettings
from slowfast_mvit.randomness import BATCH, MODEL_MASKS, generator
from slowfast_mvit.runtime.checkpoint_files import Position
from slowfast_mvit.runtime.distributed import rank
from slowfast_mvit.runtime.parallel import gradients_stay_local, total_norm
from slowfast_mvit.runtime.precision import autocast
from slowfast_mvit.structures import ClipBatch


def train_step(
    state: RunState,
    objective: Objective,
    batches: Iterator[ClipBatch],
    at: Position,
    *,
    settings: TrainSettings,
    device: torch.device,
    meter: EpochMeter,
    failures: FailureLimit,
) -> Tensor:
    """Take the batches of a step, and move the weights down the mean of their gradients, in place.

    Several processes exchange gradients once, with those of the last batch.

    Args:
        state: its weights and its optimizer change.
        objective: what is minimised.
        batches: the next ones are taken.
        at: the epoch, and the number of the step in it, from 0.
        (the rest): see ``engine.train``.

    Returns:
        The L2 norm of all gradients together, (), as it was before it was clipped.
    """
    num_batches = settings.accum_steps
    first = at.step * num_batches
    for number in range(first, first + num_batches):
        meter.batch_wanted()
        meter.batch_wanted()
        batch = next(batches)
        meter.batch_arrived()
        failures.add(batch)
        seed_model_masks(settings.seed, at.epoch, number)
        rng = generator(settings.seed, at.epoch, number, BATCH, rank())
        is_last = number == first + num_batches - 1
        with contextlib.nullcontext() if is_last else gradients_stay_local(state.module):
            with autocast(device, settings.precision):
                outcome = objective(state.module, batch.to(device, non_blocking=True), rng)
            meter.add(outcome, batch.video_ids)
            state.scaler.scale(outcome.loss / num_batches).backward()
    return apply_gradients(state.model, state.optimizer, state.scaler, settings)


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
