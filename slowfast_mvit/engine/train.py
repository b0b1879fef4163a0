"""The training loop: built objects and plain numbers in, checkpoints and logs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from slowfast_mvit.engine.failed_videos import FailureLimit
from slowfast_mvit.engine.meter import EpochMeter
from slowfast_mvit.engine.metrics_report import tell
from slowfast_mvit.engine.resume import RunState, resume_state, save_best_weights, save_state
from slowfast_mvit.engine.settings import (
    BatchSource,
    Objective,
    TrainSettings,
    steps_in_epoch,
)
from slowfast_mvit.engine.step import train_step
from slowfast_mvit.engine.validation import Validate, Validations
from slowfast_mvit.errors import Stopped
from slowfast_mvit.optim.schedule import Schedule, set_lr
from slowfast_mvit.runtime.checkpoint_files import Position, remove_mid_epoch, remove_unfinished
from slowfast_mvit.runtime.distributed import is_main, world_size
from slowfast_mvit.runtime.log import StatsLog, progress
from slowfast_mvit.runtime.metric_writers import Curves
from slowfast_mvit.runtime.precision import loss_scaler
from slowfast_mvit.runtime.sharded_files import remove_sharded_mid_epoch, remove_unfinished_sharded
from slowfast_mvit.runtime.stopping import StopRequest, stop_requests

logger = logging.getLogger(__name__)

# Plain values with which an epoch that was cut off goes on: what was counted in it so far.
Memory = Mapping[str, Any]
Save = Callable[[Position, Memory], None]


# Kept in checkpoints: with another of these a resumed run is no longer the one that was cut off.
DECIDES_DRAWS = {
    "seed": "RNG_SEED",
    "videos_per_step": "the number of videos a step",
    "world_size": "the number of processes",
}


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
    module: nn.Module | None = None,
    average: AveragedModel | None = None,
    validate: Validate | None = None,
    curves: Sequence[Curves] = (),
    resume_from: str | Path | None = None,
) -> None:
    """Train a model in place, writing checkpoints and logs; every process of the run calls this.

    A run that is cut off and goes on from its checkpoint ends with the same weights, to the bit, as
    one that was not, on the same machines and as many of them.

    Args:
        model: on ``device``.
        objective: what is minimised, see ``optim.objectives``.
        optimizer: over ``optim.params.parameter_groups``.
        lr_at: learning rate at a fractional epoch.
        loader: the training batches of this process.
        settings: plain numbers.
        output_dir: gets ``checkpoints/``, ``mid_epoch/``, ``json_stats.log`` and
            ``failed_videos.csv``.
        cfg_text: the resolved config, kept in each checkpoint.
        extra: plain values kept in each checkpoint beside the step and the seed.
        module: what ``runtime.parallel.parallelise`` made of the model; None for the model itself.
        average: the moving average of the weights; it then is what is validated.
        validate: see ``engine.validating``.
        curves: where else the numbers of the log go.
        resume_from: a checkpoint to go on from; its epoch and step count.

    Raises:
        UserError: the loss is not finite, or too many videos cannot be read.
        WeightsError: ``resume_from`` does not fit.
        Stopped: a signal asked for it; what was done is saved.
    """
    scaler = loss_scaler(device, settings.precision)
    state = RunState(model, module or model, optimizer, scaler, average)
    num_steps = steps_in_epoch(loader, settings.accum_steps)
    num_videos = loader.num_videos // len(loader) * settings.accum_steps * world_size()
    kept = {
        **(extra or {}),
        "seed": settings.seed,
        "videos_per_step": num_videos,
        "world_size": world_size(),
    }
    start = Position(0)
    memory: Memory = {}
    if resume_from is not None:
        start, memory = _resume(state, resume_from, kept, settings.max_epoch)
    if is_main():
        remove_unfinished(output_dir)
        remove_unfinished_sharded(output_dir)
    stats = StatsLog(output_dir)
    stats.keep_until(*start)

    def save(position: Position, memory: Memory) -> None:
        save_state(
            state,
            output_dir,
            position,
            cfg_text=cfg_text,
            extra={**kept, **memory},
            # The last one is for others to read: tests, and whoever takes the weights.
            sharded=settings.sharded_checkpoints and position.epoch < settings.max_epoch,
        )

    def save_best(epoch: int) -> None:
        save_best_weights(state, output_dir, epoch, cfg_text=cfg_text, extra=kept)

    validations = Validations(
        validate,
        stats,
        curves,
        settings=settings,
        save_best=save_best,
    )
    failures = FailureLimit(
        Path(output_dir) / "failed_videos.csv",
        max_fraction=settings.max_failed_fraction,
        num_videos=loader.num_videos * world_size(),
    )
    with stop_requests() as stop:
        if start.step == 0 and validations.were_cut_off(start.epoch - 1):
            validations.run(start.epoch - 1, stop.raise_if_asked)
        for epoch in range(start.epoch, settings.max_epoch):
            if validations.have_stalled():
                break
            memory = train_epoch(
                state,
                objective,
                lr_at=lr_at,
                loader=loader,
                settings=settings,
                device=device,
                stats=stats,
                curves=curves,
                failures=failures,
                stop=stop,
                save=save,
                start=Position(epoch, start.step if epoch == start.epoch else 0),
                memory=memory if epoch == start.epoch else {},
            )
            is_saved = settings.is_due(epoch, settings.checkpoint_period)
            if is_saved:
                save(Position(epoch + 1), {})
            if validations.are_due(epoch):
                try:
                    validations.run(epoch, stop.raise_if_asked)
                except Stopped:
                    save(Position(epoch, num_steps), memory)
                    raise
            if validations.have_stalled() and not is_saved:
                save(Position(epoch + 1), {})
    if validations.have_stalled():
        logger.info("top-1 got no better in %d validations: done", settings.early_stopping)
    if is_main():
        remove_mid_epoch(output_dir)
        remove_sharded_mid_epoch(output_dir)


def train_epoch(
    state: RunState,
    objective: Objective,
    *,
    lr_at: Schedule,
    loader: BatchSource,
    settings: TrainSettings,
    device: torch.device,
    stats: StatsLog,
    curves: Sequence[Curves],
    failures: FailureLimit,
    stop: StopRequest,
    save: Save,
    start: Position,
    memory: Memory,
) -> Memory:
    """One epoch of ``train``, or what is left of it.

    Args:
        stop: asked after each step.
        save: writes a checkpoint.
        start: the epoch, and how many of its steps are done.
        memory: what was counted in those steps.
        (the rest): see ``train``.

    Returns:
        What was counted in the epoch.

    Raises:
        Stopped: a signal asked for it; what was done is saved.
    """
    epoch, num_steps = start.epoch, steps_in_epoch(loader, settings.accum_steps)
    meter = EpochMeter(
        epoch=epoch,
        max_epoch=settings.max_epoch,
        num_steps=num_steps,
        device=device,
        skips_infinite_gradients=state.scaler.is_enabled(),
    )
    failures.start_epoch(epoch)
    if memory:
        meter.restore(memory["meter"])
        failures.restore(memory["failures"])
    state.module.train()
    batches = failures.written_down(loader.epoch(epoch, start.step * settings.accum_steps))
    steps = progress(
        range(start.step, num_steps),
        total=num_steps,
        start=start.step,
        what=f"epoch {epoch + 1}/{settings.max_epoch}",
    )
    for step in steps:
        lr = lr_at(epoch + step / num_steps)
        set_lr(state.optimizer, lr)
        grad_norm = train_step(
            state,
            objective,
            batches,
            Position(epoch, step),
            settings=settings,
            device=device,
            meter=meter,
            failures=failures,
        )
        if state.average is not None:
            state.average.update_parameters(state.model)
        meter.end_step(step, lr, grad_norm)

        if (step + 1) % settings.log_period == 0 or step + 1 == num_steps:
            tell(meter.read(failures.counts()), stats, curves, steps)
            failures.agree(meter.counts)
        asked = stop.agreed()
        here = Position(epoch, step + 1)
        if asked or settings.saves_at(here, num_steps):
            meter.settle(failures.counts())
            failures.agree(meter.counts)
            save(here, {"meter": meter.state(), "failures": failures.state()})
        if asked:
            raise Stopped(asked)
    failures.end_epoch()
    tell(meter.summary(lr_at(epoch + (num_steps - 1) / num_steps)), stats, curves)
    return {"meter": meter.state(), "failures": failures.state()}


def _resume(
    state: RunState, path: str | Path, kept: Mapping[str, Any], max_epoch: int
) -> tuple[Position, Memory]:
    """Go back to a checkpoint; where to go on, and with what memory of the epoch under way."""
    start, extra = resume_state(state, path)
    for name, words in DECIDES_DRAWS.items():
        before = extra.get(name, kept[name])
        if before != kept[name]:
            logger.warning(
                "%s was %s and is now %s: other draws and other steps follow than in a run that "
                "was never cut off",
                words,
                before,
                kept[name],
            )
    if start.epoch >= max_epoch:
        logger.info("%s: all %d epochs are done already", path, max_epoch)
        return start, {}
    if start.step == 0:
        logger.info("going on from %s with epoch %d/%d", path, start.epoch + 1, max_epoch)
        return start, {}
    num_videos = start.step * extra.get("videos_per_step", kept["videos_per_step"])
    start = Position(start.epoch, num_videos // kept["videos_per_step"])
    logger.info(
        "going on from %s inside epoch %d/%d, after step %d",
        path,
        start.epoch + 1,
        max_epoch,
        start.step,
    )
    return start, {name: extra[name] for name in ("meter", "failures") if name in extra}
