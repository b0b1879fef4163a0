"""The meter of a training epoch: values stay on the device until a line of the log is due.

data_stall.start, .stop, add        for each micro-batch; nothing waits for the device
end_step                           for each step of the optimizer; the same
sum_over_ranks, bad_steps          when a line or a checkpoint is due: one sum over all ranks
line                               the record of the steps since the last line
state -> restore                   around a checkpoint within an epoch
summary                            at the end of the epoch
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slowfast_mvit.engine.data_stall import DataStallTimer
from slowfast_mvit.optim.objectives import Outcome, one_label_each
from slowfast_mvit.runtime.distributed import gather_objects, rank, sum_over_ranks, world_size
from slowfast_mvit.runtime.log import duration, memory_in_use

NUM_RANKS_NAMED = 4  # in the description of a step that is not finite


class UnreadStep(NamedTuple):
    """One step of this rank, its values still on the device.

    Attributes:
        number: 0-based in its epoch.
        lr: the learning rate.
        video_ids: its videos.
        num_samples: views it was trained on.
        values: (4,) float64 on the device: the sum of the losses of its samples, the numbers of
            top-1 and top-5 correct samples, and the gradient norm.
    """

    number: int
    lr: float
    video_ids: tuple[str, ...]
    num_samples: int
    values: Tensor


class Step(NamedTuple):
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
    """Sums over steps.

    Attributes:
        num_skipped: steps with a loss or gradient that is not finite, which changed nothing.
        num_samples: of all steps, for the speed.
        num_unmeasured: of these, in steps without a finite loss, which the metrics leave out.
        grad_norm: over the steps that were not skipped.
        seconds: on this rank.
        waited_s: for data, on the rank that waited longest.
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
    num_unmeasured: float = 0.0

    def add(self, step: Step) -> None:
        """Add a step."""
        skipped = not math.isfinite(step.loss + step.grad_norm)
        self.num_steps += 1
        self.num_skipped += skipped
        self.num_samples += step.num_samples
        self.grad_norm += 0.0 if skipped else step.grad_norm
        if not math.isfinite(step.loss):
            self.num_unmeasured += step.num_samples
            return
        self.loss += step.loss * step.num_samples
        self.top1_correct += step.top1_correct
        self.top5_correct += step.top5_correct

    def mean(self, total: float) -> float:
        """Return a sum over samples as a mean over those that were measured; NaN without any."""
        num_measured = self.num_samples - self.num_unmeasured
        return total / num_measured if num_measured else math.nan


@dataclass
class Window:
    """The steps since the last line of the log, over all ranks.

    Attributes:
        seconds: on this rank, up to the last checkpoint; the clock continues from there.
        waited_s: for data, on the rank that waited longest.
        start_s: of the clock.
    """

    steps: list[Step] = field(default_factory=list)
    seconds: float = 0.0
    waited_s: float = 0.0
    start_s: float = field(default_factory=lambda: time.monotonic())

    def seconds_so_far(self) -> float:
        """Return the seconds since the last line."""
        return self.seconds + time.monotonic() - self.start_s


def num_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Count the labels among the k largest logits (among all, with fewer classes), () int64."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).sum()


