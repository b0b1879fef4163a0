"""Whether Triton's kernels can run here, and one line in the log where they cannot.

Each kernel has a twin in PyTorch's own operations that computes the same; whoever calls the twin
instead says so through ``tell_once``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from types import ModuleType

import torch

logger = logging.getLogger(__name__)

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"  # Triton reads it once, too
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_no_triton(device: torch.device) -> str | None:
    """Why no Triton kernel can work on tensors of this device; None if one can.

    Triton's interpreter (``TRITON_INTERPRET=1``) works on tensors of any device.
    """
    if not HAS_TRITON:
        return "Triton is not installed"
    if device.type != "cuda" and not INTERPRETS:
        return f"there are Triton kernels for CUDA devices only, not for {device.type!r}"
    return None


def tell_once(operation: str, reason: str) -> None:
    """Log, the first time in this process, that an operation runs in PyTorch's own operations.

    Not from within a graph that is being compiled, which could not hold it.
    """
    if not torch.compiler.is_compiling():
        _tell(operation, reason)


@functools.cache
def _tell(operation: str, reason: str) -> None:
    logger.info("%s runs in plain PyTorch instead of Triton: %s", operation, reason)


def kernels_of(name: str) -> ModuleType:
    """The module of this room with Triton kernels in it; nothing else here imports Triton."""
    return importlib.import_module(f"slowfast_mvit.kernels.{name}")


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below ``number``; sizes of tiles must be such."""
    return 1 << max(number - 1, 0).bit_length()
