"""Sums over all ranks for a step, a window of the log and an epoch, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from slowfast_mvit.runtime.distributed import rank, sum_over_ranks, world_size


def sum_measured(unread: Unread, counts: Mapping[str, float]) -> Totals:
    """Sum what all ranks measured, with one exchange and one transfer from the device.

    Seconds and bytes of a rank have a place of their own in the sum, so they arrive as they are.

    Args:
        unread: of this rank; every rank has as many steps.
        counts: numbers of this rank, with the same names on every rank.
    """
    steps = unread.steps
    waited, held = [0.0] * world_size(), [0.0] * world_size()
    waited[rank()], held[rank()] = unread.waited_s, unread.gpu_bytes
    known = [*counts.values(), *waited, *held, *(step.num_samples for step in steps)]
    on_device = torch.tensor(known, dtype=torch.float64).to(unread.device)
    totals = sum_over_ranks(torch.cat([on_device, *(step.values for step in steps)])).cpu()

    sizes = [len(counts), len(waited), len(held), len(steps), 4 * len(steps)]
    parts = totals.split(sizes)
    return Totals(
        steps,
        {name: _whole(count) for name, count in zip(counts, parts[0].tolist(), strict=True)},
        parts[1].tolist(),
        parts[2].tolist(),
        parts[3].tolist(),
        parts[4].reshape(len(steps), 4).tolist(),
    )


def _whole(number: float) -> float:
    """A whole number as an int, which is what it was counted as."""
    return int(number) if number.is_integer() else number


@dataclass
class UnreadStep:
    """One step of this rank, its values still on the device.

    Attributes:
        number: 0-based in its epoch.
        lr: the learning rate.
        video_ids: its videos.
        num_samples: views it was trained on.
        values: (4,) float64 on the device: the sum of the losses of its samples, how many are
            top-1 and top-5 correct, and the gradient norm.
    """

    number: int
    lr: float
    video_ids: tuple[str, ...]
    num_samples: int
    values: Tensor


@dataclass
class Unread:
    """The measurements of this rank since the last sum over the ranks.

    Attributes:
        steps: their values are still on the device.
        waited_s: waiting for data.
        gpu_bytes: the most GPU memory held so far.
        device: of the model.
    """

    steps: list[UnreadStep]
    waited_s: float
    gpu_bytes: float
    device: torch.device


@dataclass
class Step:
    """One step over all ranks, as plain numbers; ``loss`` is the mean over its samples."""

    number: int
    lr: float
    num_samples: float
    loss: float
    top1_correct: float
    top5_correct: float
    grad_norm: float


@dataclass
class Sums:
    """The sums of an epoch.

    Attributes:
        num_skipped: steps that a float16 loss scaler left out.
        grad_norm: over the other steps.
        seconds: of the windows that are reported.
    """

    num_steps: int = 0
    num_skipped: int = 0
    num_samples: float = 0.0
    loss: float = 0.0
    top1_correct: float = 0.0
    top5_correct: float = 0.0
    grad_norm: float = 0.0
    seconds: float = 0.0
    waited_s: float = 0.0

    def add(self, step: Step) -> None:
        """Count a step in."""
        skipped = not math.isfinite(step.grad_norm)
        self.num_steps += 1
        self.num_skipped += skipped
        self.num_samples += step.num_samples
        self.loss += step.loss * step.num_samples
        self.top1_correct += step.top1_correct
        self.top5_correct += step.top5_correct
        self.grad_norm += 0.0 if skipped else step.grad_norm


@dataclass
class Window:
    """The steps since the last line of the log, over all ranks.

    Attributes:
        seconds: on this rank, up to the last checkpoint; the clock runs on from there.
        waited_s: waiting for data, on the rank that waited longest.
    """

    steps: list[Step] = field(default_factory=list)
    seconds: float = 0.0
    waited_s: float = 0.0


@dataclass
class Totals:
    """The measurements of all ranks since the last sum.

    Attributes:
        steps: those of this rank.
        counts: summed.
        waited_s: for data, of each rank.
        gpu_bytes: of each rank.
        num_samples: of each step, summed.
        values: ``UnreadStep.values`` of each step, summed.
    """

    steps: list[UnreadStep]
    counts: dict[str, float]
    waited_s: list[float]
    gpu_bytes: list[float]
    num_samples: list[float]
    values: list[list[float]]
