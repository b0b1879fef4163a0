"""The meter of a training epoch: values stay on the device until a line of the log is due.

batch_wanted, batch_arrived, add   for each micro-batch; nothing waits for the device
end_step                           once for each step of the optimizer
take_unread -> sum_measured -> add_totals
                                   when a line or a checkpoint is due: one sum over the ranks
line                               the record of the steps since the last line
state -> restore                   around a checkpoint within an epoch
summary                            at the end of the epoch
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit.engine.data_stall import DataStallTimer
from slowfast_mvit.engine.rank_sums import Step, Sums, Totals, Unread, UnreadStep, Window
from slowfast_mvit.errors import UserError
from slowfast_mvit.optim.objectives import Outcome, one_label_each
from slowfast_mvit.runtime.distributed import gather_objects, world_size
from slowfast_mvit.runtime.log import duration, memory_in_use

NUM_RANKS_NAMED = 4  # in the message of a run that diverged


def num_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Count the labels among the k largest logits (among all, with fewer classes), () int64."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).sum()


class EpochMeter:
    """The numbers of one training epoch."""

    def __init__(
        self,
        *,
        epoch: int,
        max_epoch: int,
        num_steps: int,
        device: torch.device,
        skips_infinite_gradients: bool = False,
    ) -> None:
        """
        Args:
            epoch: 0-based.
            max_epoch: epochs of the whole run, for the ETA.
            num_steps: steps of the optimizer in an epoch.
            device: on which the model is.
            skips_infinite_gradients: a float16 loss scaler deals with them.
        """
        self.epoch = epoch
        self.max_epoch = max_epoch
        self.num_steps = num_steps
        self.device = device
        self.skips_infinite_gradients = skips_infinite_gradients
        self.unread: list[UnreadStep] = []
        self.window = Window()
        self.sums = Sums()
        self.gpu_bytes = 0.0
        self._start_step()
        self.data_stall = DataStallTimer(device)
        self.window_start_s = time.monotonic()

    def batch_wanted(self) -> None:
        """Start the clock that measures how long training waits for data."""
        self.data_stall.wanted()

    def batch_arrived(self) -> None:
        """Stop that clock."""
        self.data_stall.arrived()

    def add(self, outcome: Outcome, video_ids: Sequence[str]) -> None:
        """Take in a micro-batch of the step under way, without waiting for the device."""
        logits, labels = one_label_each(outcome.logits, outcome.targets)
        values = (
            outcome.loss.detach().double() * len(logits),
            num_correct(logits, labels, 1).double(),
            num_correct(logits, labels, 5).double(),
        )
        self.step_values.append(torch.stack(values))
        self.step_samples += len(logits)
        self.step_videos += video_ids

    def end_step(self, step: int, lr: float, grad_norm: Tensor) -> None:
        """Take in what the micro-batches of a step came to, without waiting for the device.

        Args:
            step: 0-based in the epoch.
            lr: the learning rate it was done with.
            grad_norm: () the norm of the gradients of all ranks together, before clipping.
        """
        summed = torch.stack(self.step_values).sum(dim=0)
        values = torch.cat([summed, grad_norm.detach().double().reshape(1)])
        self.unread.append(UnreadStep(step, lr, tuple(self.step_videos), self.step_samples, values))
        self._start_step()

    def take_unread(self) -> Unread:
        """Return what this rank measured since the last call; waits until the device is done."""
        steps, self.unread = self.unread, []
        return Unread(steps, self.data_stall.take(), gpu_bytes(self.device), self.device)

    def add_totals(self, totals: Totals) -> None:
        """Count in what ``take_unread`` came to over all ranks; every rank calls it.

        Raises:
            UserError: a loss or gradient is not finite on some rank; on every rank the same
                message, which names the step, the rank and its videos.
        """
        self.window.waited_s += max(totals.waited_s)
        self.gpu_bytes = max(totals.gpu_bytes)
        for unread, num_samples, values in zip(
            totals.steps, totals.num_samples, totals.values, strict=True
        ):
            loss, top1_correct, top5_correct, grad_norm = values
            step = Step(
                unread.number,
                unread.lr,
                num_samples,
                loss / num_samples,
                top1_correct,
                top5_correct,
                grad_norm / world_size(),
            )
            self._require_finite(unread, step)
            self.window.steps.append(step)
            self.sums.add(step)

    def line(self) -> dict[str, Any]:
        """Return the record of the steps since the last line, ``train_iter_`` (PySlowFast's name).

        Everything must have been summed. A loss is the mean over all samples of a step, the
        record's their median.
        """
        window = self.window
        num_samples = sum(step.num_samples for step in window.steps)
        last = window.steps[-1]
        seconds = window.seconds + time.monotonic() - self.window_start_s
        self.sums.seconds += seconds
        self.sums.waited_s += window.waited_s
        self.window, self.window_start_s = Window(), time.monotonic()
        return {
            "_type": "train_iter_",
            "epoch": f"{self.epoch + 1}/{self.max_epoch}",
            "iter": f"{last.number + 1}/{self.num_steps}",
            "lr": last.lr,
            "loss": statistics.median(step.loss for step in window.steps),
            "grad_norm": statistics.median(step.grad_norm for step in window.steps),
            "top1_err": _error(sum(step.top1_correct for step in window.steps), num_samples),
            "top5_err": _error(sum(step.top5_correct for step in window.steps), num_samples),
            "gpu_mem": f"{self.gpu_bytes / 1024**3:.2f}G",
            **_times(len(window.steps), num_samples, seconds, window.waited_s),
            "eta": self._eta(seconds / len(window.steps), last.number + 1),
            "num_skipped": self.sums.num_skipped,
        }

    def summary(self, lr: float) -> dict[str, Any]:
        """The record of the whole epoch, ``train_epoch``; everything must have been summed."""
        sums = self.sums
        num_counted = sums.num_steps - sums.num_skipped
        return {
            "_type": "train_epoch",
            "epoch": f"{self.epoch + 1}/{self.max_epoch}",
            "lr": lr,
            "loss": sums.loss / sums.num_samples,
            "grad_norm": sums.grad_norm / num_counted if num_counted else math.nan,
            "top1_err": _error(sums.top1_correct, sums.num_samples),
            "top5_err": _error(sums.top5_correct, sums.num_samples),
            "gpu_mem": f"{self.gpu_bytes / 1024**3:.2f}G",
            "RAM": memory_in_use(),
            **_times(sums.num_steps, sums.num_samples, sums.seconds, sums.waited_s),
            "eta": self._eta(sums.seconds / sums.num_steps, self.num_steps),
            "time_diff": round(sums.seconds, 3),
            "num_skipped": sums.num_skipped,
        }

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint within the epoch; everything must have been summed."""
        assert not self.unread, "sum first: these steps would be lost"
        return {
            "sums": asdict(self.sums),
            "steps": [list(astuple(step)) for step in self.window.steps],
            "seconds": self.window.seconds + time.monotonic() - self.window_start_s,
            "waited_s": self.window.waited_s,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume from a ``state``, as if there had been no break."""
        self.sums = Sums(**state["sums"])
        steps = [Step(*values) for values in state["steps"]]
        self.window = Window(steps, state["seconds"], state["waited_s"])
        self.window_start_s = time.monotonic()

    def _start_step(self) -> None:
        self.step_values: list[Tensor] = []
        self.step_videos: list[str] = []
        self.step_samples = 0

    def _eta(self, per_step_s: float, steps_done: int) -> str:
        return duration(per_step_s * ((self.max_epoch - self.epoch) * self.num_steps - steps_done))

    def _require_finite(self, unread: UnreadStep, step: Step) -> None:
        """All ranks have the same ``step``, so they stop here together or not at all."""
        gradient_counts = not self.skips_infinite_gradients
        if math.isfinite(step.loss) and (math.isfinite(step.grad_norm) or not gradient_counts):
            return
        own_loss = unread.values[0].item() / unread.num_samples
        raise UserError(
            f"training diverged in epoch {self.epoch + 1}, step {step.number + 1} of "
            f"{self.num_steps}: loss {step.loss:g}, gradient norm {step.grad_norm:g}, learning "
            f"rate {step.lr:g}; {_where(gather_objects((own_loss, unread.video_ids)))}. "
            "No checkpoint was written since. Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_EPOCHS, "
            "set SOLVER.CLIP_GRAD_L2NORM, or look at those videos"
        )


def gpu_bytes(device: torch.device) -> int:
    """The most GPU memory this process has held so far."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _where(of_ranks: Sequence[tuple[float, Sequence[str]]]) -> str:
    """The ranks whose own loss is not finite, or all where only the gradient is not."""
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


def _times(num_steps: int, num_samples: float, seconds: float, waited_s: float) -> dict[str, float]:
    """Seconds per step: in all, waiting for data, and the rest; and clips per second."""
    return {
        "dt": round(seconds / num_steps, 5),
        "dt_data": round(waited_s / num_steps, 5),
        "dt_net": round((seconds - waited_s) / num_steps, 5),
        "clips_per_s": round(num_samples / max(seconds, 1e-9), 3),
    }


def _error(correct: float, num_samples: float) -> float:
    return 100.0 * (1.0 - correct / num_samples)
