"""One block of an MViT: pooling attention, then an MLP, each beside a skip path.

Letters used in shapes:
    B batch   P prefix tokens (0, or 1 for the class token)   T, H, W token grid
"""

from __future__ import annotations

from torch import Tensor, nn

from slowfast_mvit.kernels import THW, max_pool
from slowfast_mvit.models.attention import MultiScaleAttention
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

    Args:
        spec: widths, heads, grid and pooling of this block.
        mlp_ratio: width of the hidden layer of the MLP, as a multiple of its input's.
        num_prefix_tokens: 1 with a class token, 0 without.
        dropout: rate of the dropouts in the attention and in the MLP.
        (the rest): see ``MultiScaleAttention``.
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
    ) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
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
            The tokens (B, P + T'*H'*W', dim_out) and their grid (T', H', W').
        """
        normed = self.norm1(tokens)
        attended, out_thw = self.attn(normed, thw)  # (B, P + T'*H'*W', dim_att)
        skip = self.proj(normed) if self.widens_in_attention else tokens
        tokens = self._pool_skip(skip, thw) + self.drop_path(attended)

        normed = self.norm2(tokens)
        skip = self.proj(normed) if self.widens_in_mlp else tokens
        return skip + self.drop_path(self.mlp(normed)), out_thw

    def _pool_skip(self, tokens: Tensor, thw: THW) -> Tensor:
        if self.stride_q == (1, 1, 1):
            return tokens
        p = self.num_prefix_tokens
        return with_prefix(tokens[:, :p], max_pool(tokens[:, p:], thw, self.stride_q))
