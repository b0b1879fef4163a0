"""Time and memory of alternating contenders, so that all meet the same noise.

    CPU time    what the work costs, whatever else the machine is busy with; of all threads
    clock       what a user waits for

``torch.utils.benchmark.Timer`` measures one statement at a time, by one of the two, after two
warm-up runs for each call. Here contenders alternate item by item, some are programs, and clock and
CPU time come from the same run. ``rates.py`` uses Timer, where neither is needed.
"""

from __future__ import annotations

import gc
import multiprocessing
import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# Processes an item; returns the CPU milliseconds that it took.
Way = Callable[[Item], float]


class Seconds(NamedTuple):
    """A duration: CPU time of this process on all threads, and wall-clock time."""

    cpu: float
    clock: float

    @classmethod
    def now(cls) -> Seconds:
        return cls(time.process_time(), time.perf_counter())

    def since(self, start: Seconds) -> Seconds:
        return Seconds(self.cpu - start.cpu, self.clock - start.clock)


class Rounds(NamedTuple):
    """The rounds that fit into ``budget_s`` by the clock, within these bounds."""

    budget_s: float
    least: int
    most: int

    @classmethod
    def exactly(cls, num_rounds: int) -> Rounds:
        return cls(float("inf"), num_rounds, num_rounds)


def alternate(
    contenders: Mapping[str, Callable[[Item], Result]], items: Sequence[Item], rounds: Rounds
) -> dict[str, list[list[Result]]]:
    """Run all contenders, which alternate on each item; the first one rotates.

    A first run of each contender is not counted. The garbage collector runs between rounds only.

    Returns:
        For each contender the results of each round, in the order of the items.
    """
    names = list(contenders)
    results: dict[str, list[list[Result]]] = {name: [] for name in names}
    for name in names:
        contenders[name](items[0])
    gc.disable()  # or one contender would pay for the garbage of another
    gc.freeze()  # what exists already need not be searched after each round
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
        gc.enable()
    return results


def cpu_ms_per_item(
    ways: Mapping[str, Way[Item]], items: Sequence[Item], *, num_rounds: int
) -> dict[str, float]:
    """Return CPU milliseconds an item of each way: the median over rounds, the mean over items.

    The median drops what disturbed a single run. The mean keeps the share of expensive items, such
    as clips that drew four operations, which is what a training run pays.
    """
    results = alternate(ways, items, Rounds.exactly(num_rounds))
    return {name: float(np.median(ms, axis=0).mean()) for name, ms in results.items()}


def seconds_per_round(
    works: Mapping[str, Callable[[], object]], rounds: Rounds, device: torch.device
) -> dict[str, list[Seconds]]:
    """Time each work in each round, until the device has finished it."""

    def timed(work: Callable[[], object]) -> Callable[[None], Seconds]:
        def run(_: None) -> Seconds:
            if device.type == "cuda":
                work()  # allocates the memory that the previous contender kept
            return measured(work, device)

        return run

    results = alternate({name: timed(work) for name, work in works.items()}, [None], rounds)
    return {name: [seconds for (seconds,) in taken] for name, taken in results.items()}


def measured(work: Callable[[], object], device: torch.device) -> Seconds:
    """Time one run, until the device has finished it."""
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
    """Return the median of "clock" or "cpu" seconds."""
    return float(np.median([getattr(seconds, kind) for seconds in taken]))


def in_process(work: Callable[[Item], object]) -> Way[Item]:
    """Return a way that runs in this process; all of its threads count."""
    return lambda item: 1e3 * measured(lambda: work(item), torch.device("cpu")).cpu


def child_cpu_ms(command: Sequence[str]) -> float:
    """Return user and system time of a program, start and end included.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    subprocess.run(command, stdin=null, stdout=null, stderr=pipe, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def in_fresh_process(function: Callable[..., Result], *args: object) -> Result:
    """Call a function in a new interpreter, after its imports.

    Raises:
        BrokenProcessPool: the process was killed, for lack of memory perhaps.
    """
    spawn = multiprocessing.get_context("spawn")  # a forked process would start with this memory
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *args).result()


def memory_mb(*fields: str, file: str = "status") -> float:
    """Return the sum of fields of /proc/self/<file>, in 1e6 bytes; Linux only.

    Args:
        fields: of "status" for example "VmRSS", now, or "VmHWM", the most since the start.
        file: "status" or "smaps_rollup".
    """
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(values[field].split()[0]) for field in fields) * 1024 / 1e6
