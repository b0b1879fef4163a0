"""Pooling and attention of a CPU together, which save nothing in between.

    qkv -- pool_qkv --> q, k, v -- blockwise_attention --> out

The backward pass pools again, a hundredth of a training step, instead of saving q, k and v. Of
narrow tokens it does not save qkv either, but projects them again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slowfast_mvit.fast.cpu.blockwise import blockwise_attention, blockwise_attention_backward
from slowfast_mvit.fast.cpu.norm_linear import norm_linear_in
from slowfast_mvit.fast.cpu.pooling import pool_qkv, pool_qkv_backward
from slowfast_mvit.models.tables import THW
from slowfast_mvit.models.windows import Window, cut_windows, join_windows

# Tokens up to this width are projected again. A byte of qkv costs C / 2 operations, as in ``mlp``:
# the first two blocks of S 16x4, 96 wide, save 87 MB for 1 % of the products of a step.
PROJECTED_AGAIN_TO_WIDTH = 128

Grid = tuple[THW, Window | None]  # a pooled grid, and its windows if there are some
_WHOLE: Grid = ((0, 0, 0), None)
# Arguments of ``norm_linear``: tokens, weight and bias of the norm and of the linear layer, eps.
Source = tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor | None], float]


def pooled_attention(
    qkv: Tensor,
    pool: Sequence[Tensor],
    pool_numbers: tuple[Any, ...],
    tables: Sequence[Tensor | None],
    attention_numbers: tuple[Any, ...],
    source: Source | None = None,
    windows: tuple[Grid, Grid] = (_WHOLE, _WHOLE),
) -> Tensor:
    """``blockwise_attention`` of the results of ``pool_qkv``, cut into windows if there are some.

    Args:
        qkv: (B, P + T*H*W, 3, N, D).
        pool: filters, norm weights and norm biases of q, k and v, nine tensors.
        pool_numbers: the other arguments of ``pool_qkv``, in its order.
        tables: as for ``blockwise_attention``.
        attention_numbers: the other arguments of ``blockwise_attention``, in its order.
        source: tokens, norm, layer and eps for which ``norm_linear`` returned qkv; then qkv is not
            saved where the tokens are narrow.
        windows: pooled grid and window of the queries, then those of the keys.

    Returns:
        (B, P + T'*H'*W', N, D).
    """
    origin: list[Tensor | None] = []
    eps = None
    if source is not None and source[0].shape[-1] <= PROJECTED_AGAIN_TO_WIDTH:
        tokens, norm, layer, eps = source
        # Detached, because qkv has the gradients.
        origin = [None if one is None else one.detach() for one in (tokens, *norm, *layer)]
    numbers = (pool_numbers, attention_numbers, eps, windows)
    out: Tensor = _PooledAttention.apply(qkv, *pool, *tables, *origin, numbers)
    return out


class _PooledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, *rest: Any) -> Tensor:
        *tensors, (ctx.pool_numbers, ctx.attention_numbers, ctx.eps, ctx.windows) = rest
        pool, tables, origin = tensors[:9], tensors[9:12], tensors[12:]
        pooled = pool_qkv(qkv, pool[:3], pool[3:6], pool[6:], *ctx.pool_numbers)
        q, k, v = _each(cut_windows, pooled, ctx.windows)
        out, log_sum = blockwise_attention(q, k, v, *tables, *ctx.attention_numbers)
        ctx.shape, ctx.dtype = qkv.shape, qkv.dtype
        ctx.save_for_backward(None if origin else qkv, log_sum, *tensors)
        return join_windows(out, *ctx.windows[0])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, log_sum, *tensors = ctx.saved_tensors
        tables, pool = tensors[9:12], (tensors[:3], tensors[3:6], tensors[6:9])
        if origin := tensors[12:]:
            tokens, gamma, beta, weight, bias = origin
            qkv = norm_linear_in(tokens, gamma, beta, weight, bias, ctx.eps, ctx.dtype)
            qkv = qkv.view(ctx.shape)
        pooled = _each(cut_windows, pool_qkv(qkv, *pool, *ctx.pool_numbers), ctx.windows)
        grad = cut_windows(grad, *ctx.windows[0])
        of_pooled = blockwise_attention_backward(
            grad, *pooled, *tables, log_sum, *ctx.attention_numbers
        )
        of_tables = iter(of_pooled[3:])
        of_qkv = _each(join_windows, of_pooled[:3], ctx.windows)
        of_inputs = pool_qkv_backward(*of_qkv, qkv, *pool, *ctx.pool_numbers)
        return (
            *of_inputs,
            *[None if table is None else next(of_tables) for table in tables],
            *[None] * (len(origin) + 1),
        )


def _each(
    change: Callable[..., Tensor], qkv: Sequence[Tensor], windows: tuple[Grid, Grid]
) -> list[Tensor]:
    """Cut or join queries, keys and values."""
    of_q, of_k = windows
    return [change(one, *grid) for one, grid in zip(qkv, (of_q, of_k, of_k), strict=True)]
