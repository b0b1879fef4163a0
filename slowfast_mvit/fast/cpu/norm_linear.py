"""LayerNorm and a linear layer, some tokens at a time.

The normed tokens never leave the cache, and they are not kept for the backward pass, which
normalises the same few tokens again. The plain twin is ``linear(norm(tokens))``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from slowfast_mvit.fast.cpu.casting import compute_dtype, kept_operand, linear, operand
from slowfast_mvit.fast.cpu.token_blocks import add_norm_gradients, add_product, token_blocks


def norm_linear(
    tokens: Tensor, norm: tuple[Tensor, Tensor], layer: tuple[Tensor, Tensor | None], *, eps: float
) -> Tensor:
    """linear(norm(tokens)).

    Args:
        tokens: (B, L, C) float32 or bfloat16, on the CPU.
        norm: weight and bias of the LayerNorm.
        layer: weight (K, C) and bias of the linear layer.
        eps: of the LayerNorm.

    Returns:
        (B, L, K) float32, or bfloat16 under autocast, whatever the tokens are.
    """
    dtype = compute_dtype()
    shape, tokens = (*tokens.shape[:2], len(layer[0])), tokens.flatten(0, 1).unsqueeze(0)
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled():
            out: Tensor = _NormLinear.apply(tokens, *norm, *layer, eps, dtype)
            return out.view(shape)
        weight = kept_operand(layer[0], dtype)
        bias = None if layer[1] is None else kept_operand(layer[1], dtype)
        return _forward(tokens, *norm, weight, bias, eps, dtype).view(shape)


def norm_linear_again(
    tokens: Tensor,
    gamma: Tensor,
    beta: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """What ``norm_linear`` gave in ``dtype``, to the bit, for a backward pass that did not keep it.

    Args:
        tokens: (B, L, C), as it got them.
        gamma: weight of the LayerNorm.
        beta: its bias.
        weight: of the linear layer, (K, C).
        bias: of the linear layer.
        eps: of the LayerNorm.
        dtype: of the result.

    Returns:
        (B, L, K).
    """
    shape = (*tokens.shape[:2], len(weight))
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        weight, bias = operand(weight, dtype), None if bias is None else operand(bias, dtype)
        rows = tokens.flatten(0, 1).unsqueeze(0)
        return _forward(rows, gamma, beta, weight, bias, eps, dtype).view(shape)


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, *rest: Any) -> Tensor:
        gamma, beta, weight, bias, ctx.eps, ctx.dtype = rest
        ctx.save_for_backward(tokens, gamma, beta, weight, bias)
        weight = operand(weight, ctx.dtype)
        bias = None if bias is None else operand(bias, ctx.dtype)
        return _forward(tokens, gamma, beta, weight, bias, ctx.eps, ctx.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, gamma, beta, weight, bias = ctx.saved_tensors
        grad_tokens = torch.empty_like(tokens)
        of_norm = [torch.zeros_like(one, dtype=torch.float32) for one in (gamma, beta)]
        of_weight = torch.zeros_like(weight, dtype=torch.float32)
        of_bias = torch.zeros(len(weight))
        plain_weight = operand(weight, ctx.dtype)
        with torch.autocast("cpu", enabled=False):
            for b, rows in token_blocks(tokens, len(weight)):
                x, g = tokens[b, rows].float(), operand(grad[b, rows], ctx.dtype)
                normed, *moments = torch.native_layer_norm(x, gamma.shape, gamma, beta, ctx.eps)
                add_product(of_weight, g.t(), operand(normed, ctx.dtype))
                of_bias += g.sum(dim=0, dtype=torch.float32)
                through = (g @ plain_weight).float()
                grad_tokens[b, rows] = add_norm_gradients(of_norm, through, x, moments, gamma, beta)
        grads = [
            None if one is None else total.to(one.dtype)
            for total, one in zip(
                (*of_norm, of_weight, of_bias), (gamma, beta, weight, bias), strict=True
            )
        ]
        return grad_tokens, *grads, None, None


def _forward(
    tokens: Tensor,
    gamma: Tensor,
    beta: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    out = tokens.new_empty((*tokens.shape[:2], len(weight)), dtype=dtype)
    for b, rows in token_blocks(tokens, len(weight)):
        normed = F.layer_norm(tokens[b, rows].float(), gamma.shape, gamma, beta, eps)
        linear(normed, weight, bias, dtype, out=out[b, rows])
    return out
