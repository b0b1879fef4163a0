"""Pooling and attention of a CPU together, which keep nothing of what goes from one to the other.

    qkv -- pool_qkv --> q, k, v -- blockwise_attention --> out

The backward pass pools once more, a hundredth of a training step, instead of keeping q, k and v.
Of narrow tokens it does not keep qkv, either, but projects them once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slowfast_mvit.fast.cpu.blockwise import blockwise_attention, blockwise_attention_backward
from slowfast_mvit.fast.cpu.norm_linear import norm_linear_again
from slowfast_mvit.fast.cpu.pooling import pool_qkv, pool_qkv_backward

# Tokens up to this width are projected again. A byte of qkv costs C / 2 operations, as in ``mlp``:
# the first two blocks of S 16x4, 96 wide, save 87 MB for 1 % of a step's products.
PROJECTED_AGAIN_TO_WIDTH = 128


def pooled_attention(
    qkv: Tensor,
    pool: Sequence[Tensor],
    tables: Sequence[Tensor | None],
    pool_numbers: tuple[Any, ...],
    attention_numbers: tuple[Any, ...],
    source: Source | None = None,
) -> Tensor:
    """``blockwise_attention`` of what ``pool_qkv`` gives.

    Args:
        qkv: (B, P + T*H*W, 3, N, D).
        pool: filters, norm weights and norm biases of q, k and v, nine tensors.
        tables: as ``blockwise_attention`` takes them.
        pool_numbers: what else ``pool_qkv`` takes, in its order.
        attention_numbers: what else ``blockwise_attention`` takes, in its order.
        source: what ``norm_linear`` made qkv of, where it is narrow: then qkv is not kept.

    Returns:
        (B, P + T'*H'*W', N, D).
    """
    origin: list[Tensor | None] = []
    if source is not None and source.tokens.shape[-1] <= PROJECTED_AGAIN_TO_WIDTH:
        needed = (source.tokens, *source.norm, *source.layer)
        origin = [None if one is None else one.detach() for one in needed]  # qkv has the gradients
    numbers = (pool_numbers, attention_numbers, None if source is None else source.eps)
    out: Tensor = _PooledAttention.apply(qkv, *pool, *tables, *origin, numbers)
    return out


@dataclass(frozen=True)
class Source:
    """What ``norm_linear`` takes, and gave qkv for.

    Attributes:
        tokens: (B, L, C).
        norm: weight and bias of the LayerNorm.
        layer: weight (3*N*D, C) and bias of the linear layer.
        eps: of the LayerNorm.
    """

    tokens: Tensor
    norm: tuple[Tensor, Tensor]
    layer: tuple[Tensor, Tensor | None]
    eps: float


class _PooledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, *rest: Any) -> Tensor:
        *tensors, (ctx.pool_numbers, ctx.attention_numbers, ctx.eps) = rest
        pool, tables, origin = tensors[:9], tensors[9:12], tensors[12:]
        q, k, v = pool_qkv(qkv, pool[:3], pool[3:6], pool[6:], *ctx.pool_numbers)
        out: Tensor
        out, log_sum = blockwise_attention(q, k, v, *tables, *ctx.attention_numbers)
        ctx.shape, ctx.dtype = qkv.shape, qkv.dtype
        ctx.save_for_backward(None if origin else qkv, log_sum, *tensors)
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, log_sum, *tensors = ctx.saved_tensors
        tables, given = tensors[9:12], (tensors[:3], tensors[3:6], tensors[6:9])
        if origin := tensors[12:]:
            qkv = norm_linear_again(*origin, eps=ctx.eps, dtype=ctx.dtype).view(ctx.shape)
        pooled = pool_qkv(qkv, *given, *ctx.pool_numbers)
        of_pooled = blockwise_attention_backward(
            grad, *pooled, *tables, log_sum, *ctx.attention_numbers
        )
        of_tables = iter(of_pooled[3:])
        of_inputs = pool_qkv_backward(*of_pooled[:3], qkv, *given, *ctx.pool_numbers)
        return (
            *of_inputs,
            *[None if table is None else next(of_tables) for table in tables],
            *[None] * (len(origin) + 1),
        )
