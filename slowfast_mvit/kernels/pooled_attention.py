"""Pooling and attention of a CPU together, which keep nothing of what goes from one to the other.

    qkv -- pool_qkv --> q, k, v -- blockwise_attention --> out

The backward pass pools once more, a hundredth of a training step, instead of keeping q, k and v.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slowfast_mvit.kernels.blockwise import blockwise_attention, blockwise_attention_backward
from slowfast_mvit.kernels.pool_qkv import pool_qkv, pool_qkv_backward


def pooled_attention(
    qkv: Tensor,
    pool: Sequence[Tensor],
    tables: Sequence[Tensor | None],
    pool_numbers: tuple[Any, ...],
    attention_numbers: tuple[Any, ...],
) -> Tensor:
    """``blockwise_attention`` of what ``pool_qkv`` gives.

    Args:
        qkv: (B, P + T*H*W, 3, N, D).
        pool: filters, norm weights and norm biases of q, k and v, nine tensors.
        tables: as ``blockwise_attention`` takes them.
        pool_numbers: what else ``pool_qkv`` takes, in its order.
        attention_numbers: what else ``blockwise_attention`` takes, in its order.

    Returns:
        (B, P + T'*H'*W', N, D).
    """
    out: Tensor = _PooledAttention.apply(qkv, *pool, *tables, pool_numbers, attention_numbers)
    return out


class _PooledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, *rest: Any) -> Tensor:
        *tensors, ctx.pool_numbers, ctx.attention_numbers = rest
        pool, tables = tensors[:9], tensors[9:]
        q, k, v = pool_qkv(qkv, pool[:3], pool[3:6], pool[6:], *ctx.pool_numbers)
        out: Tensor
        out, log_sum = blockwise_attention(q, k, v, *tables, *ctx.attention_numbers)
        ctx.save_for_backward(qkv, log_sum, *tensors)
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, log_sum, *tensors = ctx.saved_tensors
        tables, given = tensors[9:], (tensors[:3], tensors[3:6], tensors[6:9])
        pooled = pool_qkv(qkv, *given, *ctx.pool_numbers)
        of_pooled = blockwise_attention_backward(
            grad, *pooled, *tables, log_sum, *ctx.attention_numbers
        )
        of_tables = iter(of_pooled[3:])
        of_inputs = pool_qkv_backward(*of_pooled[:3], qkv, *given, *ctx.pool_numbers)
        return (
            *of_inputs,
            *[None if table is None else next(of_tables) for table in tables],
            None,
            None,
        )
