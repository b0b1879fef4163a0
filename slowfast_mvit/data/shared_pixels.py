"""The pixels of a batch in memory that a worker writes and the main process reads: never copied.

The memory belongs to an open file without a name, and its descriptor is what travels. So it needs
no room in /dev/shm, which is small in many containers, and it is gone with the last process that
holds it, however that ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor


def new_shared_pixels(shape: Sequence[int]) -> tuple[int, Tensor]:
    """A uint8 tensor of zeros, and the file descriptor by which another process can open it.

    The caller closes the descriptor; the tensor does not need it.
    """
    descriptor = _nameless_file()
    os.ftruncate(descriptor, max(prod(shape), 1))
    return descriptor, open_shared_pixels(descriptor, shape)


def open_shared_pixels(descriptor: int, shape: Sequence[int]) -> Tensor:
    """The tensor of ``new_shared_pixels``, in another process."""
    memory = mmap.mmap(descriptor, max(prod(shape), 1))
    return torch.frombuffer(memory, dtype=torch.uint8, count=-1)[: prod(shape)].view(tuple(shape))


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pixels")
    with tempfile.TemporaryFile() as file:  # where there is no Linux
        return os.dup(file.fileno())
