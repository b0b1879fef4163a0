"""Times of several contenders that take turns, so that all meet the same noise.

    CPU time    what the work costs, whatever else the machine is busy with; of all threads
    clock       what a user waits for

``torch.utils.benchmark.Timer`` measures one statement at a time, by one of the two, after two
warm-up runs each time it is asked. Here contenders alternate item by item, some are programs, and
clock and CPU time come from the same run. ``rates.py`` uses Timer, where neither is wanted.
"""

from __future__ import annotations

import gc
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# Processes an item; returns the CPU milliseconds that it took.
Way = Callable[[Item], float]


@dataclass(frozen=True)
class Seconds:
    """A duration: CPU time of this process on all threads, and wall-clock time."""

    cpu: float
    clock: float

    @classmethod
    def now(cls) -> Seconds:
        return cls(time.process_time(), time.perf_counter())

    def since(self, start: Seconds) -> Seconds:
        return Seconds(self.cpu - start.cpu, self.clock - start.clock)


@dataclass(frozen=True)
class Rounds:
    """Return the number of rounds that fit into ``budget_s`` by the clock, within these bounds."""

    budget_s: float
    least: int
    most: int

    @classmethod
    def exactly(cls, num_rounds: int) -> Rounds:
        return cls(float("inf"), num_rounds, num_rounds)


def alternate(
    contenders: Mapping[str, Callable[[Item], Result]], items: Sequence[Item], rounds: Rounds
) -> dict[str, list[list[Result]]]:
    """Results of all contenders, which alternate on each item; the first one rotates.

    A first run of each contender is not counted. The garbage collector runs between rounds only.

    Returns:
        For each contender the results of each round, in the order of the items.
    """
    names = list(contenders)
    results: dict[str, list[list[Result]]] = {name: [] for name in names}
    for name in names:
        contenders[name](items[0])
    was_enabled = gc.isenabled()
    gc.disable()  # or one contender would pay for the garbage of another
    gc.freeze()  # what is there already need not be looked through after each round
    start_s = time.perf_counter()
    try:
        for number in range(rounds.most):
            round_start_s = time.perf_counter()
            for name in names:
                results[name].append([])
            for place, item in enumerate(items):
                first = (number + place) % len(names)
                for name in names[first:] + names[:first]:
                    results[name][number].append(contenders[name](item))
            gc.collect()
            now_s = time.perf_counter()
            is_over = now_s + (now_s - round_start_s) > start_s + rounds.budget_s
            if is_over and number + 1 >= rounds.least:
                break
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
    return results


def cpu_ms_per_item(
    ways: Mapping[str, Way[Item]], items: Sequence[Item], *, num_rounds: int
) -> dict[str, float]:
    """CPU milliseconds an item of each way: the median over rounds, then the mean over items.

    The median drops what disturbed a single run. The mean keeps the share of expensive items, such
    as clips that drew four operations, which is what a training run pays.
    """
    results = alternate(ways, items, Rounds.exactly(num_rounds))
    return {name: float(np.median(ms, axis=0).mean()) for name, ms in results.items()}


def seconds_per_round(
    works: Mapping[str, Callable[[], object]], rounds: Rounds, device: torch.device
) -> dict[str, list[Seconds]]:
    """Return how long each work took in each round, until the device had finished it."""

    def timed(work: Callable[[], object]) -> Callable[[None], Seconds]:
        def run(_: None) -> Seconds:
            if device.type == "cuda":
                work()  # finds the memory that the contender before it kept
            return measured(work, device)

        return run

    results = alternate({name: timed(work) for name, work in works.items()}, [None], rounds)
    return {name: [seconds for (seconds,) in taken] for name, taken in results.items()}


def measured(work: Callable[[], object], device: torch.device) -> Seconds:
    """One run, until the device has finished it."""
    _synchronise(device)
    start = Seconds.now()
    result = work()
    _synchronise(device)
    seconds = Seconds.now().since(start)
    del result  # giving the memory back is not part of it
    return seconds


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median(taken: Sequence[Seconds], kind: str) -> float:
    """Of "clock" or "cpu" seconds."""
    return float(np.median([getattr(seconds, kind) for seconds in taken]))


def in_process(work: Callable[[Item], object]) -> Way[Item]:
    """A way that runs in this process; all of its threads count."""
    return lambda item: 1e3 * measured(lambda: work(item), torch.device("cpu")).cpu


def child_cpu_ms(command: Sequence[str]) -> float:
    """User and system time of a program, start and end included.

    Raises:
        subprocess.CalledProcessError: when it fails.
    """
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    with child.stderr as pipe:  # type: ignore[union-attr]
        errors = pipe.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise subprocess.CalledProcessError(child.returncode, command, stderr=errors)
    return 1e3 * (usage.ru_utime + usage.ru_stime)
