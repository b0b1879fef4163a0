"""Launches of the kernels of ``folding``; arguments and results are described there."""

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
_ROWS = 64  # of a tile; each tile reads all of the tables, so it should not be small in comparison
_CHUNK = 64  # rows of the tables at a time
_NUM_STAGES = 2
_MAX_PROGRAMS = 128  # with partial sums of their own, for each chunk
_NUM_WARPS = 8


def fold(q: Tensor, tables: Tensor, *arguments: Any) -> Tensor:
    """``plain_fold_queries`` in one pass over q."""
    axes, q_thw, k_thw, scale, num_prefix_tokens, width = arguments
    q = q.contiguous()
    folded = q.new_empty(*q.shape[:3], width)
    layout = _layout(q, axes, q_thw, k_thw, num_prefix_tokens, width)
    operands = q, tables.to(q.dtype).contiguous(), layout.rows_of_columns, folded
    numbers = *layout.numbers, *layout.ends_of_columns, scale
    kernels = kernels_of("folding_kernels")
    with torch.cuda.device_of(q):
        kernels.fold_forward[(layout.num_tiles,)](*operands, *numbers, **layout.constants)
    return folded


def fold_backward(
    grad: Tensor, folded: Tensor, tables: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    """``plain_fold_queries_backward``: one pass for the queries, one for each chunk of tables."""
    axes, q_thw, k_thw, scale, num_prefix_tokens = arguments
    grad, folded = grad.contiguous(), folded.contiguous()
    grad_q = folded.new_empty(*folded.shape[:3], tables.shape[1])
    layout = _layout(grad_q, axes, q_thw, k_thw, num_prefix_tokens, folded.shape[3])
    numbers = *layout.numbers, *layout.ends_of_rows, scale
    constants, columns_of_rows = layout.constants, layout.columns_of_rows
    tiles = power_of_two(-(-layout.num_tiles // _MAX_PROGRAMS))
    num_programs = -(-layout.num_tiles // tiles)
    partial = tables.new_empty(num_programs, *tables.shape, dtype=torch.float32)
    kernels = kernels_of("folding_kernels")
    with torch.cuda.device_of(grad):
        operands = grad, tables.to(grad.dtype).contiguous(), columns_of_rows, grad_q
        kernels.fold_backward_to_queries[(layout.num_tiles,)](*operands, *numbers, **constants)
        operands = grad, folded, columns_of_rows, partial
        kernels.fold_backward_to_tables[(num_programs, constants["CHUNKS"])](
            *operands, *numbers, **constants, TILES=tiles
        )
    return grad_q, partial.sum(dim=0)


def unfold(attended: Tensor, residual: Tensor, num_without_residual: int) -> Tensor:
    """``plain_unfold_output`` in one pass."""
    residual = residual.contiguous()
    out = torch.empty_like(residual, dtype=attended.dtype)
    operands = attended.contiguous(), residual, out
    _launch_unfold("unfold_forward", operands, num_without_residual, width=out.shape[3])
    return out


def unfold_backward(grad: Tensor, width: int, num_without_residual: int) -> tuple[Tensor, Tensor]:
    """``plain_unfold_output_backward`` in one pass."""
    grad = grad.contiguous()
    of_attended, of_residual = grad.new_empty(*grad.shape[:3], width), torch.empty_like(grad)
    operands = grad, of_attended, of_residual
    _launch_unfold("unfold_backward", operands, num_without_residual, width=width)
    return of_attended, of_residual


def _launch_unfold(
    name: str, operands: Sequence[Tensor], num_without_residual: int, *, width: int
) -> None:
    """Launch a kernel that writes rows of ``width``; the last operand has the residual's shape."""
    _, length, num_heads, head_dim = operands[-1].shape
    num_rows = operands[-1].numel() // head_dim
    kernel = getattr(kernels_of("folding_kernels"), name)
    with torch.cuda.device_of(operands[0]):
        kernel[(-(-num_rows // _ROWS),)](
            *operands,
            length,
            num_rows,
            num_without_residual,
            N=num_heads,
            D=head_dim,
            FOLDED=max(one.shape[3] for one in operands),
            ROWS=_ROWS,
            WIDTH=power_of_two(width),
            num_warps=_NUM_WARPS,
        )


class _Layout(NamedTuple):
    """Sizes and lookups of one fold.

    Attributes:
        rows_of_columns: (T + H + W, COLUMNS) int32, see ``folding_kernels``.
        columns_of_rows: (T + H + W, CHUNKS * CHUNK) int16.
        ends_of_columns: the first columns after those of time, and after those of time and height.
        ends_of_rows: the same for rows of the tables.
        num_tiles: tiles of all queries.
        numbers: tokens of a sample, rows, T, H, W, and rows of the tables.
        constants: of the kernels.
    """

    rows_of_columns: Tensor
    columns_of_rows: Tensor
    ends_of_columns: tuple[int, ...]
    ends_of_rows: tuple[int, ...]
    num_tiles: int
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
    num_rows = batch * length * num_heads
    num_table_rows = sum(2 * max(q_thw[axis], k_thw[axis]) - 1 for axis in axes)
    chunks = -(-num_table_rows // _CHUNK)
    columns = max(power_of_two(width - head_dim), 16)
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
    return _Layout(
        *_lookups(tuple(axes), tuple(q_thw), tuple(k_thw), columns, chunks * _CHUNK, q.device),
        num_tiles=-(-num_rows // _ROWS),
        numbers=(length, num_rows, *q_thw, num_table_rows),
        constants=constants,
    )


@functools.lru_cache(maxsize=256)  # a model needs fewer than 10 for each input size
def _lookups(
    axes: tuple[int, ...],
    q_thw: tuple[int, ...],
    k_thw: tuple[int, ...],
    num_columns: int,
    num_rows: int,
    device: torch.device,
) -> tuple[Tensor, Tensor, tuple[int, ...], tuple[int, ...]]:
    """The first four attributes of ``_Layout``."""
    widths = [k_thw[axis] if axis in axes else 0 for axis in range(3)]
    heights = [2 * max(q_thw[axis], k_thw[axis]) - 1 if axis in axes else 0 for axis in range(3)]
    rows_of_columns = torch.full((sum(q_thw), num_columns), -1, dtype=torch.int32)
    columns_of_rows = torch.full((sum(q_thw), num_rows), -1, dtype=torch.int16)
    first_places, first_columns, first_rows = (
        tuple(accumulate(sizes, initial=0)) for sizes in (q_thw, widths, heights)
    )
    for axis in axes:
        index = index_table(q_thw[axis], k_thw[axis]).int()  # (places, columns) of this axis
        place = torch.arange(q_thw[axis])[:, None] + first_places[axis]
        column = torch.arange(k_thw[axis]) + first_columns[axis]
        row = index + first_rows[axis]
        rows_of_columns[place, column] = row
        columns_of_rows[place, row.long()] = column.to(torch.int16)
    on_device = rows_of_columns.to(device), columns_of_rows.to(device)
    return *on_device, first_columns[1:3], first_rows[1:3]
