"""CPU time of several ways of doing the same, taken in turns so that all meet the same noise.

CPU time of one thread says what a core can do, whatever else the machine is busy with; the clock
on the wall would say who else is using it.
"""

from __future__ import annotations

import gc
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")

# Does its work on an item; returns the CPU milliseconds that it took.
Way = Callable[[Item], float]


def in_process(work: Callable[[Item], object]) -> Way[Item]:
    """A way that runs in this process; all of its threads count."""

    def timed(item: Item) -> float:
        start_s = time.process_time()
        result = work(item)
        elapsed_s = time.process_time() - start_s
        del result  # giving the memory back is not part of it
        return 1e3 * elapsed_s

    return timed


def child_cpu_ms(command: Sequence[str]) -> float:
    """User and system time of a program, start and end included.

    Raises:
        subprocess.CalledProcessError: when it fails.
    """
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    errors = child.stderr.read() if child.stderr else b""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.stderr:
        child.stderr.close()
    if child.returncode != 0:
        raise subprocess.CalledProcessError(child.returncode, command, stderr=errors)
    return 1e3 * (usage.ru_utime + usage.ru_stime)


def take_turns(
    ways: Mapping[str, Way[Item]], items: Sequence[Item], *, num_rounds: int
) -> dict[str, float]:
    """CPU milliseconds an item of each way: the median over rounds, then the mean over items.

    The median drops what disturbed a single run. The mean keeps the share of dear items, such as
    clips that drew four operations, which is what a training run pays.

    Args:
        ways: by name; each does the same work on an item every time.
        items: what to work on.
        num_rounds: how often each way does each item; a first run of each is not counted.
    """
    taken_ms = {name: np.zeros((num_rounds, len(items))) for name in ways}
    names = list(ways)
    for name in names:
        ways[name](items[0])
    was_enabled = gc.isenabled()
    gc.disable()  # or one way would pay for the garbage of another
    gc.freeze()  # what is there already need not be looked through after each round
    try:
        for round_ in range(num_rounds):
            for number, item in enumerate(items):
                first = (round_ + number) % len(names)
                for name in names[first:] + names[:first]:
                    taken_ms[name][round_, number] = ways[name](item)
            gc.collect()
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
    return {name: float(np.median(taken_ms[name], axis=0).mean()) for name in names}
