"""Model, block and patch embedding with the results of their plain forms, faster where possible.

On a CPU a dropped branch is not computed for its sample, and norms are computed together with the
projections and the MLP after them, a block of tokens at a time. The last block of a model that
classifies by its class token attends for that token only, where nothing else sees the others.
"""

from __future__ import annotations

import math
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
from slowfast_mvit.fast.plan import Plan, class_token_is_enough, emulates_bfloat16, plan_of
from slowfast_mvit.models import Backbone, MViT
from slowfast_mvit.models.attention import MultiScaleAttention
from slowfast_mvit.models.blocks import MultiScaleBlock
from slowfast_mvit.models.layers import NORM_EPS, DropPath, PatchEmbed
from slowfast_mvit.models.tables import THW, gather_table
from slowfast_mvit.models.windows import join_windows


class FastMViT(MViT):
    """An ``MViT`` with the same parameters; ``fast.install`` sets this class."""

    def forward(self, pixels: Tensor) -> Tensor:
        if not class_token_is_enough(self, FastBlock):
            return super().forward(pixels)
        tokens, _ = self.run_blocks(pixels, prefix_only=True)
        return self.forward_head(self.norm(tokens))

    def set_grad_checkpointing(self, enable: bool | str = True) -> None:
        super().set_grad_checkpointing(enable)
        block: Any
        for block in self.blocks:
            # Selective checkpointing saves the results of single linear layers.
            block.tokenwise_in_training = enable != "selective"


class FastBackbone(Backbone, FastMViT):  # type: ignore[misc]
    """A ``Backbone`` with the same parameters; ``fast.install`` sets this class."""


class FastPatchEmbed(PatchEmbed):
    """A patch embedding that emulates bfloat16 on CPUs without instructions for it."""

    def convolve(self, pixels: Tensor) -> Tensor:
        if not emulates_bfloat16(self.proj, pixels):
            return super().convolve(pixels)
        convolve = self.proj._conv_forward
        return casting.emulated(convolve, pixels, self.proj.weight, self.proj.bias)


class FastBlock(MultiScaleBlock):
    """A ``MultiScaleBlock`` with the same parameters; ``fast.install`` sets this class.

    Attributes:
        tokenwise_in_training: linear layers run by blocks of tokens in training too.
    """

    tokenwise_in_training = True

    def forward(self, tokens: Tensor, thw: THW, *, prefix_only: bool = False) -> tuple[Tensor, THW]:
        """Run the block.

        Args:
            tokens: (B, P + T*H*W, dim).
            thw: the grid (T, H, W) of those tokens.
            prefix_only: return the prefix tokens only, where a plan fits.
        """
        plan = plan_of(self, tokens, thw, prefix_only=prefix_only)
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
        """``add_attention`` by blocks of tokens, without the dropped branches."""
        widened = self.spec.widens_in_attention
        skip = norm_linear(*_source(tokens, self.norm1, self.proj)) if widened else tokens
        skip = self._pool_skip_fast(plan, skip, thw)
        kept, factors = _draw_kept(self.drop_path, tokens)
        tokens = tokens if kept is None else tokens.index_select(0, kept)
        source = _source(tokens, self.norm1, self.attn.qkv)
        attended = self._attend(plan, norm_linear(*source), thw, source)
        if factors is not None:
            attended = attended * factors
        if kept is not None:
            return skip.index_add(0, kept, attended.to(skip.dtype))
        return skip + attended

    def _add_mlp_tokenwise(self, tokens: Tensor) -> Tensor:
        """``add_mlp``, by blocks of tokens."""
        drawn = _draw_factors(self.drop_path, tokens)
        factors = None if drawn is None else drawn.tolist()
        layers: list[Any] = [self.norm2, self.mlp.fc1, self.mlp.fc2]
        norm, first, second = ((layer.weight, layer.bias) for layer in layers)
        return mlp_residual(tokens, norm, first, second, eps=self.norm2.eps, factors=factors)

    def _pool_skip_fast(self, plan: Plan, tokens: Tensor, thw: THW) -> Tensor:
        p, stride = self.spec.num_prefix_tokens, self.spec.stride_q
        if plan.prefix_only:
            return tokens[:, :p]
        if plan.skips and stride != (1, 1, 1):
            pooled: Tensor = skip_pool(tokens, thw, stride, p)[0]
            return pooled
        return self.pool_skip(tokens, thw)

    def _attend(self, plan: Plan, qkv: Tensor, thw: THW, source: Source | None) -> Tensor:
        """Return the output of ``attn`` for that of ``attn.qkv``, (B, P + T*H*W, 3 * dim_att).

        With a ``source``, qkv need not be saved for the backward pass.
        """
        attn = self.attn
        qkv = attn.split_heads(qkv)
        if plan.prefix_only:
            out = _attend_by_prefix(attn, *_pool(attn, plan, qkv, thw))
        elif plan.pools_again:
            arguments = *_pool_arguments(attn, thw), *_attention_arguments(attn, plan)
            windows = (plan.q_thw, attn.window_q), (plan.k_thw, attn.window_kv)
            out = pooled_attention(qkv, *arguments, source, windows)
        else:
            q, k, v = attn.cut(*_pool(attn, plan, qkv, thw), plan.q_thw, plan.k_thw)
            if plan.attention == "blockwise":
                tables, numbers = _attention_arguments(attn, plan)
                out = blockwise_attention(q, k, v, *tables, *numbers)[0]
            elif plan.attention == "fused":
                out = folded_attention_fused(
                    q,
                    k,
                    v,
                    scale=attn.scale,
                    tables=attn.tables,
                    q_thw=plan.q_in_window,
                    k_thw=plan.k_in_window,
                    num_prefix_tokens=attn.num_prefix_tokens,
                    residual=q if attn.residual_pooling else None,
                    num_without_residual=attn.num_without_residual,
                )
            else:
                out = attn.attend(q, k, v, plan.q_in_window, plan.k_in_window)
            out = join_windows(out, plan.q_thw, attn.window_q)
        out = out.flatten(2)
        if plan.emulates:
            projected = casting.emulated(F.linear, out, attn.proj.weight, attn.proj.bias)
        else:
            projected = attn.proj(out)
        return attn.dropout(projected)  # type: ignore[no-any-return]


