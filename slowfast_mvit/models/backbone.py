"""MViTv2 as the backbone of a detector (https://arxiv.org/abs/2112.01526, section 4.2).

images (B, 3, H, W)
  |   patch_embed, + absolute positions, if any
  |   blocks: most attend within windows, the last of the last three stages over the whole map
scale2, scale3, scale4, scale5   (B, C, H/4, W/4) to (B, 8C, H/32, W/32), rounded up
                                 each after a norm of its own; the trunk goes on without it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slowfast_mvit.models.features import pick_stages
from slowfast_mvit.models.layers import NORM_EPS
from slowfast_mvit.models.mvit import MViT
from slowfast_mvit.models.positions import new_embedding, plane_positions
from slowfast_mvit.models.specs import BlockSpec
from slowfast_mvit.models.tables import THW

_PATCHES = {"patch_kernel": (7, 7), "patch_stride": (4, 4), "patch_padding": (3, 3)}


class Backbone(MViT):
    """An ``MViT`` for images of any size that returns the maps of its stages, not logits.

    Args:
        blocks: a record of each block, without a class token; ``variants.detection_specs`` makes
            them by stages.
        out_indices: stages, from 0, or a number for as many last ones; None for all.
        pos_embed_grid: rows and columns of absolute positions, resampled bicubically; None for
            none.
        pos_embed_cls: the table of absolute positions begins with a row for the class token of its
            pre-training, which is not used.
        trunk: other arguments of ``MViT``, of its trunk; patches are those of images by default.

    Attributes:
        feature_info: widths, strides and last blocks of all stages.
        stages: numbers of the stages that are returned.

    Raises:
        ConfigError: if blocks cannot be built, or there is no such stage.

    Source: function, parameter names and first values are those of detectron2's MViT, so its
    weights load unchanged. ``tests/models/test_against_detectron2.py`` compares outputs and
    gradients.
    """

    def __init__(
        self,
        blocks: Sequence[BlockSpec],
        *,
        input_size: THW,
        out_indices: int | Sequence[int] | None = None,
        pos_embed_grid: tuple[int, int] | None = None,
        pos_embed_cls: bool = True,
        **trunk: Any,
    ) -> None:
        trunk = {**_PATCHES, **trunk}
        super().__init__(blocks, input_size=input_size, num_classes=0, **trunk)
        setattr(self, "norm", nn.Identity())  # noqa: B010 - no LayerNorm any more
        self.stages = pick_stages(out_indices, self.feature_info)
        for stage in self.stages:
            norm = nn.LayerNorm(self.feature_info[stage]["num_chs"], eps=NORM_EPS)
            setattr(self, f"{stage_name(stage)}_norm", norm)
        if pos_embed_grid is not None:
            self.abs_pos, self.pos_embed_grid = "plane", pos_embed_grid
            rows = int(pos_embed_cls) + pos_embed_grid[0] * pos_embed_grid[1]
            self.pos_embed = new_embedding(rows, blocks[0].dim)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the maps (B, C', H', W') of the stages, by the names of detectron2.

        Args:
            pixels: (B, 3, H, W), normalised.

        Raises:
            PixelsError: the pixels have another shape, dtype or device.
        """
        maps = self.forward_intermediates(
            pixels,
            self.stages,
            norm=True,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return dict(zip(map(stage_name, self.stages), maps, strict=True))

    @property
    def out_info(self) -> dict[str, dict[str, Any]]:
        """The ``feature_info`` of the stages that are returned, by name."""
        return {stage_name(stage): self.feature_info[stage] for stage in self.stages}

    def norm_stage(self, tokens: Tensor, stage: int) -> Tensor:
        if stage not in self.stages:
            return tokens
        normed: Tensor = self.get_submodule(f"{stage_name(stage)}_norm")(tokens)
        return normed

    def _positions(self, thw: THW) -> Tensor:
        return plane_positions(self.pos_embed, self.pos_embed_grid, thw)

    @torch.no_grad()
    def _initialise(self, **_: Any) -> None:
        """First values of detectron2: biases and tables zero, convolutions as PyTorch has them."""
        for name, parameter in self.named_parameters():
            if ".rel_pos_" in name:
                parameter.zero_()
            elif parameter.ndim == 2:  # of a linear layer
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.startswith("blocks.") and name.endswith(".bias"):
                parameter.zero_()


def stage_name(stage: int) -> str:
    """Return detectron2's name of a stage: the exponent of its stride, 4 for the first."""
    return f"scale{stage + 2}"
