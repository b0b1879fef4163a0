"""Pooling attention of MViTv2 (https://arxiv.org/abs/2112.01526, section 4.1).

Letters used in shapes, here and in the comments below:
    B batch   N heads   D head width   P prefix tokens (0, or 1 for the class token)
    T, H, W token grid in time, height, width       L = P + T * H * W
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast_mvit.errors import pick
from slowfast_mvit.kernels import THW, depthwise_pool, folded_attention, gather_table
from slowfast_mvit.kernels.blockwise import blockwise_attention, can_attend
from slowfast_mvit.kernels.pool_qkv import can_pool, pool_qkv
from slowfast_mvit.kernels.pooled_attention import Source, pooled_attention
from slowfast_mvit.kernels.pooling import pooled_thw
from slowfast_mvit.kernels.triton_attention import folded_attention_fused
from slowfast_mvit.models.fast import apply_linear, has_hooks, is_bare_norm, keeps_little
from slowfast_mvit.models.layers import NORM_EPS, with_prefix, with_zero_gradients
from slowfast_mvit.models.rel_pos import axis_offsets, table_length


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

    The form to read, to count FLOPs on, and to compare ``kernels.folded_attention`` with; the
    arguments and the result are described there.
    """
    p = num_prefix_tokens
    scores = (q * scale) @ k.transpose(-2, -1)  # (B, N, Lq, Lk)
    for axis, offset in enumerate(offsets):
        if offset is not None:
            along_axis = [-1 if other == axis else 1 for other in range(3)]
            grid = offset.unflatten(3, along_axis).expand(-1, -1, -1, *k_thw)
            scores = scores + F.pad(grid.flatten(3), (p, 0, p, 0))
    return scores.softmax(dim=-1) @ v  # (B, N, Lq, D)


def with_offsets(
    attend: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: Sequence[Tensor | None],
    *,
    scale: float,
    q_thw: THW,
    k_thw: THW,
    num_prefix_tokens: int,
    add_queries_from: int,
) -> Tensor:
    """``attend`` with the offsets that the tables give, and the pooled queries added to it.

    Args:
        attend: ``plain_attention`` or ``folded_attention``.
        q: (B, Lq, N, D).
        k: (B, Lk, N, D).
        v: (B, Lk, N, D).
        tables: of time, height and width, (rows, D) each, or None.
        scale: factor of the products of q and k.
        q_thw: the grid of the queries.
        k_thw: the grid of the keys.
        num_prefix_tokens: P.
        add_queries_from: the queries from this one on are added to the output; Lq for none.

    Returns:
        (B, Lq, N, D).
    """
    out = attend(
        q.transpose(1, 2),  # (B, N, Lq, D)
        k.transpose(1, 2),
        v.transpose(1, 2),
        scale=scale,
        offsets=axis_offsets(q[:, num_prefix_tokens:].transpose(1, 2), tables, q_thw, k_thw),
        k_thw=k_thw,
        num_prefix_tokens=num_prefix_tokens,
    ).transpose(1, 2)  # (B, Lq, N, D)
    bare = add_queries_from
    return with_prefix(out[:, :bare], out[:, bare:] + q[:, bare:]) if bare < q.shape[1] else out


def fast_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: Sequence[Tensor | None],
    *,
    scale: float,
    q_thw: THW,
    k_thw: THW,
    num_prefix_tokens: int,
    add_queries_from: int,
) -> Tensor:
    """The same function as ``with_offsets``, in the way that is fastest for these tensors."""
    if q.device.type == "cuda":
        return folded_attention_fused(
            q,
            k,
            v,
            scale=scale,
            tables=tables,
            q_thw=q_thw,
            k_thw=k_thw,
            num_prefix_tokens=num_prefix_tokens,
            residual=q if add_queries_from < q.shape[1] else None,
            num_without_residual=add_queries_from,
        )
    if can_attend(q, k_thw):
        gathered = gather_tables(tables, q_thw, k_thw)
        out: Tensor = blockwise_attention(
            q, k, v, *gathered, q_thw, k_thw, num_prefix_tokens, scale, add_queries_from
        )[0]
        return out
    return with_offsets(
        folded_attention,
        q,
        k,
        v,
        tables,
        scale=scale,
        q_thw=q_thw,
        k_thw=k_thw,
        num_prefix_tokens=num_prefix_tokens,
        add_queries_from=add_queries_from,
    )


def gather_tables(tables: Sequence[Tensor | None], q_thw: THW, k_thw: THW) -> list[Tensor | None]:
    """For each axis the row of its table for each query and key position, or None."""
    return [
        None if table is None else gather_table(table, q_length, k_length)
        for table, q_length, k_length in zip(tables, q_thw, k_thw, strict=True)
    ]