@dataclass(kw_only=True)
class EpochMeter:
    """The metrics of one training epoch.

    Attributes:
        epoch: 0-based.
        max_epoch: epochs of the whole run, for the ETA.
        num_steps: steps of the optimizer in an epoch.
        device: on which the model is.
        skips_infinite_gradients: a float16 loss scaler skips such steps.
    """

    epoch: int
    max_epoch: int
    num_steps: int
    device: torch.device
    skips_infinite_gradients: bool = False

    def __post_init__(self) -> None:
        self.batches: list[tuple[Tensor, int, tuple[str, ...]]] = []  # of the current step
        self.unread: list[UnreadStep] = []
        self.unchecked: list[tuple[UnreadStep, Step]] = []
        self.window = Window()
        self.sums = Sums()
        self.gpu_bytes = 0.0
        self.data_stall = DataStallTimer(self.device)

    def add(self, outcome: Outcome, video_ids: Sequence[str]) -> None:
        """Add a micro-batch of the current step, without waiting for the device."""
        logits, labels = one_label_each(outcome.logits, outcome.targets)
        values = (
            outcome.loss.detach().double() * len(logits),
            num_correct(logits, labels, 1).double(),
            num_correct(logits, labels, 5).double(),
        )
        self.batches.append((torch.stack(values), len(logits), tuple(video_ids)))

    def end_step(self, step: int, lr: float, grad_norm: Tensor) -> None:
        """Add up the micro-batches of a step, without waiting for the device.

        Args:
            step: 0-based in the epoch.
            lr: its learning rate.
            grad_norm: (), the norm of the gradients of all ranks together, before clipping.
        """
        values, num_samples, video_ids = zip(*self.batches, strict=True)
        summed = torch.stack(values).sum(dim=0)
        values_and_norm = torch.cat([summed, grad_norm.detach().double().reshape(1)])
        all_ids = tuple(chain.from_iterable(video_ids))
        self.unread.append(UnreadStep(step, lr, all_ids, sum(num_samples), values_and_norm))
        self.batches = []

    def sum_over_ranks(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Add up the measurements of all ranks: one exchange, one transfer from the device.

        It waits until the device has finished. ``bad_steps`` has to follow.

        Args:
            counts: other numbers of this rank to sum, with the same names on every rank.

        Returns:
            The sums of ``counts``.
        """
        unread, self.unread = self.unread, []
        of_ranks = torch.zeros(world_size(), 2, dtype=torch.float64)
        of_ranks[rank(), 0], of_ranks[rank(), 1] = self.data_stall.take(), gpu_bytes(self.device)
        known = [*counts.values(), *(step.num_samples for step in unread)]
        on_host = torch.cat([torch.tensor(known, dtype=torch.float64), of_ranks.flatten()])
        of_rank = torch.cat([on_host.to(self.device), *(step.values for step in unread)])

        sizes = [len(counts), len(unread), of_ranks.numel(), 4 * len(unread)]
        parts = sum_over_ranks(of_rank).cpu().split(sizes)
        waited_s, self.gpu_bytes = parts[2].reshape(-1, 2).amax(dim=0).tolist()
        self.window.waited_s += waited_s
        for unread_step, num_samples, values_of_step in zip(
            unread, parts[1].tolist(), parts[3].reshape(-1, 4).tolist(), strict=True
        ):
            loss, top1_correct, top5_correct, grad_norm = values_of_step
            values = (loss / num_samples, top1_correct, top5_correct, grad_norm / world_size())
            step = Step(unread_step.number, unread_step.lr, num_samples, *values)
            self.window.steps.append(step)
            self.sums.add(step)
            self.unchecked.append((unread_step, step))
        return dict(zip(counts, parts[0].tolist(), strict=True))

    def bad_steps(self) -> Iterator[str]:
        """Describe each step of the last ``sum_over_ranks`` with a loss or gradient not finite.

        Steps that a float16 loss scaler skips are left out. Every rank calls it and gets the same
        texts: the step, its rank and its videos.
        """
        steps, self.unchecked = self.unchecked, []
        for unread, step in steps:
            # All ranks have the same ``step``, so they exchange videos together or not at all.
            if math.isfinite(step.loss) and (
                math.isfinite(step.grad_norm) or self.skips_infinite_gradients
            ):
                continue
            loss = unread.values[0].item() / unread.num_samples
            yield (
                f"epoch {self.epoch + 1}, step {step.number + 1} of {self.num_steps}: loss "
                f"{step.loss:g}, gradient norm {step.grad_norm:g}, learning rate {step.lr:g}; "
                f"{_where(gather_objects((loss, unread.video_ids)))}"
            )

    def line(self) -> dict[str, Any]:
        """Return the record of the steps since the last line, ``train_iter_`` (PySlowFast's name).

        The loss of a step is the mean over all samples, that of the record their median.
        """
        window = self.window
        sums = Sums(seconds=window.seconds_so_far(), waited_s=window.waited_s)
        for step in window.steps:
            sums.add(step)
        self.sums.seconds += sums.seconds
        self.sums.waited_s += sums.waited_s
        self.window = Window()
        last = window.steps[-1]
        return {
            **self._record("train_iter_", sums, steps_done=last.number + 1),
            "iter": f"{last.number + 1}/{self.num_steps}",
            "lr": last.lr,
            "loss": _median(step.loss for step in window.steps),
            "grad_norm": _median(step.grad_norm for step in window.steps),
        }

    def summary(self, lr: float) -> dict[str, Any]:
        """Return the record of the whole epoch, ``train_epoch``."""
        sums = self.sums
        num_counted = sums.num_steps - sums.num_skipped
        return {
            **self._record("train_epoch", sums, steps_done=self.num_steps),
            "lr": lr,
            "loss": sums.mean(sums.loss),
            "grad_norm": sums.grad_norm / num_counted if num_counted else math.nan,
            "RAM": memory_in_use(),
            "time_diff": round(sums.seconds, 3),
        }

    def _record(self, kind: str, sums: Sums, *, steps_done: int) -> dict[str, Any]:
        seconds, num_steps = sums.seconds, sums.num_steps
        steps_left = (self.max_epoch - self.epoch) * self.num_steps - steps_done
        return {
            "_type": kind,
            "epoch": f"{self.epoch + 1}/{self.max_epoch}",
            "top1_err": 100.0 * (1.0 - sums.mean(sums.top1_correct)),
            "top5_err": 100.0 * (1.0 - sums.mean(sums.top5_correct)),
            "gpu_mem": f"{self.gpu_bytes / 1024**3:.2f}G",
            "dt": round(seconds / num_steps, 5),
            "dt_data": round(sums.waited_s / num_steps, 5),
            "dt_net": round((seconds - sums.waited_s) / num_steps, 5),
            "clips_per_s": round(sums.num_samples / max(seconds, 1e-9), 3),
            "eta": duration(seconds / num_steps * steps_left),
            "num_skipped": self.sums.num_skipped,
        }

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint within the epoch."""
        assert not self.unread, "call sum_over_ranks first: these steps would be lost"
        return {
            "sums": asdict(self.sums),
            "steps": [list(step) for step in self.window.steps],
            "seconds": self.window.seconds_so_far(),
            "waited_s": self.window.waited_s,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume from a ``state``, as if there had been no interruption."""
        self.sums = Sums(**state["sums"])
        steps = [Step(*values) for values in state["steps"]]
        self.window = Window(steps, state["seconds"], state["waited_s"])


def _median(values: Iterable[float]) -> float:
    """Return the median of the values that are not NaN."""
    numbers = [value for value in values if not math.isnan(value)]
    return statistics.median(numbers) if numbers else math.nan


def gpu_bytes(device: torch.device) -> int:
    """Return the peak GPU memory of this process so far."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _where(of_ranks: Sequence[tuple[float, Sequence[str]]]) -> str:
    """Name the ranks whose loss is not finite, or all where only the gradient is not."""
    if len(of_ranks) == 1:
        return f"videos: {', '.join(of_ranks[0][1])}"
    culprits = [number for number, (loss, _) in enumerate(of_ranks) if not math.isfinite(loss)]
    suspects = culprits or range(len(of_ranks))
    named = [
        f"rank {number} (loss {of_ranks[number][0]:g}), videos: {', '.join(of_ranks[number][1])}"
        for number in suspects[:NUM_RANKS_NAMED]
    ]
    if len(suspects) > NUM_RANKS_NAMED:
        named.append(f"and {len(suspects) - NUM_RANKS_NAMED} more ranks")
    return "; ".join(named)
