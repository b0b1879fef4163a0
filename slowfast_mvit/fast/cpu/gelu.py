"""GELU after a linear layer, whose bias it adds: one pass over what is the widest of a block.

Written in C for CPUs (``csrc/gelu.c``). The plain twin, which runs where there is no compiler, is
``F.gelu(x + bias)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from slowfast_mvit.fast.cpu import native


def biased_gelu(x: Tensor, bias: Tensor, *, out: Tensor | None = None) -> Tensor:
    """gelu(x + bias).

    Args:
        x: (rows, H) float32 or bfloat16, contiguous, on the CPU.
        bias: (H,).
        out: where to put it, like ``x``, which it may be; None for new room.

    Returns:
        (rows, H) like ``x``, rounded once.
    """
    if not _is_native(x):
        result = F.gelu(x.float() + bias.float()).to(x.dtype)
        return result if out is None else out.copy_(result)
    out = torch.empty_like(x) if out is None else out
    bias = bias.float()
    with record_function("biased_gelu"):  # a profile would not see it otherwise
        native.library().gelu_forward(
            *native.addresses(x, bias, out),
            *x.shape,
            torch.get_num_threads(),
            native.is_bfloat16(x),
        )
    return out


def biased_gelu_backward(x: Tensor, bias: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of x, written over ``grad``, and gelu(x + bias) once more.

    Args:
        x: as for ``biased_gelu``.
        bias: (H,).
        grad: of gelu(x + bias), like ``x``.

    Returns:
        Two tensors (rows, H) like ``x``.
    """
    if not _is_native(x):
        biased = x.float() + bias.float()
        slope = torch.ops.aten.gelu_backward(grad.float(), biased)
        return grad.copy_(slope), F.gelu(biased).to(x.dtype)
    y, bias = torch.empty_like(x), bias.float()
    with record_function("biased_gelu_backward"):
        native.library().gelu_backward(
            *native.addresses(x, bias, grad, y),
            *x.shape,
            torch.get_num_threads(),
            native.is_bfloat16(x),
        )
    return grad, y


def _is_native(x: Tensor) -> bool:
    return x.shape[1] % native.LANES == 0 and x.dtype in native.DTYPES and native.is_there()
