"""LayerNorm, two linear layers with a GELU between, and the residual, a block of tokens at a time.

The hidden layer is four times as wide as the tokens. For all tokens at once it goes through memory
six times; for a block of them it stays in the cache. So the whole branch is computed for one block
before the next. For the backward pass the hidden layer before its GELU is saved, but neither the
normed tokens nor the output of the GELU: both are computed again, for the same block. Of narrow
tokens the hidden layer is not saved either: there are many of them, and a second product takes
about as long as writing the first one to memory and reading it.

A clip whose branch is dropped (stochastic depth) is not computed. The plain form is
``tokens + drop_path(mlp(norm(tokens)))``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from slowfast_mvit.fast.cpu.gelu import biased_gelu, biased_gelu_backward
from slowfast_mvit.fast.cpu.token_blocks import (
    add_norm_gradients,
    add_product,
    add_rows,
    token_blocks,
)

# Narrower tokens go through the first layer again in the backward pass. A byte of the hidden layer
# costs C / 2 operations: the first three blocks of S 16x4 save 77 MB for 1 % of a step's products.
SAVED_FROM_WIDTH = 256


def mlp_residual(
    tokens: Tensor,
    norm: tuple[Tensor, Tensor],
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    *,
    eps: float,
    factors: Sequence[float] | None = None,
) -> Tensor:
    """tokens + factor * mlp(norm(tokens)).

    Args:
        tokens: (B, L, C) float32 or bfloat16, on the CPU.
        norm: weight and bias of the LayerNorm.
        first: weight (H, C) and bias of the first linear layer.
        second: weight (C, H) and bias of the second.
        eps: of the LayerNorm.
        factors: of the branch of each clip, 0 where it is dropped; None for 1.

    Returns:
        (B, L, C) like ``tokens``.
    """
    shape = tokens.shape
    if factors is None:
        tokens, factors = tokens.flatten(0, 1)[None], (1.0,)
    inputs = tokens, *norm, *first, *second, eps, tuple(factors), compute_dtype()
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled():
            out: Tensor = _MlpResidual.apply(*inputs)
        else:
            out = _forward(*inputs, hidden=None, round_operand=cached_operand)
    return out.view(shape)


class _MlpResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, *rest: Any) -> Tensor:
        *parameters, ctx.eps, ctx.factors, ctx.dtype = rest
        hidden = None
        if tokens.shape[2] >= SAVED_FROM_WIDTH:
            width = len(parameters[3])
            hidden = tokens.new_empty((*tokens.shape[:2], width), dtype=ctx.dtype)
        ctx.save_for_backward(tokens, hidden, *parameters)
        return _forward(tokens, *rest, hidden=hidden, round_operand=operand)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, hidden, *parameters = ctx.saved_tensors
        gamma, beta, weight_1, bias_1, weight_2, _ = parameters
        sums = [torch.zeros_like(one, dtype=torch.float32) for one in parameters]
        of_norm, (of_1, of_bias_1, of_2, of_bias_2) = sums[:2], sums[2:]
        plain_1, plain_2 = (operand(one, ctx.dtype) for one in (weight_1, weight_2))
        grad_tokens = torch.empty_like(tokens)
        with torch.autocast("cpu", enabled=False):
            for at in token_blocks(tokens, len(weight_1)):
                x, g = (unless_native(one[at], ctx.dtype) for one in (tokens, grad))
                to = grad_tokens[at]
                factor = ctx.factors[at[0]]
                if factor == 0.0:
                    to.copy_(g)
                    continue
                normed, *moments = torch.native_layer_norm(x, gamma.shape, gamma, beta, ctx.eps)
                if hidden is None:
                    before = linear(normed, plain_1, None, ctx.dtype)
                else:
                    before = hidden[at]
                outer = operand(g if factor == 1.0 else g * factor, ctx.dtype)
                after_grad = (outer @ plain_2).to(before.dtype)
                of_before, after = biased_gelu_backward(before, bias_1, after_grad)
                add_product(of_2, outer.t(), operand(after, ctx.dtype))
                add_rows(of_bias_2, outer)
                inner = operand(of_before, ctx.dtype)
                add_product(of_1, inner.t(), operand(normed, ctx.dtype))
                add_rows(of_bias_1, inner)
                through = (inner @ plain_1).to(x.dtype)
                torch.add(g, add_norm_gradients(of_norm, through, x, moments, gamma, beta), out=to)
        of_parameters = [one.to(p.dtype) for one, p in zip(sums, parameters, strict=True)]
        return grad_tokens, *of_parameters, None, None, None


def _forward(
    tokens: Tensor,
    gamma: Tensor,
    beta: Tensor,
    weight_1: Tensor,
    bias_1: Tensor,
    weight_2: Tensor,
    bias_2: Tensor,
    eps: float,
    factors: Sequence[float],
    dtype: torch.dtype,
    *,
    hidden: Tensor | None,
    round_operand: Callable[[Tensor, torch.dtype], Tensor],
) -> Tensor:
    """The result; ``hidden`` (B, L, H), if not None, is filled with the hidden layer."""
    out = torch.empty_like(tokens)
    weight_1, weight_2, bias_2 = (round_operand(x, dtype) for x in (weight_1, weight_2, bias_2))
    for at in token_blocks(tokens, len(weight_1)):
        x, to, factor = unless_native(tokens[at], dtype), out[at], factors[at[0]]
        if factor == 0.0:
            to.copy_(x)
            continue
        normed = F.layer_norm(x, gamma.shape, gamma, beta, eps)
        before = linear(normed, weight_1, None, dtype, out=None if hidden is None else hidden[at])
        after = biased_gelu(before, bias_1, out=before if hidden is None else None)
        if dtype == to.dtype == torch.float32:  # both sums in the product
            torch.add(x, bias_2, alpha=factor, out=to)
            to.addmm_(after, weight_2.t(), alpha=factor)
        else:
            branch = linear(after, weight_2, bias_2, dtype)
            torch.add(x, branch, alpha=factor, out=to)
    return out