def _source(tokens: Tensor, norm: nn.LayerNorm, layer: nn.Linear) -> Source:
    """The inputs of layer(norm(tokens))."""
    return tokens, (norm.weight, norm.bias), (layer.weight, layer.bias), norm.eps


def _draw_factors(drop_path: DropPath, tokens: Tensor) -> Tensor | None:
    """The factor of the branch of each clip, (B,); None for 1."""
    if not drop_path.is_active:
        return None
    return drop_path.draw(len(tokens), dtype=casting.compute_dtype(), device=tokens.device)


def _draw_kept(drop_path: DropPath, tokens: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The clips of the batch whose branch is kept, and the factors of those branches.

    The mask is drawn on the CPU, so reading it waits for no device.

    Returns:
        Indices of the clips, None for all of them; and factors (kept, 1, 1), None for 1.
    """
    factors = _draw_factors(drop_path, tokens)
    if factors is None:
        return None, None
    kept = factors.nonzero().squeeze(1)
    return None if len(kept) == len(tokens) else kept, factors[kept].view(-1, 1, 1)


def _pool(
    attn: MultiScaleAttention, plan: Plan, qkv: Tensor, thw: THW
) -> tuple[Tensor, Tensor, Tensor]:
    if not plan.pools:
        return attn.pool(qkv, thw)[:3]
    parameters, numbers = _pool_arguments(attn, thw)
    q, k, v = pool_qkv(qkv, parameters[:3], parameters[3:6], parameters[6:], *numbers)
    return q, k, v


def _pool_arguments(attn: Any, thw: THW) -> tuple[list[Tensor], tuple[Any, ...]]:
    """Filters, norm weights and norm biases of q, k and v, and the numbers of ``pool_qkv``."""
    pools, norms = (attn.pool_q, attn.pool_k, attn.pool_v), (attn.norm_q, attn.norm_k, attn.norm_v)
    parameters = [one.weight for one in (*pools, *norms)] + [norm.bias for norm in norms]
    strides = attn.pool_q.stride, attn.pool_k.stride
    return parameters, (thw, *strides, attn.num_prefix_tokens, NORM_EPS)


def _attention_arguments(
    attn: MultiScaleAttention, plan: Plan
) -> tuple[list[Tensor | None], tuple[Any, ...]]:
    """For each axis the row of its table for each query and key position, or None; and numbers."""
    tables = [
        None if table is None else gather_table(table, q_length, k_length)
        for table, q_length, k_length in zip(
            attn.tables, plan.q_in_window, plan.k_in_window, strict=True
        )
    ]
    num_queries = attn.num_prefix_tokens + math.prod(plan.q_in_window)
    add_from = attn.num_without_residual if attn.residual_pooling else num_queries
    grids = plan.q_in_window, plan.k_in_window
    return tables, (*grids, attn.num_prefix_tokens, attn.scale, add_from)


def _attend_by_prefix(attn: MultiScaleAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The output for the prefix tokens, which have no offsets and are not pooled."""
    q = q[:, : attn.num_prefix_tokens]
    out: Tensor = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=attn.scale
    ).transpose(1, 2)
    if attn.residual_pooling and not attn.num_without_residual:
        out = out + q
    tables = [table for table in attn.tables if table is not None]
    out = _WithZeroGradients.apply(out, *tables)
    return out


class _WithZeroGradients(torch.autograd.Function):
    """``x``, whose backward pass gives the ``idle`` parameters gradients of zero instead of none.

    Optimizers skip a parameter without a gradient, its weight decay included, and several processes
    would wait for it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *idle: Tensor) -> Tensor:
        ctx.save_for_backward(*idle)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *[torch.zeros_like(one) for one in ctx.saved_tensors]
