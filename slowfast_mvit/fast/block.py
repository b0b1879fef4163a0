"""A block and a patch embedding that compute what their plain forms do, faster where a plan fits.

On a CPU a sample whose branch is dropped is not put through it, norms go with the projections and
the MLP after them, some tokens at a time. The last block of a model that classifies by its class
token attends for that token alone. The numbers are those of the plain forms.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast_mvit.fast.cpu import casting
from slowfast_mvit.fast.cpu.blockwise import blockwise_attention
from slowfast_mvit.fast.cpu.mlp import mlp_residual
from slowfast_mvit.fast.cpu.norm_linear import norm_linear
from slowfast_mvit.fast.cpu.pooled_attention import Source, pooled_attention
from slowfast_mvit.fast.cpu.pooling import pool_qkv, skip_pool
from slowfast_mvit.fast.cuda.attention import folded_attention_fused
from slowfast_mvit.fast.plan import Plan, emulates_bfloat16, plan_of
from slowfast_mvit.models.attention import MultiScaleAttention
from slowfast_mvit.models.blocks import MultiScaleBlock
from slowfast_mvit.models.layers import NORM_EPS, DropPath, PatchEmbed
from slowfast_mvit.models.tables import THW, gather_table


class FastPatchEmbed(PatchEmbed):
    """A patch embedding that multiplies in bfloat16 also where a CPU has no instructions for it."""

    def convolve(self, pixels: Tensor) -> Tensor:
        if not emulates_bfloat16(self.proj, pixels):
            return super().convolve(pixels)
        convolve = functools.partial(
            F.conv2d if self.for_images else F.conv3d,
            stride=self.proj.stride,
            padding=self.proj.padding,
        )
        return casting.emulated(convolve, pixels, self.proj.weight, self.proj.bias)


class FastBlock(MultiScaleBlock):
    """A ``MultiScaleBlock`` with the same parameters; ``fast.install`` makes it of one.

    Attributes:
        tokenwise_in_training: in training, too, tokens go through the linear layers some at a time.
        prefix_is_enough: the prefix tokens are all that is read of what this block gives; then it
            gives nothing else, where a plan fits.
    """

    tokenwise_in_training = True
    prefix_is_enough = False

    def forward(self, tokens: Tensor, thw: THW) -> tuple[Tensor, THW]:
        plan = plan_of(self, tokens, thw)
        if plan is None:
            return super().forward(tokens, thw)
        if plan.projects:
            tokens = self._add_attention_tokenwise(plan, tokens, thw)
        else:
            normed = self.norm1(tokens)
            skip = self.proj(normed) if self.spec.widens_in_attention else tokens
            attended = self._attend(plan, self.attn.qkv(normed), thw, None)
            tokens = self._pool_skip_fast(plan, skip, thw) + self.drop_path(attended)
        tokens = self._add_mlp_tokenwise(tokens) if plan.mlp else self.add_mlp(tokens)
        return tokens, plan.q_thw

    def _add_attention_tokenwise(self, plan: Plan, tokens: Tensor, thw: THW) -> Tensor:
        """``add_attention``: norms with the projections, and nothing for what is dropped."""
        widened = self.spec.widens_in_attention
        skip = _norm_linear(tokens, self.norm1, self.proj) if widened else tokens
        skip = self._pool_skip_fast(plan, skip, thw)
        kept, factors = _draw_kept(self.drop_path, tokens)
        tokens = tokens if kept is None else tokens.index_select(0, kept)
        qkv = _norm_linear(tokens, self.norm1, self.attn.qkv)
        attended = self._attend(plan, qkv, thw, _source_of(tokens, self.norm1, self.attn.qkv))
        if factors is not None:
            attended = attended * factors
        if kept is not None:
            return skip.index_add(0, kept, attended.to(skip.dtype))
        return skip + attended

    def _add_mlp_tokenwise(self, tokens: Tensor) -> Tensor:
        """``add_mlp``, all of it for some tokens before the next ones."""
        factors = None
        if self.drop_path.is_active:
            drawn = self.drop_path.draw(
                len(tokens), dtype=casting.compute_dtype(), device=tokens.device
            )
            factors = drawn.tolist()
        return mlp_residual(
            tokens,
            (self.norm2.weight, self.norm2.bias),
            (self.mlp.fc1.weight, self.mlp.fc1.bias),
            (self.mlp.fc2.weight, self.mlp.fc2.bias),
            eps=self.norm2.eps,
            factors=factors,
        )

    def _pool_skip_fast(self, plan: Plan, tokens: Tensor, thw: THW) -> Tensor:
        p, stride = self.spec.num_prefix_tokens, self.spec.stride_q
        if self.prefix_is_enough:
            return tokens[:, :p]
        if plan.skips and stride != (1, 1, 1):
            pooled: Tensor = skip_pool(tokens, thw, stride, p)[0]
            return pooled
        return self.pool_skip(tokens, thw)

    def _attend(self, plan: Plan, qkv: Tensor, thw: THW, source: Source | None) -> Tensor:
        """What ``attn`` gives, from what ``attn.qkv`` gave, (B, P + T*H*W, 3 * dim_att).

        With its ``source`` that need not be kept for the backward pass.
        """
        attn = self.attn
        qkv = attn.split_heads(qkv)
        if self.prefix_is_enough:
            out = _attend_by_prefix(attn, *_pool(attn, plan, qkv, thw))
        elif plan.pools_again:
            out = pooled_attention(
                qkv,
                _pool_parameters(attn),
                _gathered_tables(attn, plan),
                _pool_numbers(attn, thw),
                _attention_numbers(attn, plan),
                source,
            )
        else:
            q, k, v = _pool(attn, plan, qkv, thw)
            if plan.attention == "blockwise":
                tables, numbers = _gathered_tables(attn, plan), _attention_numbers(attn, plan)
                out = blockwise_attention(q, k, v, *tables, *numbers)[0]
            elif plan.attention == "fused":
                out = _attend_fused(attn, plan, q, k, v)
            else:
                out = attn.attend(q, k, v, plan.q_thw, plan.k_thw)
        out = out.flatten(2)
        if plan.emulates:
            projected = casting.emulated(F.linear, out, attn.proj.weight, attn.proj.bias)
        else:
            projected = attn.proj(out)
        return attn.dropout(projected)  # type: ignore[no-any-return]


def _norm_linear(tokens: Tensor, norm: nn.LayerNorm, layer: nn.Linear) -> Tensor:
    """layer(norm(tokens)), (B, L, K)."""
    return norm_linear(tokens, (norm.weight, norm.bias), (layer.weight, layer.bias), eps=norm.eps)


def _source_of(tokens: Tensor, norm: nn.LayerNorm, layer: nn.Linear) -> Source:
    """What ``_norm_linear`` gives its result for, to compute it again from."""
    return Source(tokens, (norm.weight, norm.bias), (layer.weight, layer.bias), norm.eps)


def _draw_kept(drop_path: DropPath, tokens: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Which clips of the batch keep their branch, and the factors of those branches.

    The mask is drawn on the CPU, so nothing has to be waited for to know it.

    Returns:
        Indices of the clips, None for all of them; and factors (kept, 1, 1), None for 1.
    """
    if not drop_path.is_active:
        return None, None
    factors = drop_path.draw(len(tokens), dtype=casting.compute_dtype(), device=tokens.device)
    kept = factors.nonzero().squeeze(1)
    return None if len(kept) == len(tokens) else kept, factors[kept].view(-1, 1, 1)


