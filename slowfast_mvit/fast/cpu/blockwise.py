"""Attention with decomposed relative positions on a CPU, a block of queries at a time.

    for some queries of one head:
        scores  = queries k^T                           one matrix product
        scores += offsets of the axes; exponentials     in one pass, while they are in the cache
        out     = scores v / their sum (+ queries)      one matrix product

The fused kernels of PyTorch take the offsets as a mask of all scores, or folded into wider queries
and keys (``models/folded.py``), which is a fifth more to multiply. Here a pass over a block of
scores adds them, and nothing is padded, concatenated or moved. The backward pass needs only the
logarithm of the sum of each softmax; the scores are computed again.

All is computed in float32: bfloat16 inputs are converted, and the output is rounded once. Where
the processor has instructions for bfloat16 products, all of a call is in C (``csrc/attention.c``):
the operands of products are rounded to bfloat16, the sums and what is between are float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit.fast.cpu import native

# Bytes of scores for each thread: a block must stay in the cache between its passes.
BLOCK_BYTES = 1 << 20


@torch.library.custom_op("slowfast_mvit::blockwise_attention", mutates_args=())
def blockwise_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table_t: Tensor | None,
    table_h: Tensor | None,
    table_w: Tensor | None,
    q_thw: Sequence[int],
    k_thw: Sequence[int],
    num_prefix_tokens: int,
    scale: float,
    add_queries_from: int,
) -> tuple[Tensor, Tensor]:
    """softmax(scale * q k^T + offsets) v, plus the queries.

    Args:
        q: (B, Lq, N, D), the last two axes contiguous.
        k: (B, Lk, N, D), likewise.
        v: (B, Lk, N, D), likewise.
        table_t: vectors of each query and key position in time, (T, kT, D); None for no offsets.
        table_h: in height, (H, kH, D).
        table_w: in width, (W, kW, D).
        q_thw: the grid of the queries, after the prefix.
        k_thw: that of the keys.
        num_prefix_tokens: leading queries and keys without offset.
        scale: factor of the products of q and k.
        add_queries_from: the queries from this one on are added to the output; Lq for none.

    Returns:
        (B, Lq, N, D) in the dtype of q, and the logarithm of the softmax's sum for each query,
        (B, N, Lq) float32.
    """
    log_sum, tables = _empty_log_sum(q), _float32(table_t, table_h, table_w)
    if _is_in_bfloat16(q):
        q, k, v = (one.contiguous() for one in (q, k, v))
        whole = _whole(q, k, q_thw, k_thw, num_prefix_tokens)
        rounded = torch.empty_like(q)
        native.call("attend", *whole, scale, add_queries_from, q, k, v, *tables, rounded, log_sum)
        return rounded, log_sum
    out = q.new_empty(q.shape, dtype=torch.float32)
    plain_q, k, v = _float32(q, k, v)
    with torch.autocast("cpu", enabled=False):
        for b, n, rows, scoring in _blocks(plain_q, k, q_thw, k_thw, num_prefix_tokens):
            queries, to = plain_q[b, rows, n], out[b, rows, n]
            padded, inverse = _scores(scoring), torch.empty(scoring.rows)
            scores = padded[:, : scoring.keys]
            torch.mm(queries, k[b, :, n].t(), out=scores)
            outputs = inverse, log_sum[b, n, rows]
            native.call("softmax_forward", scoring, padded, scale, queries, *tables, *outputs)
            torch.mm(scores, v[b, :, n], out=to)
            add_from = add_queries_from - rows.start
            native.call("softmax_finish", scoring, to, queries, inverse, add_from)
    return out.to(q.dtype), log_sum


@torch.library.custom_op("slowfast_mvit::blockwise_attention_backward", mutates_args=())
def blockwise_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table_t: Tensor | None,
    table_h: Tensor | None,
    table_w: Tensor | None,
    log_sum: Tensor,
    q_thw: Sequence[int],
    k_thw: Sequence[int],
    num_prefix_tokens: int,
    scale: float,
    add_queries_from: int,
) -> list[Tensor]:
    """The gradients of q, k, v, and of the tables that are not None, in this order."""
    tables = _float32(table_t, table_h, table_w)
    partial = torch.zeros(torch.get_num_threads(), sum(_sizes(tables)))
    if _is_in_bfloat16(q):
        inputs = [one.contiguous() for one in (grad, q, k, v)]
        grads = [torch.empty_like(one) for one in inputs[1:]]
        about = *_whole(q, k, q_thw, k_thw, num_prefix_tokens), scale, add_queries_from
        native.call("attend_backward", *about, *inputs, *tables, log_sum, *grads, partial)
        return [*grads, *_of_tables(partial, tables)]
    plain_q, plain_k, plain_v, grad = _float32(q, k, v, grad)
    grad_q = torch.empty_like(plain_q)
    grad_k, grad_v = torch.zeros_like(plain_k), torch.zeros_like(plain_v)
    with torch.autocast("cpu", enabled=False):
        for b, n, rows, scoring in _blocks(plain_q, plain_k, q_thw, k_thw, num_prefix_tokens):
            queries, grad_out = plain_q[b, rows, n], grad[b, rows, n]
            padded, padded_grads = _scores(scoring), _scores(scoring)
            scores, grad_scores = padded[:, : scoring.keys], padded_grads[:, : scoring.keys]
            torch.mm(queries, plain_k[b, :, n].t(), out=scores)
            torch.mm(grad_out, plain_v[b, :, n].t(), out=grad_scores)
            through_offsets = torch.zeros_like(queries, memory_format=torch.contiguous_format)
            of_rows = padded, padded_grads, scale, queries, *tables, log_sum[b, n, rows]
            native.call("softmax_backward", scoring, *of_rows, through_offsets, partial)
            grad_v[b, :, n].addmm_(scores.t(), grad_out)
            grad_k[b, :, n].addmm_(grad_scores.t(), queries, alpha=scale)
            to = grad_q[b, rows, n]
            torch.addmm(through_offsets, grad_scores, plain_k[b, :, n], alpha=scale, out=to)
            bare = max(add_queries_from - rows.start, 0)
            to[bare:] += grad_out[bare:]
    grads = [grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)]
    return [*grads, *_of_tables(partial, tables)]


@blockwise_attention_backward.register_fake
def _(grad: Tensor, *others: Any) -> list[Tensor]:
    return [torch.empty_like(one) for one in others[:6] if one is not None]


blockwise_attention.register_fake(lambda q, *_: (q.new_empty(q.shape), _empty_log_sum(q)))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.q_thw, ctx.k_thw, ctx.prefix, ctx.scale, ctx.add_queries_from = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: object) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    numbers = (ctx.q_thw, ctx.k_thw, ctx.prefix, ctx.scale, ctx.add_queries_from)
    grads = iter(blockwise_attention_backward(grad, *tensors, *numbers))
    of_tensors = [None if one is None else next(grads) for one in tensors[:6]]
    return (*of_tensors, *[None] * len(numbers))


blockwise_attention.register_autograd(_backward, setup_context=_save)


def _is_in_bfloat16(q: Tensor) -> bool:
    return q.dtype == torch.bfloat16 and native.multiplies_bfloat16()


def _sizes(tables: Sequence[Tensor | None]) -> list[int]:
    return [0 if table is None else table.numel() for table in tables]


def _of_tables(partial: Tensor, tables: Sequence[Tensor | None]) -> list[Tensor]:
    """The gradients of the tables that are not None, from the sums of each thread."""
    parts = partial.sum(dim=0).split(_sizes(tables))
    pairs = zip(parts, tables, strict=True)
    return [one.reshape(table.shape).clone() for one, table in pairs if table is not None]


def _whole(
    q: Tensor, k: Tensor, q_thw: Sequence[int], k_thw: Sequence[int], num_prefix_tokens: int
) -> tuple[native.Scoring, int, int]:
    """The record of all queries for csrc/, and the numbers of clips and heads."""
    batch, length, heads, width = q.shape
    sizes = length, 0, k.shape[1], k.shape[1], width, heads * width
    grids = tuple(q_thw), tuple(k_thw)
    return native.Scoring(*sizes, num_prefix_tokens, *grids), batch, heads


def _blocks(
    q: Tensor, k: Tensor, q_thw: Sequence[int], k_thw: Sequence[int], num_prefix_tokens: int
) -> Iterator[tuple[int, int, slice, native.Scoring]]:
    """Clip, head and rows of each block of queries, and its record for csrc/."""
    batch, length, heads, width = q.shape
    keys = k.shape[1]
    row_stride = math.ceil(keys / native.LANES) * native.LANES
    num_rows = max(BLOCK_BYTES * torch.get_num_threads() // (4 * row_stride), 1)
    num_rows = math.ceil(length / math.ceil(length / num_rows))  # blocks of equal size
    for b in range(batch):
        for n in range(heads):
            for start in range(0, length, num_rows):
                rows = slice(start, min(start + num_rows, length))
                sizes = rows.stop - start, start, keys, row_stride, width, q.stride(1)
                grids = tuple(q_thw), tuple(k_thw)
                yield b, n, rows, native.Scoring(*sizes, num_prefix_tokens, *grids)


def _scores(scoring: native.Scoring) -> Tensor:
    """Uninitialised memory for the scores of a block, (rows, row_stride)."""
    return torch.empty(scoring.rows, scoring.row_stride)


def _float32(*tensors: Tensor | None) -> list[Any]:
    return [None if tensor is None else tensor.float().contiguous() for tensor in tensors]


def _empty_log_sum(q: Tensor) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)
