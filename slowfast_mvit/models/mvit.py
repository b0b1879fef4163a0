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
from slowfast_mvit.models.features import as_format, feature_info, last_block, pick_stages
from slowfast_mvit.models.layers import NORM_EPS, Head, PatchEmbed, initialise, with_prefix
from slowfast_mvit.models.positions import joint_positions, new_embedding, separate_positions
from slowfast_mvit.models.specs import BlockSpec, check_specs
from slowfast_mvit.models.tables import THW

ABSOLUTE_POSITIONS = (None, "separate", "joint")
POOLINGS = ("token", "avg", "")  # class token, mean of the others, or none
_POSITIONS = ("cls_token", "pos_embed", "rel_pos")  # begin the names of their parameters


class MViT(nn.Module):
    """A multiscale vision transformer for clips or images.

    Args:
        blocks: a record of each block. ``variants.stage_specs`` makes them by stages, and
            ``slowfast_mvit.builders`` from PySlowFast's lists.
        input_size: pixels (T, H, W) of the clips it is trained on. Other sizes, square or not, work
            at run time: positions are resampled.
        num_classes: K; 0 for a model that returns the features.
        in_chans: channels of the pixels.
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
        arguments: plain values to build it again, of ``mvit_from_lists``; set there likewise.

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
        in_chans: int = 3,
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
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, head_dropout
        self.input_spec: dict[str, Any] | None = None
        self.arguments: dict[str, Any] | None = None
        self.num_prefix_tokens = blocks[0].num_prefix_tokens
        self.mean_pooling = mean_pooling
        self.global_pool = "token" if self.num_prefix_tokens and not mean_pooling else "avg"
        self.detach_head = detach_head
        self.set_grad_checkpointing(activation_checkpointing)
        self.trained_thw = blocks[0].input_thw

        self.feature_info = feature_info(blocks, patch_stride[-1])
        dim, dim_last = blocks[0].dim, blocks[-1].dim_out
        self.num_features = self.head_hidden_size = dim_last
        if self.num_prefix_tokens:
            self.cls_token = new_embedding(1, dim)
        self.abs_pos = abs_pos
        self._add_position_parameters(dim)
        self.patch_embed = PatchEmbed(
            dim,
            in_chans=in_chans,
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
            Logits (B, K), in training and evaluation; features (B, C') if K is 0.

        Raises:
            PixelsError: the pixels have another shape, dtype or device.
        """
        return self.forward_head(self.forward_features(pixels))

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Return the tokens of the last block, (B, P + T*H*W, C'), after the norm.

        With ``mean_pooling`` they are not normed: the norm is after the mean, in ``forward_head``.
        """
        tokens, _ = self.run_blocks(pixels)
        return tokens if self.mean_pooling else self.norm(tokens)  # type: ignore[no-any-return]

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Classify the result of ``forward_features``.

        Args:
            tokens: (B, P + T*H*W, C').
            pre_logits: return the features that the head classifies, (B, C'), not logits (B, K).
        """
        if self.global_pool == "token":
            tokens = tokens[:, 0]
        elif self.global_pool == "avg":
            tokens = tokens[:, self.num_prefix_tokens :].mean(dim=1)
        features: Tensor = self.norm(tokens) if self.mean_pooling else tokens
        if pre_logits:
            return features
        return self.head(features.detach() if self.detach_head else features)  # type: ignore[no-any-return]

    def run_blocks(self, pixels: Tensor, **last: bool) -> tuple[Tensor, THW]:
        """Return the tokens (B, P + T*H*W, C') of the last block, before the norm, and their grid.

        Args:
            pixels: as for ``forward``.
            last: more arguments of the last block.
        """
        tokens, thw = self.embed(pixels)
        run = self.run_block if self.training else run_block
        *others, final = self.blocks
        for block in others:
            tokens, thw = run(block, tokens, thw)
        return run(final, tokens, thw, **last)

    def embed(self, pixels: Tensor) -> tuple[Tensor, THW]:
        """Return the tokens (B, P + T*H*W, C) of the first block, and their grid."""
        tokens, thw = self.patch_embed(pixels)
        if self.num_prefix_tokens:
            # len() would fix the size of the batch in an exported graph.
            tokens = with_prefix(self.cls_token.expand(tokens.shape[0], -1, -1), tokens)
        tokens = tokens + self._positions(thw) if self.abs_pos else tokens
        return self.norm_stem(self.dropout(tokens)), thw

    def forward_intermediates(
        self,
        pixels: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCTHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the outputs of stages, as timm's method of this name does.

        Args:
            pixels: as for ``forward``.
            indices: None for all stages, a number for as many last ones, or numbers of stages.
            norm: norm the output of the last stage.
            stop_early: leave out the blocks after the last of these stages.
            output_fmt: "NCTHW" for grids, "NCHW" for grids of one frame, or "NLC" for all tokens.
            intermediates_only: return the outputs alone.

        Returns:
            The result of ``forward_features``, or the tokens of the last block that was run; and
            the outputs, a list.

        Raises:
            ConfigError: there is no such stage or format.
        """
        stages = pick_stages(indices, self.feature_info)
        ends = {last_block(self.feature_info[stage]): stage for stage in stages}
        run = self.run_block if self.training else run_block
        num_blocks = max(ends) + 1 if stop_early else len(self.blocks)
        tokens, thw = self.embed(pixels)
        outputs = []
        for number, block in enumerate(self.blocks[:num_blocks]):
            tokens, thw = run(block, tokens, thw)
            if number in ends:
                out = self.norm_stage(tokens, ends[number]) if norm else tokens
                outputs.append(as_format(out, thw, self.num_prefix_tokens, output_fmt))
        if intermediates_only:
            return outputs
        is_normed = num_blocks == len(self.blocks) and not self.mean_pooling
        return self.norm(tokens) if is_normed else tokens, outputs

    def norm_stage(self, tokens: Tensor, stage: int) -> Tensor:
        """Return the output of a stage, (B, P + T*H*W, C), normed where there is a norm for it."""
        return self.norm(tokens) if stage == len(self.feature_info) - 1 else tokens  # type: ignore[no-any-return]

    def get_classifier(self) -> nn.Module:
        """Return the classifier, a linear layer, or an identity for 0 classes."""
        return self.head.projection

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one, and forget the names of the classes.

        Args:
            num_classes: K; 0 for a model that returns the features.
            global_pool: "token", "avg", or "" for all tokens; None leaves it as it is.

        Raises:
            ConfigError: there is no such pooling, or no class token.
        """
        if global_pool is not None:
            allowed = POOLINGS if self.num_prefix_tokens else POOLINGS[1:]
            if global_pool not in allowed:
                raise ConfigError(f"global_pool must be one of {allowed}, got {global_pool!r}")
            self.global_pool = global_pool
        head = Head(self.num_features, num_classes, dropout=self.drop_rate).apply(initialise)
        self.head = head.to(next(self.parameters())).train(self.training)
        self.num_classes = num_classes
        if self.input_spec is not None:
            self.input_spec = {**self.input_spec, "class_names": None}

    def set_grad_checkpointing(self, enable: bool | str = True) -> None:
        """Set ``activation_checkpointing``: False, "selective" or True."""
        self.activation_checkpointing = enable
        self.run_block = pick_run_block(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of positions and class token, which some recipes do not decay."""
        names = {name for name, _ in self.named_parameters()}
        return {name for name in names if name.rpartition(".")[2].startswith(_POSITIONS)}

    def no_weight_decay_names(self) -> set[str]:
        """Last parts of ``no_weight_decay``."""
        return {name.rpartition(".")[2] for name in self.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of parameter names by which timm makes a group of each block."""
        stem = r"^cls_token|^pos_embed|^patch_embed|^norm_stem"
        return {"stem": stem, "blocks": [(r"^blocks\.(\d+)", None), (r"^norm\.", (99999,))]}

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