ATTENTIONS: dict[str, Callable[..., Tensor]] = {
    "fast": fast_attention,
    "folded": partial(with_offsets, folded_attention),
    "plain": partial(with_offsets, plain_attention),
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

    Args:
        dim: width of the tokens that come in.
        dim_out: width of the tokens that go out; a multiple of ``num_heads``.
        num_heads: number of heads.
        input_thw: token grid (frames, rows, columns) this block sees at the training resolution. It
            sizes the tables only; another grid at run time resamples them.
        kernel_q: query pooling kernel per axis, in tokens; None leaves queries as they are, without
            a norm.
        stride_q: query pooling stride per axis; the output grid shrinks by it.
        kernel_kv: key and value pooling kernel per axis, or None as above.
        stride_kv: key and value pooling stride per axis; changes the cost, not the output grid.
        num_prefix_tokens: 1 with a class token, 0 without.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        rel_pos_spatial: offsets for height and width.
        rel_pos_temporal: offsets for time.
        residual_pooling: step 3.
        residual_cls_token: step 3 for the class token, too.
        dropout: rate of the dropout after ``proj``.
        attention: "fast", "folded" or "plain", the same function computed in three ways.

    Raises:
        ValueError: if ``dim_out`` is not a multiple of ``num_heads``.
        ConfigError: if there is no such ``attention``.

    Source: parameter names and table sizes (rounded down) are those of PySlowFast's module of this
    name, so its published weights load unchanged. Compared with torchvision's in
    ``tests/models/test_against_torchvision.py``.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        *,
        num_heads: int,
        input_thw: THW,
        kernel_q: THW | None = (3, 3, 3),
        stride_q: THW = (1, 1, 1),
        kernel_kv: THW | None = (3, 3, 3),
        stride_kv: THW = (1, 1, 1),
        num_prefix_tokens: int = 1,
        qkv_bias: bool = True,
        rel_pos_spatial: bool = True,
        rel_pos_temporal: bool = True,
        residual_pooling: bool = True,
        residual_cls_token: bool = False,
        dropout: float = 0.0,
        attention: str = "fast",
    ) -> None:
        super().__init__()
        if dim_out % num_heads:
            raise ValueError(f"dim_out ({dim_out}) must be a multiple of num_heads ({num_heads})")
        head_dim = dim_out // num_heads
        self.num_heads = num_heads
        self.scale = 1.0 / math.sqrt(head_dim)
        self.num_prefix_tokens = num_prefix_tokens
        self.residual_pooling = residual_pooling
        self.num_without_residual = 0 if residual_cls_token else num_prefix_tokens
        self.attend = pick(ATTENTIONS, attention, "attention")
        self.pools_fast = attention == "fast"

        t, h, w = input_thw
        self.rel_pos_h = self.rel_pos_w = self.rel_pos_t = None
        if rel_pos_spatial:
            self.rel_pos_h = _table(table_length(h, stride_q[1], stride_kv[1]), head_dim)
            self.rel_pos_w = _table(table_length(w, stride_q[2], stride_kv[2]), head_dim)
        if rel_pos_temporal:
            self.rel_pos_t = _table(table_length(t, 1, 1), head_dim)

        self.qkv = nn.Linear(dim, 3 * dim_out, bias=qkv_bias)
        self.proj = nn.Linear(dim_out, dim_out)
        self.dropout = nn.Dropout(dropout)
        self.pool_q, self.norm_q = _pool_and_norm(head_dim, kernel_q, stride_q)
        self.pool_k, self.norm_k = _pool_and_norm(head_dim, kernel_kv, stride_kv)
        self.pool_v, self.norm_v = _pool_and_norm(head_dim, kernel_kv, stride_kv)

    def forward(self, tokens: Tensor, thw: THW, *, only_prefix: bool = False) -> tuple[Tensor, THW]:
        """Attend and pool.

        Args:
            tokens: (B, P + T*H*W, dim), the grid in row-major order, time slowest.
            thw: the grid (T, H, W) of those tokens.
            only_prefix: compute nothing but the prefix tokens that go out.

        Returns:
            The tokens (B, P + T'*H'*W', dim_out) and their grid (T', H', W'); with
            ``only_prefix`` the tokens (B, P, dim_out) of that grid.
        """
        return self.attend_projected(self.qkv(tokens), thw, only_prefix=only_prefix)

    def attend_projected(
        self, qkv: Tensor, thw: THW, *, only_prefix: bool = False, source: Source | None = None
    ) -> tuple[Tensor, THW]:
        """``forward`` from what ``self.qkv`` gives, (B, P + T*H*W, 3 * dim_out), on.

        With its ``source`` it need not be kept for the backward pass.
        """
        qkv = qkv.unflatten(-1, (3, self.num_heads, -1))  # (B, L, 3, N, D)
        if only_prefix:
            return self._attend_by_prefix(qkv, thw)
        if self.pools_fast and keeps_little(qkv):
            fused = self._pool_and_attend(qkv, thw, source)
            if fused is not None:
                return fused
        q, k, v, q_thw, k_thw = self._pool(qkv, thw)
        out = self.attend(
            q,
            k,
            v,
            (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w),
            scale=self.scale,
            q_thw=q_thw,
            k_thw=k_thw,
            num_prefix_tokens=self.num_prefix_tokens,
            add_queries_from=self._add_queries_from(q.shape[1]),
        )  # (B, Lq, N, D)
        return self._project(out), q_thw

    def _project(self, out: Tensor) -> Tensor:
        return self.dropout(apply_linear(self.proj, out.flatten(2)))  # type: ignore[no-any-return]

    def _add_queries_from(self, num_queries: int) -> int:
        return self.num_without_residual if self.residual_pooling else num_queries

    def _attend_by_prefix(self, qkv: Tensor, thw: THW) -> tuple[Tensor, THW]:
        """The prefix tokens' rows of the output; they have no offsets, and are not pooled."""
        q, k, v, q_thw, _ = self._pool(qkv, thw)
        q = q[:, : self.num_prefix_tokens]
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=self.scale
        ).transpose(1, 2)
        if self.residual_pooling and not self.num_without_residual:
            out = out + q
        tables = [self.rel_pos_t, self.rel_pos_h, self.rel_pos_w]
        out = with_zero_gradients(out, *[table for table in tables if table is not None])
        return self._project(out), q_thw

    def _pool_and_attend(
        self, qkv: Tensor, thw: THW, source: Source | None
    ) -> tuple[Tensor, THW] | None:
        """The same in one step of the backward pass, which pools again; None where it cannot."""
        fast = self._fast_pooling(qkv, thw)
        if fast is None:
            return None
        parameters, numbers, q_thw, k_thw = fast
        if not can_attend(qkv[:, : self.num_prefix_tokens + math.prod(q_thw), 0], k_thw):
            return None
        tables = (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w)
        p = self.num_prefix_tokens
        add_from = self._add_queries_from(p + math.prod(q_thw))
        out = pooled_attention(
            qkv,
            parameters,
            gather_tables(tables, q_thw, k_thw),
            numbers,
            (q_thw, k_thw, p, self.scale, add_from),
            source,
        )
        return self._project(out), q_thw

    def _fast_pooling(
        self, qkv: Tensor, thw: THW
    ) -> tuple[list[Tensor], tuple[Any, ...], THW, THW] | None:
        """What ``pool_qkv`` takes beside qkv, and the grids it gives; None where it cannot."""
        pools = [pool for pool in (self.pool_q, self.pool_k, self.pool_v) if pool is not None]
        norms = [norm for norm in (self.norm_q, self.norm_k, self.norm_v) if norm is not None]
        weights = [pool.weight for pool in pools]
        if (
            not self.pools_fast
            or len(pools) != 3
            or any(map(has_hooks, pools))
            or not all(map(is_bare_norm, norms))
            or not can_pool(qkv, weights)
        ):
            return None
        q_thw, k_thw = (pooled_thw(thw, pool.kernel_size, pool.stride) for pool in pools[:2])
        parameters = [*weights, *[norm.weight for norm in norms], *[norm.bias for norm in norms]]
        strides = [pool.stride for pool in pools[:2]]
        return parameters, (thw, *strides, self.num_prefix_tokens, NORM_EPS), q_thw, k_thw

    def _pool(self, qkv: Tensor, thw: THW) -> tuple[Tensor, Tensor, Tensor, THW, THW]:
        """Pool and normalise queries, keys and values (B, L, 3, N, D); with their grids."""
        fast = self._fast_pooling(qkv, thw)
        if fast is not None:
            parameters, numbers, q_thw, k_thw = fast
            q, k, v = pool_qkv(qkv, parameters[:3], parameters[3:6], parameters[6:], *numbers)
            return q, k, v, q_thw, k_thw
        q, k, v = qkv.unbind(2)  # 3 x (B, L, N, D)
        q, q_thw = self._pool_one(q, thw, self.pool_q, self.norm_q)
        k, k_thw = self._pool_one(k, thw, self.pool_k, self.norm_k)
        v, _ = self._pool_one(v, thw, self.pool_v, self.norm_v)
        return q, k, v, q_thw, k_thw

    def _pool_one(
        self, heads: Tensor, thw: THW, pool: nn.Conv3d | None, norm: nn.LayerNorm | None
    ) -> tuple[Tensor, THW]:
        """Pool the tokens of the grid, (B, L, N, D), and normalise them and the prefix."""
        if pool is None or norm is None:
            return heads, thw
        p = self.num_prefix_tokens
        patches, thw = depthwise_pool(heads[:, p:], thw, pool.weight, pool.stride)
        return norm(with_prefix(heads[:, :p], patches)), thw


def _table(length: int, head_dim: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(length, head_dim), std=0.02))


def _pool_and_norm(
    head_dim: int, kernel: THW | None, stride: THW
) -> tuple[nn.Conv3d | None, nn.LayerNorm | None]:
    """A depthwise convolution, shared by the heads, and the norm after it; or neither."""
    if kernel is None:
        return None, None
    pool = nn.Conv3d(head_dim, head_dim, kernel, stride, groups=head_dim, bias=False)
    return pool, nn.LayerNorm(head_dim, eps=NORM_EPS)
