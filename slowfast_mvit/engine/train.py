"""The training loop: built objects and plain numbers in, checkpoints and logs out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from slowfast_mvit.engine.failures import FailureLimit
from slowfast_mvit.engine.measure import EpochMeter
from slowfast_mvit.engine.telling import tell
from slowfast_mvit.optim.objectives import Outcome
from slowfast_mvit.optim.schedule import Schedule, set_lr
from slowfast_mvit.randomness import BATCH, MODEL_MASKS, generator
from slowfast_mvit.runtime.checkpoint import load_training_state, save_checkpoint
from slowfast_mvit.runtime.checkpoint_files import remove_unfinished
from slowfast_mvit.runtime.distributed import is_main, rank
from slowfast_mvit.runtime.log import StatsLog, memory_in_use, progress
from slowfast_mvit.runtime.precision import autocast, loss_scaler
from slowfast_mvit.structures import ClipBatch

logger = logging.getLogger(__name__)

Objective = Callable[[nn.Module, ClipBatch, np.random.Generator], Outcome]


class BatchSource(Protocol):
    """What the loops need of ``data.loader.Loader``."""

    @property
    def num_videos(self) -> int:
        """Videos in the list."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[ClipBatch]:
        """The batches of one epoch from a step on; equal arguments give equal batches."""


@dataclass(frozen=True)
class TrainSettings:
    """The plain numbers of a training run.

    Attributes:
        max_epoch: epochs of the whole run.
        seed: every random draw follows from it.
        checkpoint_period: a checkpoint after every so many epochs, and after the last.
        eval_period: a validation after every so many epochs, and after the last.
        log_period: a line of the log after every so many steps.
        precision: "fp32", "bf16" or "fp16".
        clip_value: each element of a gradient is cut to plus or minus this; None for no cut.
        clip_norm: all gradients are shrunk together to this L2 norm; None for not. Not read where
            there is a ``clip_value``, as in PySlowFast.
        max_failed_fraction: share of unreadable videos at which the run stops.
    """

    max_epoch: int
    seed: int
    checkpoint_period: int = 10
    eval_period: int = 10
    log_period: int = 10
    precision: str = "fp32"
    clip_value: float | None = None
    clip_norm: float | None = None
    max_failed_fraction: float = 0.01

    def is_due(self, epoch: int, period: int) -> bool:
        """Whether something done every ``period`` epochs is done after the 0-based ``epoch``."""
        return (epoch + 1) % period == 0 or epoch + 1 == self.max_epoch


def train(
    model: nn.Module,
    objective: Objective,
    *,
    optimizer: Optimizer,
    lr_at: Schedule,
    loader: BatchSource,
    settings: TrainSettings,
    device: torch.device,
    output_dir: str | Path,
    cfg_text: str,
    extra: Mapping[str, Any] | None = None,
    validate: Callable[[int], Mapping[str, float]] | None = None,
    resume_from: str | Path | None = None,
) -> None:
    """Train a model in place, writing checkpoints and logs.

    A run that is cut off and goes on from its checkpoint ends with the same weights, to the bit, as
    one that was not, on the same machine.

    Args:
        model: on ``device``.
        objective: what is minimised, see ``optim.objectives``.
        optimizer: over ``optim.params.parameter_groups``.
        lr_at: learning rate at a fractional epoch.
        loader: the training batches.
        settings: plain numbers.
        output_dir: gets ``checkpoints/``, ``json_stats.log`` and ``failed_videos.csv``.
        cfg_text: the resolved config, kept in each checkpoint.
        extra: plain values kept in each checkpoint beside the step and the seed.
        validate: called with the 0-based epoch; gives "top1_err", "top5_err" and the like.
        resume_from: a checkpoint to go on from; its epoch counts.

    Raises:
        UserError: the loss is not finite, or too many videos cannot be read.
        WeightsError: ``resume_from`` does not fit.
    """
    stats = StatsLog(output_dir)
    scaler = loss_scaler(device, settings.precision)
    start_epoch, start_step = 0, 0
    if resume_from is not None:
        start_epoch, start_step = _resume(resume_from, model, optimizer, scaler, settings)
    stats.keep_until(start_epoch, start_step)
    if is_main():
        remove_unfinished(output_dir)
    failures = FailureLimit(
        Path(output_dir) / "failed_videos.csv",
        max_fraction=settings.max_failed_fraction,
        num_videos=loader.num_videos,
    )
    for epoch in range(start_epoch, settings.max_epoch):
        train_epoch(
            model,
            objective,
            optimizer=optimizer,
            scaler=scaler,
            lr_at=lr_at,
            loader=loader,
            settings=settings,
            device=device,
            stats=stats,
            failures=failures,
            epoch=epoch,
            start_step=start_step if epoch == start_epoch else 0,
        )
        if settings.is_due(epoch, settings.checkpoint_period) and is_main():
            path = save_checkpoint(
                output_dir,
                epoch=epoch,
                model_state=model.state_dict(),
                optimizer_state=optimizer.state_dict(),
                cfg_text=cfg_text,
                extra={**(extra or {}), "step": 0, "seed": settings.seed},
                scaler_state=scaler.state_dict() if scaler.is_enabled() else None,
            )
            logger.info("epoch %d/%d: saved %s", epoch + 1, settings.max_epoch, path)
        if validate is not None and settings.is_due(epoch, settings.eval_period):
            _validate(validate, epoch, settings.max_epoch, stats)


