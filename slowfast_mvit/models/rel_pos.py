"""Decomposed relative position of MViTv2 (https://arxiv.org/abs/2112.01526, section 4.1).

The score of a query and a key gets an offset for each axis: the product of the query with a learned
vector that depends on their distance along that axis. Three short tables, one each for time, height
and width, replace one over all three.

``joint_offsets`` is that one over all three, for comparison: it has more rows than a query has
keys, and all scores are written out.

Letters used in shapes: B batch, N heads, D head width; T, H, W the grid of the queries and
kT, kH, kW that of the keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from slowfast_mvit.models.tables import THW, gather_table, index_table

# For each axis: the queries, the rows for each query and key position, and the result.
_PRODUCTS = (
    "bnthwd,tkd->bnthwk",
    "bnthwd,hkd->bnthwk",
    "bnthwd,wkd->bnthwk",
)


def table_length(length: int, stride_q: int, stride_kv: int) -> int:
    """Rows of a table of height or width.

    Sizes are rounded down although pooling rounds up. On odd grids, such as those of MViTv2-L at
    312 pixels, the tables are therefore too short and are resampled in every forward pass; with
    longer ones the published weights would not load.
    """
    return 2 * max(length // stride_q, length // stride_kv, 1) - 1


def axis_offsets(
    q: Tensor, tables: Sequence[Tensor | None], q_thw: THW, k_thw: THW
) -> tuple[Tensor | None, ...]:
    """The offset of each query for each position of the keys along each axis.

    Args:
        q: pooled, unscaled queries of the grid, (B, N, T*H*W, D).
        tables: for time, height and width: (rows, D), or None for an axis without offsets.
        q_thw: the grid (T, H, W) of the queries.
        k_thw: the grid (kT, kH, kW) of the keys.

    Returns:
        For each axis (B, N, T*H*W, kT or kH or kW), or None.
    """
    grid = q.unflatten(2, q_thw)
    return tuple(
        None
        if table is None
        else torch.einsum(product, grid, gather_table(table, q_length, k_length)).flatten(2, 4)
        for table, product, q_length, k_length in zip(tables, _PRODUCTS, q_thw, k_thw, strict=True)
    )


def joint_offsets(q: Tensor, table: Tensor, q_thw: THW, k_thw: THW) -> Tensor:
    """The offset of each query for each key, from one table over all axes.

    Args:
        q: pooled, unscaled queries of the grid, (B, N, T*H*W, D).
        table: a row for each distance in time, height and width, (rows, rows, rows, D); resampled
            trilinearly if the grids need other numbers of rows.
        q_thw: the grid (T, H, W) of the queries.
        k_thw: the grid (kT, kH, kW) of the keys.

    Returns:
        (B, N, T*H*W, kT*kH*kW).
    """
    sizes = [2 * max(lengths) - 1 for lengths in zip(q_thw, k_thw, strict=True)]
    if list(table.shape[:3]) != sizes:
        volume = table.permute(3, 0, 1, 2).unsqueeze(0)  # (1, D, rows, rows, rows)
        table = F.interpolate(volume, size=sizes, mode="trilinear")[0].permute(1, 2, 3, 0)
    t, h, w = (index_table(*lengths) for lengths in zip(q_thw, k_thw, strict=True))
    rows = t[:, None, None, :, None, None] * sizes[1] + h[:, None, None, :, None]
    rows = rows * sizes[2] + w[:, None, None, :]  # (T, H, W, kT, kH, kW)
    rows = rows.flatten(3).flatten(0, 2).to(q.device)
    products = q @ table.flatten(0, 2).t()
    return products.gather(3, rows.expand(*q.shape[:2], -1, -1))
