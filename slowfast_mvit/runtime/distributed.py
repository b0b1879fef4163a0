"""Which process this is among those of a run, and which device it computes on."""

from __future__ import annotations

import os

import torch
from torch import distributed


def rank() -> int:
    """This process's number in the run; 0 where there is only one."""
    return distributed.get_rank() if _several() else 0


def world_size() -> int:
    """How many processes the run has."""
    return distributed.get_world_size() if _several() else 1


def is_main() -> bool:
    """Whether this process writes files and log lines."""
    return rank() == 0


def pick_device(num_gpus: int) -> torch.device:
    """The device of this process: its own GPU, or the CPU.

    Args:
        num_gpus: ``NUM_GPUS``; 0 asks for the CPU. With more, and no GPU here, it is the CPU too;
            the caller knows the batch size and says what that means.
    """
    if num_gpus == 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
