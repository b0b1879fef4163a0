"""Settings of the loops, and the protocols of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import nn

from slowfast_mvit.errors import ListError
from slowfast_mvit.optim.objectives import Outcome
from slowfast_mvit.runtime.checkpoint import Position
from slowfast_mvit.structures import ClipBatch

Objective = Callable[[nn.Module, ClipBatch, np.random.Generator], Outcome]


class BatchSource(Protocol):
    """The part of ``data.loading.loader.Loader`` that the loops need."""

    @property
    def num_videos(self) -> int:
        """Videos in an epoch, of this process."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[ClipBatch]:
        """Return the batches of one epoch from a step on; equal arguments give equal batches."""


@dataclass(frozen=True)
class TrainSettings:
    """The plain numbers of a training run.

    Attributes:
        max_epoch: epochs of the whole run.
        seed: every random draw follows from it.
        checkpoint_period: a checkpoint after every so many epochs, and after the last.
        checkpoint_steps: and after every so many steps of the run, inside an epoch; 0 for not.
        eval_period: a validation after every so many epochs, and after the last.
        early_stopping: stop after so many validations without a better top-1; 0 for never.
        log_period: a line of the log after every so many steps.
        accum_steps: batches whose gradients make one step.
        precision: "fp32", "bf16" or "fp16".
        clip_value: each element of a gradient is cut to plus or minus this; None for no cut.
        clip_norm: all gradients are shrunk together to this L2 norm; None for not. Not read where
            there is a ``clip_value``, as in PySlowFast.
        max_failed_fraction: share of unreadable videos at which the run stops.
        max_skipped_steps: number of steps with a loss or gradient that is not finite, which are
            skipped, above which the run stops.
    """

    max_epoch: int
    seed: int
    checkpoint_period: int = 10
    checkpoint_steps: int = 0
    eval_period: int = 10
    early_stopping: int = 0
    log_period: int = 10
    accum_steps: int = 1
    precision: str = "fp32"
    clip_value: float | None = None
    clip_norm: float | None = None
    max_failed_fraction: float = 0.01
    max_skipped_steps: int = 0

    def is_due(self, epoch: int, period: int) -> bool:
        """Return whether the 0-based ``epoch`` ends a ``period`` of epochs, or the run."""
        return (epoch + 1) % period == 0 or epoch + 1 == self.max_epoch

    def saves_at(self, position: Position, num_steps: int) -> bool:
        """Return whether a checkpoint inside the epoch is due, unless that of the epoch follows."""
        epoch, step = position
        if not self.checkpoint_steps or (epoch * num_steps + step) % self.checkpoint_steps:
            return False
        return step < num_steps or not self.is_due(epoch, self.checkpoint_period)


def steps_in_epoch(loader: BatchSource, accum_steps: int) -> int:
    """Return the steps of the optimizer in an epoch; a last step without all batches is dropped.

    Raises:
        ListError: the list does not fill a single step.
    """
    if len(loader) < accum_steps:
        raise ListError(
            f"the training list fills {len(loader)} batches, fewer than the {accum_steps} of one "
            "step. Lower TRAIN.GRAD_ACCUM_STEPS or TRAIN.BATCH_SIZE, or list more videos"
        )
    return len(loader) // accum_steps
