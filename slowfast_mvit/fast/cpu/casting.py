"""Matrix products of linear layers on a CPU, in float32 or as under bfloat16 autocast.

A CPU without bfloat16 instructions multiplies bfloat16 matrices some two hundred times slower than
float32 ones. There, inputs and weights are rounded to bfloat16 and multiplied as float32, and the
result is rounded: the same as with the instructions, which also sum in float32.

Without gradients, autocast rounds the weights again in every call. Here the rounded weights are
cached until the weight changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_NUM_SAMPLES = 64


# Whether this CPU multiplies bfloat16 matrices itself.
HAS_BF16_INSTRUCTIONS = (
    torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
)


def compute_dtype() -> torch.dtype:
    """Return the dtype of matrix products on a CPU: that of autocast where it is on, or float32."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return torch.float32


def operand(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` rounded to ``dtype``, in a dtype that this CPU multiplies fast."""
    x = x.to(dtype)
    return x if dtype == torch.float32 or HAS_BF16_INSTRUCTIONS else x.float()


def unless_native(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in float32; or itself, in bfloat16, where all is computed in that dtype by this CPU.

    PyTorch's norms and sums of bfloat16 tensors are float32 inside, and round their result once.
    """
    return x if x.dtype == dtype and HAS_BF16_INSTRUCTIONS else x.float()


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, out: Tensor | None = None
) -> Tensor:
    """x weight^T + bias, rounded to ``dtype`` once.

    Args:
        x: (rows, C).
        weight: (K, C), an ``operand``.
        bias: (K,), an ``operand``, or None.
        dtype: float32 or bfloat16.
        out: the result, (rows, K) of ``dtype``; None for a new tensor.
    """
    x = operand(x, dtype)
    if out is None or out.dtype != x.dtype:
        product = F.linear(x, weight, bias).to(dtype)
        return product if out is None else out.copy_(product)
    if bias is None:
        return torch.mm(x, weight.t(), out=out)
    return torch.addmm(bias, x, weight.t(), out=out)


def emulated(
    product: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """``product(x, weight, bias)`` as under autocast, without bfloat16 instructions.

    Args:
        product: a linear layer or a convolution, of float32 tensors.
        x: the input.
        weight: of the layer.
        bias: of the layer, or None.

    Returns:
        The product of the rounded operands, in bfloat16; gradients are float32 products too.
    """
    with torch.autocast("cpu", enabled=False):
        operands = [None if one is None else one.bfloat16().float() for one in (x, weight, bias)]
        return product(*operands).bfloat16()


def cached_operand(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``operand(weight, dtype)``, cached for the next call; it has no gradient.

    A change of the weight in place or a move invalidates the cache. Changes that bypass autograd
    (``weight.data``) do not raise the version; samples of the values reveal them.
    """
    if dtype == weight.dtype or weight.is_inference():
        return operand(weight, dtype)
    samples = weight.detach().reshape(-1)[:: max(weight.numel() // _NUM_SAMPLES, 1)]
    state = (weight._version, weight.data_ptr())
    cached = _cache.get(weight)
    if cached is None or cached.state != state or not torch.equal(cached.samples, samples):
        with torch.inference_mode(False), torch.no_grad():
            cached = _CachedOperand(state, samples.clone(), operand(weight.detach(), dtype))
        _cache[weight] = cached
    value: Tensor = cached.value
    return value


@dataclass(frozen=True)
class _CachedOperand:
    """A weight as an operand, and its state and samples at that time."""

    state: tuple[int, int]  # version and address
    samples: Tensor
    value: Tensor


_cache: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