def train_epoch(
    model: nn.Module,
    objective: Objective,
    *,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    lr_at: Schedule,
    loader: BatchSource,
    settings: TrainSettings,
    device: torch.device,
    stats: StatsLog,
    failures: FailureLimit,
    epoch: int,
    start_step: int = 0,
) -> None:
    """One epoch of ``train``, whose arguments these are, from ``start_step`` on."""
    num_steps = len(loader)
    meter = EpochMeter(
        epoch=epoch,
        max_epoch=settings.max_epoch,
        num_steps=num_steps,
        device=device,
        skips_infinite_gradients=scaler.is_enabled(),
    )
    failures.start_epoch(epoch)
    model.train()
    batches = progress(
        loader.epoch(epoch, start_step),
        total=num_steps,
        what=f"epoch {epoch + 1}/{settings.max_epoch}",
        start=start_step,
    )
    meter.batch_wanted()
    for step, batch in enumerate(batches, start=start_step):
        meter.batch_arrived()
        failures.add(batch)
        lr = lr_at(epoch + step / num_steps)
        set_lr(optimizer, lr)
        seed_model_masks(settings.seed, epoch, step)
        rng = generator(settings.seed, epoch, step, BATCH, rank())
        with autocast(device, settings.precision):
            outcome = objective(model, batch.to(device, non_blocking=True), rng)
        grad_norm = update(outcome.loss, model, optimizer, scaler, settings)
        meter.add(outcome, batch.video_ids)
        meter.end_step(step, lr, grad_norm)
        if (step + 1) % settings.log_period == 0 or step + 1 == num_steps:
            tell(meter.read(), stats, bar=batches)
        meter.batch_wanted()
    failures.end_epoch()
    tell({**meter.summary(lr), "num_failed": len(failures.failed)}, stats)


def update(
    loss: Tensor,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    settings: TrainSettings,
) -> Tensor:
    """Move the weights down the gradient of ``loss``, in place.

    Returns:
        The L2 norm of all gradients together, (), as it was before it was clipped.
    """
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = get_total_norm(p.grad for p in parameters if p.grad is not None)
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


def _resume(
    path: str | Path,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    settings: TrainSettings,
) -> tuple[int, int]:
    """Go back to a checkpoint; returns the epoch and the step to go on with."""
    state = load_training_state(path, model, optimizer, scaler)
    seed = state.extra.get("seed", settings.seed)
    if seed != settings.seed:
        logger.warning("RNG_SEED was %s and is now %s: other draws follow", seed, settings.seed)
    epoch, step = state.epoch + 1, int(state.extra.get("step", 0))
    if epoch >= settings.max_epoch:
        logger.info("%s: all %d epochs are done already", path, settings.max_epoch)
    else:
        logger.info("going on from %s with epoch %d/%d", path, epoch + 1, settings.max_epoch)
    return epoch, step


def _validate(
    validate: Callable[[int], Mapping[str, float]], epoch: int, max_epoch: int, stats: StatsLog
) -> None:
    start_s = time.monotonic()
    measured = dict(validate(epoch))
    before = stats.read("val_epoch")
    least = {
        f"min_{name}": min([measured[name], *(record[name] for record in before)])
        for name in ("top1_err", "top5_err")
    }
    tell(
        {
            "_type": "val_epoch",
            "epoch": f"{epoch + 1}/{max_epoch}",
            "time_diff": round(time.monotonic() - start_s, 3),
            "RAM": memory_in_use(),
            **measured,
            **least,
        },
        stats,
    )
