"""Launches of the kernels behind ``folding``; arguments and results are described there."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slowfast_mvit.fast.cuda.available import kernels_of, power_of_two
from slowfast_mvit.models.tables import index_table

# Compiled for sm_90 with these, heads of 96 channels and bfloat16, no register is spilled.
_ROWS = 64  # of a tile: each reads all of the tables, so it should not be small beside them
_CHUNK = 64  # rows of the tables at a time
_NUM_STAGES = 2
_MAX_PROGRAMS = 128  # with partial sums of their own, for each chunk
_NUM_WARPS = 8


def fold(
    q: Tensor,
    tables: Tensor,
    axes: Sequence[int],
    q_thw: Sequence[int],
    k_thw: Sequence[int],
    scale: float,
    num_prefix_tokens: int,
    width: int,
) -> Tensor:
    """``plain_fold_queries`` in one pass over q."""
    q = q.contiguous()
    folded = q.new_empty(*q.shape[:3], width)
    layout = _layout(q, axes, q_thw, k_thw, num_prefix_tokens, width)
    with torch.cuda.device_of(q):
        kernels_of("folding_kernels").fold_forward[(-(-layout.num_rows // _ROWS),)](
            q,
            tables.to(q.dtype).contiguous(),
            layout.lookups.rows_of_columns,
            folded,
            *layout.numbers,
            *layout.lookups.ends_of_columns,
            scale,
            **layout.constants,
        )
    return folded


def fold_backward(
    grad: Tensor,
    folded: Tensor,
    tables: Tensor,
    axes: Sequence[int],
    q_thw: Sequence[int],
    k_thw: Sequence[int],
    scale: float,
    num_prefix_tokens: int,
) -> tuple[Tensor, Tensor]:
    """``plain_fold_queries_backward``: one pass for the queries, one for each chunk of tables."""
    grad, folded = grad.contiguous(), folded.contiguous()
    num_table_rows, head_dim = tables.shape
    grad_q = folded.new_empty(*folded.shape[:3], head_dim)
    layout = _layout(grad_q, axes, q_thw, k_thw, num_prefix_tokens, folded.shape[3])
    num_tiles = -(-layout.num_rows // _ROWS)
    tiles = power_of_two(-(-num_tiles // _MAX_PROGRAMS))
    num_programs = -(-num_tiles // tiles)
    partial = tables.new_empty(num_programs, num_table_rows, head_dim, dtype=torch.float32)
    kernels = kernels_of("folding_kernels")
    with torch.cuda.device_of(grad):
        kernels.fold_backward_to_queries[(-(-layout.num_rows // _ROWS),)](
            grad,
            tables.to(grad.dtype).contiguous(),
            layout.lookups.columns_of_rows,
            grad_q,
            *layout.numbers,
            *layout.lookups.ends_of_rows,
            scale,
            **layout.constants,
        )
        kernels.fold_backward_to_tables[(num_programs, layout.constants["CHUNKS"])](
            grad,
            folded,
            layout.lookups.columns_of_rows,
            partial,
            *layout.numbers,
            *layout.lookups.ends_of_rows,
            scale,
            **layout.constants,
            TILES=tiles,
        )
    return grad_q, partial.sum(dim=0)


def unfold(attended: Tensor, residual: Tensor, num_without_residual: int) -> Tensor:
    """``plain_unfold_output`` in one pass."""
    residual = residual.contiguous()
    out = torch.empty_like(residual, dtype=attended.dtype)
    _, length, num_heads, head_dim = residual.shape
    num_rows = residual.numel() // head_dim
    with torch.cuda.device_of(attended):
        kernels_of("folding_kernels").unfold_forward[(-(-num_rows // _ROWS),)](
            attended.contiguous(),
            residual,
            out,
            length,
            num_rows,
            num_without_residual,
            N=num_heads,
            D=head_dim,
            FOLDED=attended.shape[3],
            ROWS=_ROWS,
            WIDTH=power_of_two(head_dim),
            num_warps=_NUM_WARPS,
        )
    return out


def unfold_backward(grad: Tensor, width: int, num_without_residual: int) -> tuple[Tensor, Tensor]:
    """``plain_unfold_output_backward`` in one pass."""
    grad = grad.contiguous()
    _, length, num_heads, head_dim = grad.shape
    grad_attended = grad.new_empty(*grad.shape[:3], width)
    grad_residual = torch.empty_like(grad)
    num_rows = grad.numel() // head_dim
    with torch.cuda.device_of(grad):
        kernels_of("folding_kernels").unfold_backward[(-(-num_rows // _ROWS),)](
            grad,
            grad_attended,
            grad_residual,
            length,
            num_rows,
            num_without_residual,
            N=num_heads,
            D=head_dim,
            FOLDED=width,
            ROWS=_ROWS,
            WIDTH=power_of_two(width),
            num_warps=_NUM_WARPS,
        )
    return grad_attended, grad_residual


class _Lookups(NamedTuple):
    """Which row of the tables belongs to a place and a column; see ``folding_kernels``.

    Attributes:
        rows_of_columns: (T + H + W, COLUMNS) int32.
        columns_of_rows: (T + H + W, CHUNKS * CHUNK) int16.
        ends_of_columns: the first column that is not of time; that is not of time or height.
        ends_of_rows: the same of the tables' rows.
    """

    rows_of_columns: Tensor
    columns_of_rows: Tensor
    ends_of_columns: tuple[int, int]
    ends_of_rows: tuple[int, int]


class _Layout(NamedTuple):
    """What the kernels must know of rows and tables.

    Attributes:
        num_rows: B * L * N.
        lookups: from columns to rows of the tables and back.
        numbers: tokens of a sample, rows, T, H, W, and rows of the tables.
        constants: what the kernels are compiled for.
    """

    num_rows: int
    lookups: _Lookups
    numbers: tuple[int, ...]
    constants: dict[str, Any]


def _layout(
    q: Tensor,
    axes: Sequence[int],
    q_thw: Sequence[int],
    k_thw: Sequence[int],
    num_prefix_tokens: int,
    width: int,
) -> _Layout:
    batch, length, num_heads, head_dim = q.shape
    num_table_rows = sum(2 * max(q_thw[axis], k_thw[axis]) - 1 for axis in axes)
    chunks = -(-num_table_rows // _CHUNK)
    columns = max(power_of_two(width - head_dim), 16)
    lookups = _lookups(tuple(axes), tuple(q_thw), tuple(k_thw), columns, chunks * _CHUNK, q.device)
    num_rows = batch * length * num_heads
    constants = {
        "N": num_heads,
        "D": head_dim,
        "P": num_prefix_tokens,
        "FOLDED": width,
        "WIDTH": max(power_of_two(head_dim), 16),
        "COLUMNS": columns,
        "CHUNK": _CHUNK,
        "CHUNKS": chunks,
        "ROWS": _ROWS,
        "num_warps": _NUM_WARPS,
        "num_stages": _NUM_STAGES,
    }
    return _Layout(num_rows, lookups, (length, num_rows, *q_thw, num_table_rows), constants)


@functools.lru_cache(maxsize=256)  # a model needs fewer than 10 for each input size
def _lookups(
    axes: tuple[int, ...],
    q_thw: tuple[int, ...],
    k_thw: tuple[int, ...],
    num_columns: int,
    num_rows: int,
    device: torch.device,
) -> _Lookups:
    widths = [k_thw[axis] if axis in axes else 0 for axis in range(3)]
    heights = [2 * max(q_thw[axis], k_thw[axis]) - 1 if axis in axes else 0 for axis in range(3)]
    rows_of_columns = torch.full((sum(q_thw), num_columns), -1, dtype=torch.int32)
    columns_of_rows = torch.full((sum(q_thw), num_rows), -1, dtype=torch.int16)
    first_places, first_columns, first_rows = (
        list(accumulate(sizes, initial=0)) for sizes in (q_thw, widths, heights)
    )
    for axis in axes:
        index = index_table(q_thw[axis], k_thw[axis]).int()  # (places, columns) of this axis
        place = torch.arange(q_thw[axis])[:, None] + first_places[axis]
        column = torch.arange(k_thw[axis]) + first_columns[axis]
        row = index + first_rows[axis]
        rows_of_columns[place, column] = row
        columns_of_rows[place, row.long()] = column.to(torch.int16)
    return _Lookups(
        rows_of_columns.to(device),
        columns_of_rows.to(device),
        (first_columns[1], first_columns[2]),
        (first_rows[1], first_rows[2]),
    )
