"""LayerNorm and a linear layer, a block of tokens at a time.

The normed tokens never leave the cache, and they are not saved for the backward pass, which
normalises the same tokens again. The plain form is ``linear(norm(tokens))``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from slowfast_mvit.fast.cpu.casting import (
    cached_operand,
    compute_dtype,
    linear,
    operand,
    unless_native,
)
from slowfast_mvit.fast.cpu.token_blocks import (
    add_norm_gradients,
    add_product,
    add_rows,
    token_blocks,
)


def norm_linear(
    tokens: Tensor, norm: tuple[Tensor, Tensor], layer: tuple[Tensor, Tensor | None], eps: float
) -> Tensor:
    """linear(norm(tokens)).

    Args:
        tokens: (B, L, C) float32 or bfloat16, on the CPU.
        norm: weight and bias of the LayerNorm.
        layer: weight (K, C) and bias of the linear layer.
        eps: of the LayerNorm.

    Returns:
        (B, L, K) float32, or bfloat16 under autocast, for tokens of any dtype.
    """
    inputs = tokens, *norm, *layer, eps, compute_dtype()
    if torch.is_grad_enabled():
        out: Tensor = _NormLinear.apply(*inputs)
        return out
    return norm_linear_in(*inputs, round_operand=cached_operand)


def norm_linear_in(
    tokens: Tensor,
    gamma: Tensor,
    beta: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    *,
    round_operand: Callable[[Tensor, torch.dtype], Tensor] = operand,
) -> Tensor:
    """``norm_linear`` in ``dtype``, (B, L, K), with no graph; a second call gives the same bits."""
    out = tokens.new_empty((*tokens.shape[:2], len(weight)), dtype=dtype)
    with torch.autocast("cpu", enabled=False):
        weight = round_operand(weight, dtype)
        bias = None if bias is None else round_operand(bias, dtype)
        rows, out_rows = (one.flatten(0, 1)[None] for one in (tokens, out))
        for at in token_blocks(rows, len(weight)):
            normed = F.layer_norm(unless_native(rows[at], dtype), gamma.shape, gamma, beta, eps)
            linear(normed, weight, bias, dtype, out=out_rows[at])
    return out


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, *rest: Any) -> Tensor:
        *parameters, ctx.eps, ctx.dtype = rest
        ctx.save_for_backward(tokens, *parameters)
        return norm_linear_in(tokens, *rest)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, *parameters = ctx.saved_tensors
        gamma, beta, weight, _ = parameters
        of_norm = [torch.zeros_like(one, dtype=torch.float32) for one in (gamma, beta)]
        of_weight = torch.zeros_like(weight, dtype=torch.float32)
        of_bias = torch.zeros(len(weight))
        plain_weight = operand(weight, ctx.dtype)
        rows, grad_rows = (one.flatten(0, 1)[None] for one in (tokens, grad))
        grad_tokens = torch.empty_like(rows)
        with torch.autocast("cpu", enabled=False):
            for at in token_blocks(rows, len(weight)):
                x, g = unless_native(rows[at], ctx.dtype), operand(grad_rows[at], ctx.dtype)
                normed, *moments = torch.native_layer_norm(x, gamma.shape, gamma, beta, ctx.eps)
                add_product(of_weight, g.t(), operand(normed, ctx.dtype))
                add_rows(of_bias, g)
                through = (g @ plain_weight).to(x.dtype)
                grad_tokens[at] = add_norm_gradients(of_norm, through, x, moments, gamma, beta)
        totals = zip((*of_norm, of_weight, of_bias), parameters, strict=True)
        grads = [None if one is None else total.to(one.dtype) for total, one in totals]
        return grad_tokens.view(tokens.shape), *grads, None, None
