"""Pixels of batches in memory that a worker writes and the main process reads: never copied.

The memory is that of anonymous files, whose descriptors are sent. So it takes nothing from
/dev/shm, which is small in many containers, and it is freed with the last process that maps it.

A buffer is reused when its batch is no longer referenced: new memory costs seven times as much to
write, since the kernel has to find and clear it page by page.
"""

from __future__ import annotations

import mmap
import os
import weakref

import torch
from torch import Tensor

from slowfast_mvit.data.lists.shared_arrays import nameless_file


class WrittenBuffers:
    """The buffers of a worker, which makes them and writes to them.

    Args:
        num_bytes: of each buffer.
    """

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._buffers = list[Tensor]()

    def make(self) -> tuple[int, int]:
        """Make a buffer; return its number, and its descriptor, which the caller closes."""
        descriptor = nameless_file()
        os.ftruncate(descriptor, self._num_bytes)
        memory = mmap.mmap(descriptor, self._num_bytes)
        self._buffers.append(torch.frombuffer(memory, dtype=torch.uint8))
        return len(self._buffers) - 1, descriptor

    def __getitem__(self, number: int) -> Tensor:
        """(num_bytes,) uint8."""
        return self._buffers[number]


class ReadBuffers:
    """The same buffers in the main process.

    Args:
        num_bytes: of each buffer.
    """

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._memories = list[mmap.mmap]()
        self._free = list[int]()

    def add(self, descriptor: int) -> None:
        """Map the next buffer that the worker made; close the descriptor."""
        self._memories.append(mmap.mmap(descriptor, self._num_bytes))
        os.close(descriptor)

    def acquire(self, number: int) -> Tensor:
        """Return a buffer, (num_bytes,) uint8; it is free when no tensor shares its memory."""
        view = memoryview(self._memories[number])
        weakref.finalize(view, self._free.append, number).atexit = False
        return torch.frombuffer(view, dtype=torch.uint8)

    def release(self) -> int | None:
        """Return the number of a free buffer, to be written again; None if there is none."""
        return self._free.pop() if self._free else None
