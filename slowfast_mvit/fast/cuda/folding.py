"""The inputs and the output of attention with relative positions, each in one pass over memory.

``models/folded.py`` describes offsets as additional channels: a query is [q, offsets / scale,
zeros], a key [k, one-hot positions, zeros], and their score is ``scale`` times their product. The
attention kernel multiplies with the scale, so q does not change, bit for bit, and need not be saved
in addition to its folded form for the backward pass.

Two operators, each with a plain form in PyTorch's own operations that runs on other devices:

    fold_queries    q and the tables -> folded queries, (B, L, N, width) as the flash kernels read
    unfold_output   output of attention -> without the padding, with the residual

The first computes the offsets from the tables, for this reason: block 0 of MViTv2-S, 16 clips in
bf16, has 401,424 queries of 96 channels, 77 MB. Three einsums read them three times and copy them
twice, since each groups the queries along another axis (385 MB); concatenation reads them and the
offsets again and writes 96 MB (190 MB). Here they are read once and written once, 77 + 96 MB. A
query is multiplied with all rows of the tables (15 + 111 + 111), ten times as many as it needs: 18
GFLOP on the matrix units, which would wait for memory otherwise. Picking rows first would read 22
vectors for each query.

Letters used in shapes:
    B batch   N heads   D head width   P prefix tokens   L = P + T*H*W   kT, kH, kW grid of the keys
    R rows of all tables   K columns of offsets: the sum of kT, kH and kW, of the axes with a table
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from slowfast_mvit.fast.cuda import folding_launch as launch
from slowfast_mvit.models.tables import index_table

MAX_WIDTH = 256  # of a row, which is held in registers

# For each axis: the queries, the table's row for each query and key position, and the offsets.
_PRODUCTS = ("bthwnd,tkd->bthwnk", "bthwnd,hkd->bthwnk", "bthwnd,wkd->bthwnk")
_TO_QUERIES = ("bthwnk,tkd->bthwnd", "bthwnk,hkd->bthwnd", "bthwnk,wkd->bthwnd")
_TO_TABLES = ("bthwnk,bthwnd->tkd", "bthwnk,bthwnd->hkd", "bthwnk,bthwnd->wkd")


def plain_fold_queries(
    q: Tensor,
    tables: Tensor,
    axes: Sequence[int],
    q_thw: Sequence[int],
    k_thw: Sequence[int],
    scale: float,
    num_prefix_tokens: int,
    width: int,
) -> Tensor:
    """Queries, their offsets and zeros in adjacent channels, in PyTorch's own operations.

    Args:
        q: pooled, unscaled queries, (B, L, N, D).
        tables: (R, D): for each of ``axes`` 2 * max(places of queries, of keys) - 1 rows.
        axes: which axes have a table, of 0 (time), 1 (height) and 2 (width), rising.
        q_thw: the grid of the queries.
        k_thw: the grid of the keys.
        scale: later factor of the scores; offsets are divided by it.
        num_prefix_tokens: P; their offsets are zeros.
        width: of the output, at least D + K.

    Returns:
        (B, L, N, width) contiguous, of the dtype of ``q``.
    """
    grid = q[:, num_prefix_tokens:].unflatten(1, tuple(q_thw))
    gathered = _gathered(tables / scale, axes, q_thw, k_thw)
    columns = [
        torch.einsum(_PRODUCTS[axis], grid, rows.to(q.dtype))
        for axis, rows in zip(axes, gathered, strict=True)
    ]
    offsets = torch.cat(columns, dim=-1).flatten(1, 3)  # (B, T*H*W, N, K)
    padding = width - q.shape[3] - offsets.shape[3]
    return torch.cat([q, F.pad(offsets, (0, padding, 0, 0, num_prefix_tokens, 0))], dim=-1)


def plain_fold_queries_backward(
    grad: Tensor,
    folded: Tensor,
    tables: Tensor,
    axes: Sequence[int],
    q_thw: Sequence[int],
    k_thw: Sequence[int],
    scale: float,
    num_prefix_tokens: int,
) -> tuple[Tensor, Tensor]:
    """The gradients of the queries, of their dtype, and of the tables, float32.

    Args:
        grad: of the output of ``plain_fold_queries``.
        folded: that output; the queries are taken from it.
        (the rest): as there.
    """
    head_dim = tables.shape[1]
    grid = folded[:, num_prefix_tokens:, :, :head_dim].unflatten(1, tuple(q_thw))
    offsets = grad[:, num_prefix_tokens:, :, head_dim:].unflatten(1, tuple(q_thw))
    columns = [k_thw[axis] for axis in axes]
    offsets = offsets[..., : sum(columns)].split(columns, dim=5)
    grad_q = grad[..., :head_dim].clone()
    grad_grid = grad_q[:, num_prefix_tokens:].unflatten(1, tuple(q_thw))  # writes into grad_q
    of_tables = []
    gathered = _gathered(tables / scale, axes, q_thw, k_thw)
    for axis, rows, offset in zip(axes, gathered, offsets, strict=True):
        grad_grid += torch.einsum(_TO_QUERIES[axis], offset, rows.to(grad.dtype))
        of_rows = torch.einsum(_TO_TABLES[axis], offset, grid).flatten(0, 1)
        table = rows.new_zeros(2 * max(q_thw[axis], k_thw[axis]) - 1, head_dim)
        index = index_table(q_thw[axis], k_thw[axis]).flatten().to(rows.device)
        of_tables.append(table.index_add(0, index, of_rows.to(rows.dtype) / scale))
    return grad_q, torch.cat(of_tables).float()


def plain_unfold_output(attended: Tensor, residual: Tensor, num_without_residual: int) -> Tensor:
    """The output of attention without its padding, plus the residual.

    Args:
        attended: (B, L, N, D or wider).
        residual: (B, L, N, D).
        num_without_residual: leading tokens without residual.

    Returns:
        (B, L, N, D) contiguous, of the dtype of ``attended``.
    """
    out = attended[..., : residual.shape[3]].contiguous().clone()
    out[:, num_without_residual:] += residual[:, num_without_residual:]
    return out


def plain_unfold_output_backward(
    grad: Tensor, width: int, num_without_residual: int
) -> tuple[Tensor, Tensor]:
    """The gradients of the output of attention, (B, L, N, width), and of the residual."""
    of_residual = grad.contiguous().clone()
    of_residual[:, :num_without_residual] = 0
    return F.pad(grad, (0, width - grad.shape[3])).clone(), of_residual


def _gathered(
    tables: Tensor, axes: Sequence[int], q_thw: Sequence[int], k_thw: Sequence[int]
) -> list[Tensor]:
    """For each axis the row of its table for each query and key, (places, places, D)."""
    sizes = [2 * max(q_thw[axis], k_thw[axis]) - 1 for axis in axes]
    return [
        table[index_table(q_thw[axis], k_thw[axis]).to(table.device)]
        for axis, table in zip(axes, tables.split(sizes), strict=True)
    ]


def _operator(plain: Callable[..., Any], launcher: Callable[..., Any]) -> CustomOpDef:
    """An operator that is a Triton kernel on CUDA, and its plain form on other devices."""
    name = plain.__name__.removeprefix("plain_")
    operator = torch.library.custom_op(f"slowfast_mvit::{name}", plain, mutates_args=())
    operator.register_kernel("cuda", launcher)
    return operator


fold_queries = _operator(plain_fold_queries, launch.fold)
fold_queries_backward = _operator(plain_fold_queries_backward, launch.fold_backward)
unfold_output = _operator(plain_unfold_output, launch.unfold)
unfold_output_backward = _operator(plain_unfold_output_backward, launch.unfold_backward)


@fold_queries_backward.register_fake
def _(grad: Tensor, folded: Tensor, tables: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    grad_q = folded.new_empty(*folded.shape[:3], tables.shape[1])
    return grad_q, tables.new_empty(tables.shape, dtype=torch.float32)


@unfold_output_backward.register_fake
def _(grad: Tensor, width: int, num_without_residual: int) -> tuple[Tensor, Tensor]:
    return grad.new_empty(*grad.shape[:3], width), grad.new_empty(grad.shape)


fold_queries.register_fake(lambda q, *others: q.new_empty(*q.shape[:3], others[-1]))
unfold_output.register_fake(lambda attended, residual, _: attended.new_empty(residual.shape))


def _save_folded(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, tables, ctx.axes, ctx.q_thw, ctx.k_thw, ctx.scale, ctx.num_prefix_tokens, _ = inputs
    ctx.save_for_backward(output, tables)


def _backward_of_fold(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    folded, tables = ctx.saved_tensors
    grad_q, grad_tables = fold_queries_backward(
        grad, folded, tables, ctx.axes, ctx.q_thw, ctx.k_thw, ctx.scale, ctx.num_prefix_tokens
    )
    return grad_q, grad_tables.to(tables.dtype), *[None] * 6


def _save_widths(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    attended, _, ctx.num_without_residual = inputs
    ctx.width = attended.shape[3]


def _backward_of_unfold(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    if ctx.width == grad.shape[3] and ctx.num_without_residual == 0:
        return grad, grad, None
    return *unfold_output_backward(grad, ctx.width, ctx.num_without_residual), None


fold_queries.register_autograd(_backward_of_fold, setup_context=_save_folded)
unfold_output.register_autograd(_backward_of_unfold, setup_context=_save_widths)