def _pool(
    attn: MultiScaleAttention, plan: Plan, qkv: Tensor, thw: THW
) -> tuple[Tensor, Tensor, Tensor]:
    if not plan.pools:
        return attn.pool(qkv, thw)[:3]
    parameters = _pool_parameters(attn)
    q, k, v = pool_qkv(
        qkv, parameters[:3], parameters[3:6], parameters[6:], *_pool_numbers(attn, thw)
    )
    return q, k, v


def _pool_parameters(attn: MultiScaleAttention) -> list[Tensor]:
    """Filters, norm weights and norm biases of queries, keys and values."""
    pools: list[Any] = [attn.pool_q, attn.pool_k, attn.pool_v]
    norms: list[Any] = [attn.norm_q, attn.norm_k, attn.norm_v]
    return [one.weight for one in (*pools, *norms)] + [norm.bias for norm in norms]


def _pool_numbers(attn: Any, thw: THW) -> tuple[Any, ...]:
    return thw, attn.pool_q.stride, attn.pool_k.stride, attn.num_prefix_tokens, NORM_EPS


def _add_queries_from(attn: MultiScaleAttention, num_queries: int) -> int:
    """The queries from this one on are added to the output."""
    return attn.num_without_residual if attn.residual_pooling else num_queries


def _attention_numbers(attn: MultiScaleAttention, plan: Plan) -> tuple[Any, ...]:
    t, h, w = plan.q_thw
    add_from = _add_queries_from(attn, attn.num_prefix_tokens + t * h * w)
    return plan.q_thw, plan.k_thw, attn.num_prefix_tokens, attn.scale, add_from


def _gathered_tables(attn: MultiScaleAttention, plan: Plan) -> list[Tensor | None]:
    """For each axis the row of its table for each query and key position, or None."""
    return [
        None if table is None else gather_table(table, q_length, k_length)
        for table, q_length, k_length in zip(attn.tables, plan.q_thw, plan.k_thw, strict=True)
    ]


def _attend_fused(attn: MultiScaleAttention, plan: Plan, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return folded_attention_fused(
        q,
        k,
        v,
        scale=attn.scale,
        tables=attn.tables,
        q_thw=plan.q_thw,
        k_thw=plan.k_thw,
        num_prefix_tokens=attn.num_prefix_tokens,
        residual=q if attn.residual_pooling else None,
        num_without_residual=attn.num_without_residual,
    )


def _attend_by_prefix(attn: MultiScaleAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The prefix tokens' rows of the output; they have no offsets, and are not pooled."""
    q = q[:, : attn.num_prefix_tokens]
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=attn.scale
    ).transpose(1, 2)
    if attn.residual_pooling and not attn.num_without_residual:
        out = out + q
    return _with_zero_gradients(out, *[table for table in attn.tables if table is not None])


def _with_zero_gradients(x: Tensor, *idle: Tensor) -> Tensor:
    """``x``, whose backward pass gives the ``idle`` parameters gradients of zero instead of none.

    Optimizers leave a parameter without a gradient as it is, and would not decay it; and several
    processes would wait for it.
    """
    out: Tensor = _WithZeroGradients.apply(x, *idle)
    return out


class _WithZeroGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *idle: Tensor) -> Tensor:
        ctx.save_for_backward(*idle)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *[torch.zeros_like(one) for one in ctx.saved_tensors]
