"""Numbers that never change, in memory that worker processes share however they are started.

Forked workers share the pages of the main process. A spawned one receives the descriptor of a file
without a name, with the same numbers. So nothing is taken from /dev/shm, where torch would
put a tensor: many containers have 64 MB there, for all processes of a node.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np


class SharedArray:
    """A one-dimensional array to read from.

    It returns copies only: the first worker that is spawned moves the values into the file.

    Args:
        values: (N,), not changed later.
    """

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self._descriptor: int | None = None

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, part: slice) -> np.ndarray:
        """A copy of a part."""
        values: np.ndarray = self._values[part].copy()
        return values

    def __reduce__(self) -> tuple[Callable[..., SharedArray], tuple[Any, ...]]:
        if get_spawning_popen() is None or not len(self._values):  # a plain pickle
            return SharedArray, (self._values,)
        if self._descriptor is None:
            self._descriptor = self._move_to_file()
        return _received, (DupFd(self._descriptor), self._values.dtype.str, self._values.nbytes)

    def _move_to_file(self) -> int:
        descriptor = nameless_file()
        weakref.finalize(self, os.close, descriptor)
        os.ftruncate(descriptor, self._values.nbytes)
        memory = mmap.mmap(descriptor, self._values.nbytes)
        in_file: np.ndarray = np.frombuffer(memory, dtype=self._values.dtype)
        in_file[:] = self._values
        self._values = in_file
        return descriptor


def _received(sent: Any, dtype: str, num_bytes: int) -> SharedArray:
    """The array in a spawned worker, from the descriptor that it received."""
    descriptor = sent.detach()
    memory = mmap.mmap(descriptor, num_bytes, prot=mmap.PROT_READ)
    os.close(descriptor)
    return SharedArray(np.frombuffer(memory, dtype=dtype))


def nameless_file() -> int:
    """The descriptor of an empty file in memory; it is gone with the last process that has it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("slowfast_mvit")
    with tempfile.TemporaryFile() as file:  # where there is no Linux
        return os.dup(file.fileno())
