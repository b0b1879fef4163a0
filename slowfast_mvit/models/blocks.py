"""One block of an MViT: pooling attention, then an MLP, each with a skip path.

Letters used in shapes:
    B batch   P prefix tokens (0, or 1 for the class token)   T, H, W token grid
"""

from __future__ import annotations

from torch import Tensor, nn

from slowfast_mvit.models.attention import MultiScaleAttention
from slowfast_mvit.models.layers import NORM_EPS, DropPath, Mlp, with_prefix
from slowfast_mvit.models.pooling import max_pool
from slowfast_mvit.models.specs import BlockSpec
from slowfast_mvit.models.tables import THW


class MultiScaleBlock(nn.Module):
    """Pooling attention and an MLP; the skip path is pooled and widened along with them.

        tokens -+- norm1 -+- attn ----------- drop_path -+-> + -+- norm2 -+- mlp - drop_path -+-> +
                |         |                              |      |         |                   |
                |         +- proj (wider here) -+        |      |         +- proj (wider here)+
                +-----------------------(or)----+- max --+      +-----------------------(or)--+

    A block that widens its tokens does so either in the attention (MViTv2) or in the MLP (MViTv1).
    The skip path then starts from the *normed* tokens, through ``proj``. Max pooling, where the
    queries are pooled by a stride, leaves the class token alone and is followed by no norm.

    Args:
        spec: widths, heads, grid, pooling and options of this block.
        attention: "folded" or "plain", see ``MultiScaleAttention``.
    """

    def __init__(self, spec: BlockSpec, *, attention: str = "folded") -> None:
        super().__init__()
        self.spec = spec
        self.norm1 = nn.LayerNorm(spec.dim, eps=NORM_EPS)
        self.attn = MultiScaleAttention(spec, attention=attention)
        self.drop_path = DropPath(spec.drop_path)
        self.norm2 = nn.LayerNorm(spec.dim_att, eps=NORM_EPS)
        dim_hidden = int(spec.dim_att * spec.mlp_ratio)
        self.mlp = Mlp(spec.dim_att, dim_hidden, spec.dim_out, dropout=spec.dropout)
        if spec.dim != spec.dim_out:
            self.proj = nn.Linear(spec.dim, spec.dim_out)

    def forward(self, tokens: Tensor, thw: THW) -> tuple[Tensor, THW]:
        """Run the block.

        Args:
            tokens: (B, P + T*H*W, dim).
            thw: the grid (T, H, W) of those tokens.

        Returns:
            The tokens (B, P + T'*H'*W', dim_out) and their grid (T', H', W').
        """
        tokens, out_thw = self.add_attention(tokens, thw)
        return self.add_mlp(tokens), out_thw

    def add_attention(self, tokens: Tensor, thw: THW) -> tuple[Tensor, THW]:
        """The tokens (B, P + T'*H'*W', dim_att) after the first of the two sums."""
        normed = self.norm1(tokens)
        skip = self.proj(normed) if self.spec.widens_in_attention else tokens
        attended, out_thw = self.attn(normed, thw)
        return self.pool_skip(skip, thw) + self.drop_path(attended), out_thw

    def add_mlp(self, tokens: Tensor) -> Tensor:
        """The tokens (B, P + T'*H'*W', dim_out) after the second."""
        normed = self.norm2(tokens)
        skip = self.proj(normed) if self.spec.widens_in_mlp else tokens
        return skip + self.drop_path(self.mlp(normed))  # type: ignore[no-any-return]

    def pool_skip(self, tokens: Tensor, thw: THW) -> Tensor:
        """The skip path of the attention, on the grid of the pooled queries."""
        p = self.spec.num_prefix_tokens
        if self.spec.stride_q == (1, 1, 1):
            return tokens
        return with_prefix(tokens[:, :p], max_pool(tokens[:, p:], thw, self.spec.stride_q))
