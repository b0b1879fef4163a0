"""Decomposed relative position of MViTv2 (https://arxiv.org/abs/2112.01526, section 4.1).

The score of a query and a key gets an offset for each axis: the product of the query with a learned
vector that depends on their distance along that axis. Three short tables, one each for time, height
and width, replace one over all three.

Letters used in shapes: B batch, N heads, D head width; T, H, W the grid of the queries and
kT, kH, kW that of the keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slowfast_mvit.models.tables import THW, gather_table

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
