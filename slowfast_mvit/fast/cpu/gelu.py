"""GELU after a linear layer, whose bias it adds: one pass over the widest tensor of a block.

Written in C for CPUs (``csrc/gelu.c``). The plain form, which runs where there is no compiler, is
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
        out: the result, like ``x``, which it may be; None for a new tensor.

    Returns:
        (rows, H) like ``x``, rounded once.
    """
    out = torch.empty_like(x) if out is None else out
    if _is_native(x):
        _call(x, bias, out, None)
        return out
    return out.copy_(F.gelu(x.float() + bias.float()))


def biased_gelu_backward(x: Tensor, bias: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of x, written over ``grad``, and gelu(x + bias), computed again.

    Args:
        x: as for ``biased_gelu``.
        bias: (H,).
        grad: of gelu(x + bias), like ``x``.

    Returns:
        Two tensors (rows, H) like ``x``.
    """
    y = torch.empty_like(x)
    if _is_native(x):
        _call(x, bias, y, grad)
        return grad, y
    biased = x.float() + bias.float()
    return grad.copy_(torch.ops.aten.gelu_backward(grad.float(), biased)), y.copy_(F.gelu(biased))


def _is_native(x: Tensor) -> bool:
    return x.shape[1] % native.LANES_OF_GELU == 0 and x.dtype in native.DTYPES and native.is_built()


def _call(x: Tensor, bias: Tensor, y: Tensor, grad: Tensor | None) -> None:
    with record_function("biased_gelu" if grad is None else "biased_gelu_backward"):
        native.call("gelu", x, bias.float(), y, grad, *x.shape, native.is_bfloat16(x))
