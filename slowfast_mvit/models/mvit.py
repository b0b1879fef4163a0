"""MViTv2 (https://arxiv.org/abs/2112.01526) and MViTv1 (https://arxiv.org/abs/2104.11227).

    pixels (B, 3, T, H, W)
      |   patch_embed: an overlapping, strided convolution
      |   + class token, + absolute positions (MViTv1), norm_stem
    tokens (B, P + T'*H'*W', C)
      |   blocks: the grid shrinks and the width grows at the first block of a stage
      |   norm, and the class token or the mean of the others
    features (B, C')
      |   head
    logits (B, K)

Letters used in shapes:
    B batch   C width of the tokens   K classes   P prefix tokens (0, or 1 for the class token)
    T, H, W   of pixels: frames, rows, columns; in ``thw``: the token grid
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slowfast_mvit.errors import ConfigError
from slowfast_mvit.models.blocks import MultiScaleBlock
from slowfast_mvit.models.checkpointing import pick_run_block, run_block
from slowfast_mvit.models.layers import NORM_EPS, Head, PatchEmbed, initialise, with_prefix
from slowfast_mvit.models.positions import joint_positions, new_embedding, separate_positions
from slowfast_mvit.models.specs import BlockSpec, check_specs
from slowfast_mvit.models.tables import THW

ABSOLUTE_POSITIONS = (None, "separate", "joint")


class MViT(nn.Module):
    """A multiscale vision transformer for clips or images.

    Args:
        blocks: a record of each block. ``variants.stage_specs`` makes them by stages, and
            ``slowfast_mvit.builders`` from PySlowFast's lists.
        input_size: pixels (T, H, W) of the clips it is trained on. Other sizes, square or not, work
            at run time: positions are resampled.
        num_classes: K.
        patch_kernel: kernel of the patch embedding in (frames, rows, columns), or (rows, columns)
            for an image model.
        patch_stride: its stride, likewise.
        patch_padding: its padding, likewise.
        abs_pos: None, "separate" (one embedding for place, one for time) or "joint" embeddings.
        rel_pos_zero_init: relative positions start at 0 instead of small random values.
        mean_pooling: classify by the mean of the tokens, without the class token; the norm is then
            after the mean.
        norm_stem: a norm before the first block.
        dropout: rate of the dropout after the embedding.
        head_dropout: rate of the dropout before the classifier.
        head_init_scale: factor of the classifier's first weights.
        detach_head: no gradients from the classifier to the trunk (linear probing).
        attention: "folded", or "plain" with every score written out.
        activation_checkpointing: tensors that training saves of each block, or computes again in
            the backward pass: False, "selective" or True, see ``models.checkpointing``.

    Attributes:
        input_spec: how pixels have to be made for this model (frames, rate, size, mean, standard
            deviation, class names); None until ``slowfast_mvit.builders`` sets it.

    Raises:
        ConfigError: if blocks cannot be built, there are no such absolute positions or activation
            checkpointing, or patch sizes differ in length.

    Source: the function, the names and the order of the parameters are PySlowFast's, so its weights
    load unchanged. ``tests/models/test_against_pyslowfast.py`` compares outputs and gradients with
    PySlowFast's own; ``_torchvision``, ``_timm`` and ``_pytorchvideo`` next to it, with those
    libraries. Unlike PySlowFast's, this model returns logits in evaluation too.
    """

    def __init__(
        self,
        blocks: Sequence[BlockSpec],
        *,
        input_size: THW,
        num_classes: int,
        patch_kernel: Sequence[int] = (3, 7, 7),
        patch_stride: Sequence[int] = (2, 4, 4),
        patch_padding: Sequence[int] = (1, 3, 3),
        abs_pos: str | None = None,
        rel_pos_zero_init: bool = False,
        mean_pooling: bool = False,
        norm_stem: bool = False,
        dropout: float = 0.0,
        head_dropout: float = 0.0,
        head_init_scale: float = 1.0,
        detach_head: bool = False,
        attention: str = "folded",
        activation_checkpointing: bool | str = False,
    ) -> None:
        super().__init__()
        check_specs(blocks)
        _check(abs_pos, patch_kernel, patch_stride, patch_padding)
        self.input_size = input_size
        self.num_classes = num_classes
        self.input_spec: dict[str, Any] | None = None
        self.num_prefix_tokens = blocks[0].num_prefix_tokens
        self.mean_pooling = mean_pooling
        self.detach_head = detach_head
        self.run_block = pick_run_block(activation_checkpointing)
        self.trained_thw = blocks[0].input_thw

        dim, dim_last = blocks[0].dim, blocks[-1].dim_out
        if self.num_prefix_tokens:
            self.cls_token = new_embedding(1, dim)
        self.abs_pos = abs_pos
        self._add_position_parameters(dim)
        self.patch_embed = PatchEmbed(
            dim,
            kernel=tuple(patch_kernel),
            stride=tuple(patch_stride),
            padding=tuple(patch_padding),
        )
        self.dropout = nn.Dropout(dropout)
        self.norm_stem = nn.LayerNorm(dim, eps=NORM_EPS) if norm_stem else nn.Identity()
        self.blocks = nn.ModuleList(MultiScaleBlock(spec, attention=attention) for spec in blocks)
        self.norm = nn.LayerNorm(dim_last, eps=NORM_EPS)
        self.head = Head(dim_last, num_classes, dropout=head_dropout)
        self._initialise(rel_pos_zero_init=rel_pos_zero_init, head_init_scale=head_init_scale)

    def forward(self, pixels: Tensor) -> Tensor:
        """Classify.

        Args:
            pixels: (B, 3, T, H, W), normalised; for an image model (B, 3, H, W) will do.

        Returns:
            Logits (B, K), in training and evaluation.
        """
        features = self.forward_features(pixels)
        if self.detach_head:
            features = features.detach()
        logits: Tensor = self.head(features)
        return logits

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Return the features that the head classifies, (B, C')."""
        tokens, thw = self.patch_embed(pixels)
        if self.num_prefix_tokens:
            tokens = with_prefix(self.cls_token.expand(len(tokens), -1, -1), tokens)
        tokens = tokens + self._positions(thw) if self.abs_pos else tokens
        tokens = self.norm_stem(self.dropout(tokens))
        for block in self.blocks:
            run = self.run_block if self.training else run_block
            tokens, thw = run(block, tokens, thw)
        return self._pool_tokens(tokens)

    def no_weight_decay_names(self) -> set[str]:
        """Last parts of the names of positions and class token, which some recipes do not decay."""
        names = {name.rpartition(".")[2] for name, _ in self.named_parameters()}
        return {name for name in names if name.startswith(("cls_token", "pos_embed", "rel_pos"))}

    def _pool_tokens(self, tokens: Tensor) -> Tensor:
        """One vector for each clip, (B, C'), of all its tokens (B, P + T*H*W, C')."""
        if self.mean_pooling:
            return self.norm(tokens[:, self.num_prefix_tokens :].mean(dim=1))  # type: ignore[no-any-return]
        tokens = self.norm(tokens)
        return tokens[:, 0] if self.num_prefix_tokens else tokens.mean(dim=1)

    def _add_position_parameters(self, dim: int) -> None:
        t, h, w = self.trained_thw
        if self.abs_pos == "separate":
            self.pos_embed_spatial = new_embedding(h * w, dim)
            self.pos_embed_temporal = new_embedding(t, dim)
            if self.num_prefix_tokens:
                self.pos_embed_class = new_embedding(1, dim)
        if self.abs_pos == "joint":
            self.pos_embed = new_embedding(self.num_prefix_tokens + math.prod((t, h, w)), dim)

    def _positions(self, thw: THW) -> Tensor:
        """The absolute positions of the tokens of this grid, (1, P + T*H*W, C)."""
        if self.abs_pos == "joint":
            return joint_positions(
                self.pos_embed,
                num_prefix_tokens=self.num_prefix_tokens,
                trained_thw=self.trained_thw,
                thw=thw,
            )
        return separate_positions(
            self.pos_embed_spatial,
            self.pos_embed_temporal,
            self.pos_embed_class if self.num_prefix_tokens else None,
            trained_thw=self.trained_thw,
            thw=thw,
        )

    @torch.no_grad()
    def _initialise(self, *, rel_pos_zero_init: bool, head_init_scale: float) -> None:
        self.apply(initialise)
        if rel_pos_zero_init:
            for name, parameter in self.named_parameters():
                if ".rel_pos_" in name:
                    parameter.zero_()
        for parameter in self.head.projection.parameters():
            parameter.mul_(head_init_scale)


def _check(abs_pos: str | None, *patch: Sequence[int]) -> None:
    if abs_pos not in ABSOLUTE_POSITIONS:
        raise ConfigError(
            f"there are no absolute positions named {abs_pos!r}. "
            f"Choose from: {', '.join(str(name) for name in ABSOLUTE_POSITIONS)}"
        )
    lengths = {len(sizes) for sizes in patch}
    if lengths not in ({2}, {3}):
        raise ConfigError(
            "patch kernel, stride and padding need three numbers each (frames, rows, columns), or "
            f"two each (rows, columns) for images; got {', '.join(str(list(s)) for s in patch)}"
        )
