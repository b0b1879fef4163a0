"""Pooling attention of MViTv2 (https://arxiv.org/abs/2112.01526, section 4.1).

Letters used in shapes, here and in the comments below:
    B batch   N heads   D head width   P prefix tokens (0, or 1 for the class token)
    T, H, W token grid in time, height, width       L = P + T * H * W
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast_mvit.errors import pick
from slowfast_mvit.models.folded import folded_attention
from slowfast_mvit.models.layers import NORM_EPS, with_prefix
from slowfast_mvit.models.pooling import HeadPool
from slowfast_mvit.models.rel_pos import axis_offsets, joint_offsets, table_length
from slowfast_mvit.models.specs import BlockSpec
from slowfast_mvit.models.tables import THW
from slowfast_mvit.models.windows import cut_windows, grid_in_window, join_windows


def plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    offsets: Sequence[Tensor | None],
    k_thw: THW,
    num_prefix_tokens: int,
) -> Tensor:
    """softmax(scale * q k^T + offsets) v, with every score written out.

    The form to read, to count FLOPs on, and to compare ``folded_attention`` with; the
    arguments and the result are described there. After those of the axes, the offsets of each pair
    of a query and a key may follow.
    """
    p = num_prefix_tokens
    scores = (q * scale) @ k.transpose(-2, -1)  # (B, N, Lq, Lk)
    for axis, offset in enumerate(offsets):
        if offset is not None:
            if axis < 3:
                along_axis = [-1 if other == axis else 1 for other in range(3)]
                offset = offset.unflatten(3, along_axis).expand(-1, -1, -1, *k_thw).flatten(3)
            scores = scores + F.pad(offset, (p, 0, p, 0))
    return scores.softmax(dim=-1) @ v  # (B, N, Lq, D)


ATTENTIONS: dict[str, Callable[..., Tensor]] = {
    "folded": folded_attention,
    "plain": plain_attention,
}


class MultiScaleAttention(nn.Module):
    """Multi-head attention over a space-time token grid that pools queries, keys and values.

        tokens -> qkv --+-- pool_q -> norm_q --+--> scores -> softmax -> (+ pooled q) -> proj
                        +-- pool_k -> norm_k --+      ^
                        +-- pool_v -> norm_v          |
                                        rel_pos_t + rel_pos_h + rel_pos_w

    1. each head pools its queries, keys and values with a strided depthwise convolution;
    2. the score of a query and a key gets a learned offset for each axis: three short tables,
       one each for time, height and width, instead of one over all three; the offsets come from
       the pooled query before it is scaled;
    3. the pooled query is added back to the output (residual pooling).

    The class token, if any, is neither pooled nor offset, but it passes the three norms. It gets no
    residual either in PySlowFast's models; it does in the image models of facebookresearch/mvit.

    With windows (section 4.2), the pooled grids are cut into windows before the scores: pooling
    sees the tokens across their borders, and relative positions are those within a window. The
    zeros that fill the last windows are keys like others, as in detectron2: their score is their
    offset, and their value is zero.

    Args:
        spec: of the block it belongs to; widens from ``dim`` to ``dim_att``.
        attention: "folded" or "plain", the same function computed in two ways.

    Raises:
        ConfigError: if there is no such ``attention``.

    Source: parameter names and table sizes (rounded down) are those of PySlowFast's module of this
    name, so its published weights load unchanged. Compared with torchvision's in
    ``tests/models/test_against_torchvision.py``.
    """

    def __init__(self, spec: BlockSpec, *, attention: str = "folded") -> None:
        super().__init__()
        head_dim = spec.head_dim
        self.num_heads = spec.num_heads
        self.scale = 1.0 / math.sqrt(head_dim)
        self.num_prefix_tokens = spec.num_prefix_tokens
        self.residual_pooling = spec.residual_pooling
        self.num_without_residual = 0 if spec.residual_cls_token else spec.num_prefix_tokens
        self.scaled_dot_product = pick(ATTENTIONS, attention, "attention")

        (t, h, w), stride_q, stride_kv = spec.input_thw, spec.stride_q, spec.stride_kv
        self.rel_pos_h = self.rel_pos_w = self.rel_pos_t = None
        if spec.rel_pos_spatial:
            self.rel_pos_h = _table(table_length(h, stride_q[1], stride_kv[1]), head_dim)
            self.rel_pos_w = _table(table_length(w, stride_q[2], stride_kv[2]), head_dim)
        if spec.rel_pos_temporal:
            self.rel_pos_t = _table(table_length(t, 1, 1), head_dim)
        self.rel_pos_joint = None
        if spec.rel_pos_joint:
            lengths = zip(spec.input_thw, (1, *stride_q[1:]), (1, *stride_kv[1:]), strict=True)
            self.rel_pos_joint = _table(*[table_length(*axis) for axis in lengths], head_dim)
            self.scaled_dot_product = plain_attention
        self.window_q = self.window_kv = None
        if spec.window:
            self.window_q = spec.window // stride_q[1], spec.window // stride_q[2]
            self.window_kv = spec.window // stride_kv[1], spec.window // stride_kv[2]

        self.qkv = nn.Linear(spec.dim, 3 * spec.dim_att, bias=spec.qkv_bias)
        self.proj = nn.Linear(spec.dim_att, spec.dim_att)
        self.dropout = nn.Dropout(spec.dropout)
        self.pool_q, self.norm_q = _pool_and_norm(head_dim, spec.kernel_q, stride_q)
        self.pool_k, self.norm_k = _pool_and_norm(head_dim, spec.kernel_kv, stride_kv)
        self.pool_v, self.norm_v = _pool_and_norm(head_dim, spec.kernel_kv, stride_kv)

    @property
    def tables(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The relative positions of time, height and width, (rows, D) each, or None."""
        return self.rel_pos_t, self.rel_pos_h, self.rel_pos_w

    def forward(self, tokens: Tensor, thw: THW) -> tuple[Tensor, THW]:
        """Attend and pool.

        Args:
            tokens: (B, P + T*H*W, dim), the grid in row-major order, time slowest.
            thw: the grid (T, H, W) of those tokens.

        Returns:
            The tokens (B, P + T'*H'*W', dim_out) and their grid (T', H', W').
        """
        qkv = self.split_heads(self.qkv(tokens))  # (B, L, 3, N, D)
        q, k, v, q_thw, k_thw = self.pool(qkv, thw)
        windows = self.cut(q, k, v, q_thw, k_thw)
        out = self.attend(*windows, *self.grids_in_window(q_thw, k_thw))
        out = join_windows(out, q_thw, self.window_q)  # (B, Lq, N, D)
        return self.dropout(self.proj(out.flatten(2))), q_thw

    def split_heads(self, qkv: Tensor) -> Tensor:
        """Return the output of ``self.qkv``, (B, L, 3*N*D), as (B, L, 3, N, D)."""
        return qkv.unflatten(-1, (3, self.num_heads, -1))  # type: ignore[no-any-return]

    def pool(self, qkv: Tensor, thw: THW) -> tuple[Tensor, Tensor, Tensor, THW, THW]:
        """Pool and normalise queries, keys and values (B, L, 3, N, D); with their grids."""
        q, k, v = qkv.unbind(2)  # 3 x (B, L, N, D)
        q, q_thw = self._pool_one(q, thw, self.pool_q, self.norm_q)
        k, k_thw = self._pool_one(k, thw, self.pool_k, self.norm_k)
        v, _ = self._pool_one(v, thw, self.pool_v, self.norm_v)
        return q, k, v, q_thw, k_thw

    def cut(
        self, q: Tensor, k: Tensor, v: Tensor, q_thw: THW, k_thw: THW
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cut pooled queries, keys and values into windows, a larger batch; or not at all."""
        k, v = (cut_windows(one, k_thw, self.window_kv) for one in (k, v))
        return cut_windows(q, q_thw, self.window_q), k, v

    def grids_in_window(self, q_thw: THW, k_thw: THW) -> tuple[THW, THW]:
        """The grids of the queries and keys of a window, or the whole ones without windows."""
        return grid_in_window(q_thw, self.window_q), grid_in_window(k_thw, self.window_kv)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, q_thw: THW, k_thw: THW) -> Tensor:
        """Attention with the offsets of the tables, and the pooled queries added to it.

        Args:
            q: (B, Lq, N, D), a window being a sample.
            k: (B, Lk, N, D).
            v: (B, Lk, N, D).
            q_thw: the grid of the queries, of a window where there are windows.
            k_thw: the grid of the keys, likewise.

        Returns:
            (B, Lq, N, D).
        """
        p = self.num_prefix_tokens
        patches = q[:, p:].transpose(1, 2)  # (B, N, T*H*W, D)
        offsets = axis_offsets(patches, self.tables, q_thw, k_thw)
        if self.rel_pos_joint is not None:
            offsets = (*offsets, joint_offsets(patches, self.rel_pos_joint, q_thw, k_thw))
        out = self.scaled_dot_product(
            q.transpose(1, 2),  # (B, N, Lq, D)
            k.transpose(1, 2),
            v.transpose(1, 2),
            scale=self.scale,
            offsets=offsets,
            k_thw=k_thw,
            num_prefix_tokens=p,
        ).transpose(1, 2)  # (B, Lq, N, D)
        if not self.residual_pooling:
            return out
        bare = self.num_without_residual
        return with_prefix(out[:, :bare], out[:, bare:] + q[:, bare:])

    def _pool_one(
        self, heads: Tensor, thw: THW, pool: HeadPool | None, norm: nn.LayerNorm | None
    ) -> tuple[Tensor, THW]:
        """Pool the tokens of the grid, (B, L, N, D), and normalise them and the prefix."""
        if pool is None or norm is None:
            return heads, thw
        p = self.num_prefix_tokens
        patches, thw = pool(heads[:, p:], thw)
        return norm(with_prefix(heads[:, :p], patches)), thw


def _table(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


def _pool_and_norm(
    head_dim: int, kernel: THW | None, stride: THW
) -> tuple[HeadPool | None, nn.LayerNorm | None]:
    """A pooling and the norm after it; or neither."""
    if kernel is None:
        return None, None
    return HeadPool(head_dim, kernel, stride), nn.LayerNorm(head_dim, eps=NORM_EPS)
