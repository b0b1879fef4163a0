"""Availability of Triton, and functions that all launches of its kernels share."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

import torch

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"  # Triton reads it once too
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_no_triton(device: str, dtype: torch.dtype) -> str | None:
    """Return the reason why no Triton kernel supports tensors of this kind; None if one does.

    Triton's interpreter (``TRITON_INTERPRET=1``) works on tensors of any device.
    """
    if not HAS_TRITON:
        return "Triton is not installed"
    if device != "cuda" and not INTERPRETS:
        return f"there are Triton kernels for CUDA devices only, not for {device!r}"
    if dtype not in DTYPES:
        return f"the kernels support {', '.join(map(str, DTYPES))}, not {dtype}"
    return None


def kernels_of(name: str) -> ModuleType:
    """Import a module of this folder with Triton kernels; nothing else imports Triton."""
    return importlib.import_module(f"slowfast_mvit.fast.cuda.{name}")


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below ``number``; sizes of tiles must be such."""
    return 1 << max(number - 1, 0).bit_length()
