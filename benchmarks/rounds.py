"""Seconds of several works that take turns: by the clock on all threads, and of CPU time.

The clock says what somebody who waits sees; CPU time, of all threads together, says what it costs
whoever else is on the machine. ``timing.py`` measures one thread.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.rates import synchronise


@dataclass(frozen=True)
class Seconds:
    """How long something took: by the clock, and of this process's CPU time on all threads."""

    clock: float
    cpu: float


@dataclass(frozen=True)
class Patience:
    """How many rounds: as many as fit into ``budget_s`` by the clock, but within these bounds."""

    budget_s: float
    least: int
    most: int


def take_rounds(
    works: Mapping[str, Callable[[], object]], patience: Patience, device: torch.device
) -> dict[str, list[Seconds]]:
    """Each work once a round; another one begins each time. A first round is not counted.

    Returns:
        For each work one entry a round.
    """
    names = list(works)
    taken: dict[str, list[Seconds]] = {name: [] for name in names}
    for name in names:
        measured(works[name], device)
    was_enabled = gc.isenabled()
    gc.disable()  # or one would pay for the garbage of another
    start_s = time.perf_counter()
    try:
        for number in range(patience.most):
            round_start_s = time.perf_counter()
            first = number % len(names)
            for name in names[first:] + names[:first]:
                if device.type == "cuda":
                    works[name]()  # finds the memory that the one before it kept
                taken[name].append(measured(works[name], device))
            gc.collect()
            now_s = time.perf_counter()
            is_over = now_s + (now_s - round_start_s) > start_s + patience.budget_s
            if is_over and number + 1 >= patience.least:
                break
    finally:
        if was_enabled:
            gc.enable()
    return taken


def measured(work: Callable[[], object], device: torch.device) -> Seconds:
    """One run, until the device has done it."""
    synchronise(device)
    clock_s, cpu_s = time.perf_counter(), time.process_time()
    result = work()
    synchronise(device)
    seconds = Seconds(time.perf_counter() - clock_s, time.process_time() - cpu_s)
    del result
    return seconds


def median(taken: list[Seconds], kind: str) -> float:
    """Of "clock" or "cpu" seconds."""
    return float(np.median([getattr(seconds, kind) for seconds in taken]))
