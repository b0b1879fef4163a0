"""Fresh processes, for figures that what a process did before would change."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
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
