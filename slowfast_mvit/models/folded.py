"""Attention with decomposed relative positions as one ordinary scaled-dot-product call.

The score of query i and key j is ``scale * q_i . k_j`` plus one offset for each axis, which depends
on the query and on the key's position along that axis. Let u_i be the offsets of query i, for every
position of every axis (kT + kH + kW numbers), and e_j the one-hot positions of key j, concatenated.
Then the offsets of the pair are u_i . e_j, and

    score(i, j)  =  [scale * q_i, u_i] . [k_j, e_j]

exactly. No (Lq, Lk) matrix is stored, and every fused attention kernel applies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from slowfast_mvit.models.tables import THW, one_hot_keys


def folded_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    offsets: Sequence[Tensor | None],
    k_thw: THW,
    num_prefix_tokens: int,
) -> Tensor:
    """softmax(scale * q k^T + offsets) v, with offsets for each axis.

    Args:
        q: (B, N, Lq, D).
        k: (B, N, Lk, D).
        v: (B, N, Lk, D).
        scale: factor of the products of q and k.
        offsets: for time, height and width, the offset of each query for each position along that
            axis, (B, N, Lq - num_prefix_tokens, kT or kH or kW), or None for an axis without.
        k_thw: the grid of the keys.
        num_prefix_tokens: leading queries and keys without offset.

    Returns:
        (B, N, Lq, D).
    """
    axes = tuple(axis for axis, offset in enumerate(offsets) if offset is not None)
    if not axes:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)

    head_dim = q.shape[-1]
    folded = torch.cat([offset for offset in offsets if offset is not None], dim=-1)
    extra = _up_to_multiple_of_8(head_dim + folded.shape[-1]) - head_dim
    folded = F.pad(folded, (0, extra - folded.shape[-1], num_prefix_tokens, 0))
    positions = one_hot_keys(k_thw, axes, num_prefix_tokens=num_prefix_tokens, width=extra, like=k)
    q = torch.cat([q * scale, folded], dim=-1)  # (B, N, Lq, D + extra)
    k = torch.cat([k, positions.expand(*k.shape[:2], -1, -1)], dim=-1)
    # Fused kernels need one width for all three.
    out = F.scaled_dot_product_attention(q, k, F.pad(v, (0, extra)), scale=1.0)
    return out[..., :head_dim]


def _up_to_multiple_of_8(width: int) -> int:
    return -(-width // 8) * 8
