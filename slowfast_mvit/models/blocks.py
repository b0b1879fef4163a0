"""One block of an MViT: pooling attention, then an MLP, each beside a skip path.

Letters used in shapes:
    B batch   P prefix tokens (0, or 1 for the class token)   T, H, W token grid
"""

from __future__ import annotations

from torch import Tensor, nn

from slowfast_mvit.kernels import THW, max_pool
from slowfast_mvit.kernels.skip_pool import can_skip_pool, skip_pool
from slowfast_mvit.models.attention import MultiScaleAttention
from slowfast_mvit.models.fast import (
    attention_is_fast,
    draw_kept,
    fast_mlp_residual,
    fast_norm_linear,
    mlp_is_fast,
    source_of,
)
from slowfast_mvit.models.layers import NORM_EPS, DropPath, Mlp, with_prefix
from slowfast_mvit.models.specs import BlockSpec


class MultiScaleBlock(nn.Module):
    """Pooling attention and an MLP; the skip path is pooled and widened along with them.

        tokens -+- norm1 -+- attn ----------- drop_path -+-> + -+- norm2 -+- mlp - drop_path -+-> +
                |         |                              |      |         |                   |
                |         +- proj (wider here) -+        |      |         +- proj (wider here)+
                +-----------------------(or)----+- max --+      +-----------------------(or)--+

    A block that widens its tokens does so either in the attention (MViTv2) or in the MLP (MViTv1).
    The skip path then starts from the *normed* tokens, through ``proj``. Max pooling, where the
    queries are pooled by a stride, leaves the class token alone and is followed by no norm.

    With ``attention="fast"`` on a CPU, a sample whose branch is dropped is not put through it, and
    the MLP runs some tokens at a time (``kernels.mlp``): the same numbers.

    Args:
        spec: widths, heads, grid and pooling of this block.
        mlp_ratio: width of the hidden layer of the MLP, as a multiple of its input's.
        num_prefix_tokens: 1 with a class token, 0 without.
        dropout: rate of the dropouts in the attention and in the MLP.
        (the rest): see ``MultiScaleAttention``.
        only_prefix: give nothing but the prefix tokens, where nobody reads the others.
        tokenwise: in training, too, "fast" puts tokens through the linear layers some at a time.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        mlp_ratio: float,
        num_prefix_tokens: int,
        qkv_bias: bool,
        rel_pos_spatial: bool,
        rel_pos_temporal: bool,
        residual_pooling: bool,
        residual_cls_token: bool,
        dropout: float,
        attention: str,
        only_prefix: bool = False,
        tokenwise: bool = True,
    ) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.fast = attention == "fast"
        self.tokenwise = tokenwise
        self.only_prefix = only_prefix
        self.stride_q = spec.stride_q
        self.widens_in_attention = spec.dim_att != spec.dim
        self.widens_in_mlp = spec.dim_out != spec.dim_att

        self.norm1 = nn.LayerNorm(spec.dim, eps=NORM_EPS)
        self.attn = MultiScaleAttention(
            spec.dim,
            spec.dim_att,
            num_heads=spec.num_heads,
            input_thw=spec.input_thw,
            kernel_q=spec.kernel_q,
            stride_q=spec.stride_q,
            kernel_kv=spec.kernel_kv,
            stride_kv=spec.stride_kv,
            num_prefix_tokens=num_prefix_tokens,
            qkv_bias=qkv_bias,
            rel_pos_spatial=rel_pos_spatial,
            rel_pos_temporal=rel_pos_temporal,
            residual_pooling=residual_pooling,
            residual_cls_token=residual_cls_token,
            dropout=dropout,
            attention=attention,
        )
        self.drop_path = DropPath(spec.drop_path)
        self.norm2 = nn.LayerNorm(spec.dim_att, eps=NORM_EPS)
        self.mlp = Mlp(spec.dim_att, int(spec.dim_att * mlp_ratio), spec.dim_out, dropout=dropout)
        if spec.dim != spec.dim_out:
            self.proj = nn.Linear(spec.dim, spec.dim_out)

    def forward(self, tokens: Tensor, thw: THW) -> tuple[Tensor, THW]:
        """Run the block.

        Args:
            tokens: (B, P + T*H*W, dim).
            thw: the grid (T, H, W) of those tokens.

        Returns:
            The tokens (B, P + T'*H'*W', dim_out) and their grid (T', H', W'); with ``only_prefix``
            the tokens (B, P, dim_out) of that grid.
        """
        tokens, out_thw = self._add_attention(tokens, thw)
        fast = self._is_tokenwise() and not self.widens_in_mlp
        if fast and mlp_is_fast(self.norm2, self.mlp, tokens):
            return fast_mlp_residual(tokens, self.norm2, self.mlp, self.drop_path), out_thw
        normed = self.norm2(tokens)
        skip = self.proj(normed) if self.widens_in_mlp else tokens
        return skip + self.drop_path(self.mlp(normed)), out_thw

    def _is_tokenwise(self) -> bool:
        return self.fast and (self.tokenwise or not self.training)

    def _add_attention(self, tokens: Tensor, thw: THW) -> tuple[Tensor, THW]:
        """The tokens (B, P + T'*H'*W', dim_att) after the first of the two sums."""
        if self._is_tokenwise() and attention_is_fast(self.norm1, self.attn, tokens):
            return self._add_attention_fast(tokens, thw)
        normed = self.norm1(tokens)
        skip = self.proj(normed) if self.widens_in_attention else tokens
        attended, out_thw = self.attn(normed, thw, only_prefix=self.only_prefix)
        return self._pool_skip(skip, thw) + self.drop_path(attended), out_thw

    def _add_attention_fast(self, tokens: Tensor, thw: THW) -> tuple[Tensor, THW]:
        """The same on a CPU: norms with the projections, and nothing for what is dropped."""
        widened = self.widens_in_attention
        skip = fast_norm_linear(tokens, self.norm1, self.proj) if widened else tokens
        skip = self._pool_skip(skip, thw)
        kept, factors = draw_kept(self.drop_path, tokens)
        tokens = tokens if kept is None else tokens.index_select(0, kept)
        qkv = fast_norm_linear(tokens, self.norm1, self.attn.qkv)
        attended, out_thw = self.attn.attend_projected(
            qkv,
            thw,
            only_prefix=self.only_prefix,
            source=source_of(tokens, self.norm1, self.attn.qkv),
        )
        if factors is not None:
            attended = attended * factors
        if kept is not None:
            return skip.index_add(0, kept, attended.to(skip.dtype)), out_thw
        return skip + attended, out_thw

    def _pool_skip(self, tokens: Tensor, thw: THW) -> Tensor:
        p = self.num_prefix_tokens
        if self.only_prefix:
            return tokens[:, :p]
        if self.stride_q == (1, 1, 1):
            return tokens
        if self.fast and can_skip_pool(tokens, self.stride_q):
            pooled: Tensor = skip_pool(tokens, thw, self.stride_q, p)[0]
            return pooled
        return with_prefix(tokens[:, :p], max_pool(tokens[:, p:], thw, self.stride_q))
