"""Matrix products of linear layers on a CPU, in float32 or as bfloat16 autocast would have them.

A CPU without bfloat16 instructions multiplies bfloat16 matrices some two hundred times slower than
float32 ones. There, inputs and weights are rounded to bfloat16, multiplied as float32 and the
result is rounded: what the instructions do, which add up in float32, too.

Autocast rounds the weights anew in every call where no gradients are wanted. Here the rounded ones
are kept with the weight for as long as it does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

DTYPES = (torch.float32, torch.bfloat16)

_NUM_SAMPLES = 64


# Whether this CPU multiplies bfloat16 matrices itself.
HAS_BF16_INSTRUCTIONS = (
    torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
)


def compute_dtype() -> torch.dtype:
    """What a CPU computes matrix products in now: autocast's type where it is on, or float32."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return torch.float32


def operand(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` rounded to ``dtype``, in a type that this CPU multiplies fast."""
    x = x.to(dtype)
    return x if dtype == torch.float32 or HAS_BF16_INSTRUCTIONS else x.float()


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, out: Tensor | None = None
) -> Tensor:
    """x weight^T + bias, rounded to ``dtype`` once.

    Args:
        x: (rows, C).
        weight: (K, C), an ``operand``.
        bias: (K,), an ``operand``, or None.
        dtype: of ``DTYPES``.
        out: where to put the result, (rows, K) of ``dtype``.
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
    """``product(x, weight, bias)`` as autocast would have it, without bfloat16 instructions.

    Args:
        product: a linear layer or a convolution, of float32 tensors.
        x: what it is applied to.
        weight: of the layer.
        bias: of the layer, or None.

    Returns:
        The product of the rounded operands, in bfloat16; gradients are float32 products, too.
    """
    with torch.autocast("cpu", enabled=False):
        operands = [None if one is None else one.bfloat16().float() for one in (x, weight, bias)]
        return product(*operands).bfloat16()


def kept_operand(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``operand(weight, dtype)``, kept for the next call where no gradient is wanted of it.

    What was kept counts no more when the weight has been changed in place or moved. Changes behind
    autograd's back (``weight.data``) do not raise the version; samples of the values show them.
    """
    if dtype == weight.dtype or weight.is_inference():
        return operand(weight, dtype)
    samples = weight.detach().reshape(-1)[:: max(weight.numel() // _NUM_SAMPLES, 1)]
    state = (weight._version, weight.data_ptr())
    kept = _kept.get(weight)
    if kept is None or kept.state != state or not torch.equal(kept.samples, samples):
        with torch.inference_mode(False), torch.no_grad():
            kept = _Kept(state, samples.clone(), operand(weight.detach(), dtype))
        _kept[weight] = kept
    value: Tensor = kept.value
    return value


@dataclass(frozen=True)
class _Kept:
    """A weight as an operand, and what it looked like when it became one."""

    state: tuple[int, int]  # version and address
    samples: Tensor
    value: Tensor


_kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
