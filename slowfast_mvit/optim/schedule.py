"""The learning rate as a function of the fractional epoch: epoch + step / steps in an epoch.

Nothing is remembered between calls, so a resumed run has nothing to restore.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fvcore.common.param_scheduler import CosineParamScheduler, LinearParamScheduler
from torch.optim import Optimizer

from slowfast_mvit.errors import ConfigError, pick

Schedule = Callable[[float], float]


def cosine(
    *, base_lr: float, end_lr: float, max_epoch: float, start_epoch: float = 0.0
) -> Schedule:
    """Half a cosine wave from ``base_lr`` at ``start_epoch`` down to ``end_lr`` at ``max_epoch``.

    Args:
        start_epoch: start of the wave: the length of the warm-up where
            ``SOLVER.COSINE_AFTER_WARMUP`` is set, else 0.

    Raises:
        ConfigError: ``end_lr`` is not below ``base_lr``.
    """
    if end_lr >= base_lr:
        raise ConfigError(
            f"SOLVER.COSINE_END_LR ({end_lr!r}) must be below SOLVER.BASE_LR ({base_lr!r})"
        )
    if start_epoch >= max_epoch:
        # The run ends within its warm-up, which still needs a rate to rise to.
        return lambda epoch: base_lr
    wave = CosineParamScheduler(base_lr, end_lr)
    return lambda epoch: float(wave((epoch - start_epoch) / (max_epoch - start_epoch)))


def relative_steps(*, base_lr: float, steps: Sequence[float], lrs: Sequence[float]) -> Schedule:
    """``base_lr * lrs[k]`` from epoch ``steps[k]`` on.

    Raises:
        ConfigError: the two are not equally long, or the steps do not rise from 0.
    """
    steps = list(steps)
    rising = all(a < b for a, b in itertools.pairwise(steps))
    if len(steps) != len(lrs) or not steps or steps[0] != 0 or not rising:
        raise ConfigError(
            f"SOLVER.STEPS must start with 0, rise, and be as long as SOLVER.LRS; "
            f"got {steps} and {list(lrs)}"
        )
    return lambda epoch: base_lr * lrs[max(bisect.bisect_right(steps, epoch) - 1, 0)]


def with_warmup(schedule: Schedule, *, warmup_epochs: float, start_lr: float) -> Schedule:
    """Rise linearly from ``start_lr`` to the rate after the warm-up, then follow ``schedule``."""
    if warmup_epochs <= 0:
        return schedule
    rise = LinearParamScheduler(start_lr, schedule(warmup_epochs))
    return lambda epoch: (
        float(rise(epoch / warmup_epochs)) if epoch < warmup_epochs else schedule(epoch)
    )


def build_schedule(
    policy: str,
    *,
    base_lr: float,
    end_lr: float,
    max_epoch: float,
    warmup_epochs: float,
    warmup_start_lr: float,
    cosine_after_warmup: bool,
    steps: Sequence[float] = (),
    lrs: Sequence[float] = (),
) -> Schedule:
    """The schedule that the SOLVER keys of a config describe, with its warm-up.

    Args:
        policy: a name in ``POLICIES``; the other arguments are the keys of the same name, and each
            policy reads those it needs.

    Raises:
        ConfigError: an unknown policy, or numbers that do not fit together.
    """
    build = pick(POLICIES, policy, "learning rate policy (SOLVER.LR_POLICY)")
    schedule = build(
        base_lr=base_lr,
        end_lr=end_lr,
        max_epoch=max_epoch,
        start_epoch=warmup_epochs if cosine_after_warmup else 0.0,
        steps=steps,
        lrs=lrs,
    )
    return with_warmup(schedule, warmup_epochs=warmup_epochs, start_lr=warmup_start_lr)


def _cosine_policy(*, steps: Any, lrs: Any, **numbers: float) -> Schedule:
    return cosine(**numbers)


def _step_policy(*, base_lr: float, steps: Any, lrs: Any, **cosine_only: float) -> Schedule:
    return relative_steps(base_lr=base_lr, steps=steps, lrs=lrs)


POLICIES: dict[str, Callable[..., Schedule]] = {
    "cosine": _cosine_policy,
    "steps_with_relative_lrs": _step_policy,
}


class Peak(NamedTuple):
    """The highest learning rate of a run, and the fractional epoch of the first step that has it.

    ``is_warmed_up`` is False where the last step of the run is inside the warm-up.
    """

    lr: float
    epoch: float
    is_warmed_up: bool


def peak_of(lr_at: Schedule, *, max_epoch: int, num_steps: int, warmup_epochs: float) -> Peak:
    """Return the highest rate that a step of the run really has.

    A rate rises or falls steadily between whole epochs and the end of the warm-up. So the first and
    last step of each epoch are compared, and all of the epoch in which the warm-up ends.

    Args:
        num_steps: steps in an epoch.
    """
    ends = {epoch + step / num_steps for epoch in range(max_epoch) for step in (0, num_steps - 1)}
    turn = min(int(warmup_epochs), max_epoch - 1)
    epochs = sorted(ends | {turn + step / num_steps for step in range(num_steps)})
    highest = max(epochs, key=lr_at)
    return Peak(lr_at(highest), highest, is_warmed_up=epochs[-1] >= warmup_epochs)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every group of the optimizer ``lr`` times its ``layer_decay``, in place."""
    for group in optimizer.param_groups:
        group["lr"] = float(lr) * group["layer_decay"]
