"""Fresh processes, for figures that an earlier part of a process would change, and their memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_fresh_process(
    function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """The result of a function that is called in a new interpreter, after its imports.

    Raises:
        BrokenProcessPool: the process was killed, for lack of memory perhaps.
    """
    spawn = multiprocessing.get_context("spawn")  # a forked process would begin with this one's
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *args, **kwargs).result()


def memory_mb(*fields: str, file: str = "status") -> float:
    """The sum of fields of /proc/self/<file>, in 1e6 bytes; Linux only.

    Args:
        fields: of "status" for example "VmRSS", now, or "VmHWM", the most since the start.
        file: "status" or "smaps_rollup".
    """
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(values[field].split()[0]) for field in fields) * 1024 / 1e6
