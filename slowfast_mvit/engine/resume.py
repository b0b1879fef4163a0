"""The state that a run resumes from: gathered, written, restored."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from slowfast_mvit.errors import ResumeError, WeightsError
from slowfast_mvit.runtime.checkpoint import load_training_state, save_best, save_checkpoint
from slowfast_mvit.runtime.checkpoint_files import Position
from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.runtime.parallel import whole_optimizer_state, whole_state

logger = logging.getLogger(__name__)

# Plain values that say what was counted so far in an epoch that was cut off; empty at its start.
EpochProgress = dict[str, Any]

# Stored in checkpoints: with another of these, a resumed run is no longer the one that was cut off.
DECIDES_DRAWS = {
    "seed": "RNG_SEED",
    "videos_per_step": "the number of videos a step",
    "world_size": "the number of ranks",
}


@dataclass(frozen=True)
class RunState:
    """The objects that training changes, and so the content of a checkpoint.

    Attributes:
        model: with PySlowFast's names.
        module: what training calls: the model, or what spreads it over processes.
        optimizer: over the model's parameters.
        scaler: of the loss, in float16.
        average: the moving average of the weights, if one is kept.
    """

    model: nn.Module
    module: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None = None

    @property
    def best_module(self) -> nn.Module:
        """Whose weights are validated and tested: the moving average, if there is one."""
        return self.module if self.average is None else self.average.module


def save_state(
    state: RunState,
    output_dir: str | Path,
    position: Position,
    *,
    cfg_text: str,
    extra: Mapping[str, Any],
) -> None:
    """Write a checkpoint; every process must call this.

    Args:
        position: how far the run has come.
        (the rest): see ``runtime.checkpoint.save_checkpoint``.
    """
    average = state.average
    model_state = whole_state(state.module)
    optimizer_state = whole_optimizer_state(state.module, state.optimizer)
    ema_state = None if average is None else whole_state(average.module)
    if not is_main():
        return
    path = save_checkpoint(
        output_dir,
        epoch=position.epoch - 1,
        step=position.step,
        model_state=model_state,
        optimizer_state=optimizer_state,
        ema_state=ema_state,
        cfg_text=cfg_text,
        extra={**extra, "num_averaged": None if average is None else int(average.n_averaged)},
        scaler_state=state.scaler.state_dict() if state.scaler.is_enabled() else None,
    )
    logger.info("saved %s", path)


def save_best_weights(
    state: RunState,
    output_dir: str | Path,
    epoch: int,
    *,
    cfg_text: str,
    extra: Mapping[str, Any],
) -> None:
    """Write the weights that have just validated best; every process must call this."""
    weights = whole_state(state.best_module)
    if is_main():
        save_best(output_dir, epoch=epoch, model_state=weights, cfg_text=cfg_text, extra=extra)


def resume_state(
    state: RunState, path: str | Path, stored: Mapping[str, Any], max_epoch: int
) -> tuple[Position, EpochProgress]:
    """Put a run back to where a checkpoint was written, in place.

    Args:
        path: a file of ours or of PySlowFast.
        stored: the plain values that this run stores in its checkpoints.
        max_epoch: epochs of the whole run.

    Returns:
        Where to resume, and what was counted in the epoch so far.

    Raises:
        ResumeError: it cannot be read or does not fit.
    """
    average = None if state.average is None else state.average.module
    try:
        saved = load_training_state(path, state.module, state.optimizer, state.scaler, ema=average)
    except WeightsError as error:
        raise ResumeError(str(error)) from error
    extra = saved.extra  # none in PySlowFast's own files
    if state.average is not None:
        state.average.n_averaged.fill_(int(extra.get("num_averaged") or 0))
    for name, label in DECIDES_DRAWS.items():
        before = extra.get(name, stored[name])
        if before != stored[name]:
            logger.warning(
                "%s was %s and is now %s: other draws and other steps follow than in a run that "
                "was never cut off",
                label,
                before,
                stored[name],
            )
    start = Position(saved.epoch + 1, int(extra.get("step", 0)))
    if start.epoch >= max_epoch:
        logger.info("%s: all %d epochs are done already", path, max_epoch)
        return start, {}
    if start.step == 0:
        logger.info("resuming from %s with epoch %d/%d", path, start.epoch + 1, max_epoch)
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
    return start, {name: extra[name] for name in ("meter", "failures") if name in extra}
