"""What training measures: kept on the device, read only when a line of the log is due."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit.errors import UserError
from slowfast_mvit.optim.objectives import Outcome, one_label_each
from slowfast_mvit.runtime.log import duration


def num_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """How many labels are among the k largest logits (among all, with fewer classes), () int64."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).sum()


@dataclass(frozen=True)
class Step:
    """One training step, unread.

    Attributes:
        number: 0-based in its epoch.
        lr: the learning rate.
        video_ids: the videos of the batch.
        num_samples: views it was trained on.
        values: (4,) on the device: loss, gradient norm, right in the first 1, in the first 5.
    """

    number: int
    lr: float
    video_ids: tuple[str, ...]
    num_samples: int
    values: Tensor


class EpochMeter:
    """The numbers of one training epoch."""

    def __init__(
        self, *, epoch: int, max_epoch: int, num_steps: int, skips_infinite_gradients: bool
    ) -> None:
        """
        Args:
            epoch: 0-based.
            max_epoch: epochs of the whole run, for the ETA.
            num_steps: steps in an epoch.
            skips_infinite_gradients: a float16 loss scaler deals with them.
        """
        self.epoch = epoch
        self.max_epoch = max_epoch
        self.num_steps = num_steps
        self.skips_infinite_gradients = skips_infinite_gradients
        self.window: list[Step] = []
        self.num_samples = 0
        self.sums = {"loss": 0.0, "grad_norm": 0.0, "right1": 0.0, "right5": 0.0}
        self.num_read = 0
        self.start_s = self.window_start_s = self.waiting_since_s = time.monotonic()
        self.waited_s = 0.0

    def batch_arrived(self) -> None:
        """Stop the clock that measures how long training waits for data."""
        self.waited_s += time.monotonic() - self.waiting_since_s

    def add(
        self, step: int, lr: float, outcome: Outcome, grad_norm: Tensor, video_ids: tuple[str, ...]
    ) -> None:
        """Take in a step without waiting for the device."""
        logits, labels = one_label_each(outcome.logits, outcome.targets)
        values = (
            outcome.loss.detach(),
            grad_norm,
            num_correct(logits, labels, 1),
            num_correct(logits, labels, 5),
        )
        stacked = torch.stack([value.float() for value in values])
        self.window.append(Step(step, lr, video_ids, len(logits), stacked))
        self.waiting_since_s = time.monotonic()

    def read(self) -> dict[str, Any]:
        """The record of the steps since the last call, ``train_iter_`` (PySlowFast's spelling).

        Raises:
            UserError: a loss or gradient among them is not finite; names the step and its videos.
        """
        steps, self.window = self.window, []
        rows = torch.stack([step.values for step in steps]).tolist()
        for step, (loss, grad_norm, _, _) in zip(steps, rows, strict=True):
            self._require_finite(step, loss, grad_norm)
        num_samples = sum(step.num_samples for step in steps)
        for step, (loss, grad_norm, right1, right5) in zip(steps, rows, strict=True):
            self.sums["loss"] += loss * step.num_samples
            self.sums["grad_norm"] += grad_norm
            self.sums["right1"] += right1
            self.sums["right5"] += right5
        self.num_samples += num_samples
        self.num_read += len(steps)
        return {
            "_type": "train_iter_",
            "epoch": f"{self.epoch + 1}/{self.max_epoch}",
            "iter": f"{steps[-1].number + 1}/{self.num_steps}",
            "lr": steps[-1].lr,
            "loss": statistics.median(row[0] for row in rows),
            "grad_norm": statistics.median(row[1] for row in rows),
            "top1_err": _error(sum(row[2] for row in rows), num_samples),
            "top5_err": _error(sum(row[3] for row in rows), num_samples),
            "gpu_mem": gpu_memory(),
            **self._times(len(steps), steps[-1].number),
        }

    def summary(self, lr: float) -> dict[str, Any]:
        """The record of the whole epoch, ``train_epoch``; everything must have been read."""
        return {
            "_type": "train_epoch",
            "epoch": f"{self.epoch + 1}/{self.max_epoch}",
            "lr": lr,
            "loss": self.sums["loss"] / self.num_samples,
            "grad_norm": self.sums["grad_norm"] / self.num_read,
            "top1_err": _error(self.sums["right1"], self.num_samples),
            "top5_err": _error(self.sums["right5"], self.num_samples),
            "gpu_mem": gpu_memory(),
            "time_diff": round(time.monotonic() - self.start_s, 3),
        }

    def _times(self, num_steps: int, last_step: int) -> dict[str, Any]:
        """Seconds per step since the last record: in all, waiting for data, and the rest."""
        now_s = time.monotonic()
        per_step_s = (now_s - self.window_start_s) / num_steps
        waited_s = self.waited_s / num_steps
        self.window_start_s, self.waited_s = now_s, 0.0
        steps_left = (self.max_epoch - self.epoch) * self.num_steps - (last_step + 1)
        return {
            "dt": round(per_step_s, 5),
            "dt_data": round(waited_s, 5),
            "dt_net": round(per_step_s - waited_s, 5),
            "eta": duration(per_step_s * steps_left),
        }

    def _require_finite(self, step: Step, loss: float, grad_norm: float) -> None:
        gradient_counts = not self.skips_infinite_gradients
        if math.isfinite(loss) and (math.isfinite(grad_norm) or not gradient_counts):
            return
        raise UserError(
            f"training diverged in epoch {self.epoch + 1}, step {step.number + 1} of "
            f"{self.num_steps}: loss {loss:g}, gradient norm {grad_norm:g}, learning rate "
            f"{step.lr:g}; videos: {', '.join(step.video_ids)}. No checkpoint was written since. "
            "Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_EPOCHS, set SOLVER.CLIP_GRAD_L2NORM, or "
            "look at those videos"
        )


def gpu_memory() -> str:
    """The most GPU memory this process has held so far, in GiB."""
    held = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return f"{held / 1024**3:.2f}G"


def _error(num_right: float, num_samples: int) -> float:
    return 100.0 * (1.0 - num_right / num_samples)
