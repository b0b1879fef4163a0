"""Features of the stages of a model, under the names and with the arguments of timm.

A stage ends before a block that pools its queries or has wider tokens; MViTv1 and MViTv2 have four.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from slowfast_mvit.errors import ConfigError
from slowfast_mvit.models.specs import BlockSpec
from slowfast_mvit.models.tables import THW

if TYPE_CHECKING:
    from slowfast_mvit.models.mvit import MViT

FORMATS = ("NCTHW", "NCHW", "NLC")


class FeatureInfo(list[dict[str, Any]]):
    """For each stage: ``num_chs``, ``reduction`` (pixels of a token's side) and ``module``."""

    def channels(self) -> list[int]:
        """Return the width of the tokens of each stage."""
        return [stage["num_chs"] for stage in self]

    def reduction(self) -> list[int]:
        """Return the side of a token of each stage, in pixels."""
        return [stage["reduction"] for stage in self]


def feature_info(specs: Sequence[BlockSpec], patch_stride: int) -> FeatureInfo:
    """Return the stages of these blocks, ``module`` being the last block of each.

    Args:
        specs: of all blocks.
        patch_stride: of the patch embedding, along a row.
    """
    steps = (spec.stride_q[2] for spec in specs)
    _, *sides = itertools.accumulate(steps, operator.mul, initial=patch_stride)
    last = [
        spec.widens_in_mlp or following.widens_in_attention or following.stride_q != (1, 1, 1)
        for spec, following in itertools.pairwise(specs)
    ]
    return FeatureInfo(
        {"num_chs": spec.dim_out, "reduction": side, "module": f"blocks.{block}"}
        for block, (spec, side, is_last) in enumerate(zip(specs, sides, [*last, True], strict=True))
        if is_last
    )


def last_block(stage: dict[str, Any]) -> int:
    """Return the number of the last block of a stage."""
    return int(stage["module"].rpartition(".")[2])


def pick_stages(indices: int | Sequence[int] | None, info: FeatureInfo) -> list[int]:
    """Return the numbers of some stages, from 0, in order.

    Args:
        indices: None for all, a number for as many last ones, or numbers, negative from the end.
        info: all stages.

    Raises:
        ConfigError: there is no such stage.
    """
    everything = range(len(info))
    if isinstance(indices, int):
        picked = [-1 - number for number in range(indices)]
    else:
        picked = list(everything if indices is None else indices)
    if not picked or not all(-len(info) <= number < len(info) for number in picked):
        raise ConfigError(
            f"stages are numbered 0 to {len(info) - 1}, or -{len(info)} to -1, got {indices!r}"
        )
    return sorted({everything[number] for number in picked})


def as_format(tokens: Tensor, thw: THW, num_prefix_tokens: int, output_fmt: str) -> Tensor:
    """Return tokens (B, P + T*H*W, C) as a grid (B, C, T, H, W), or in another of ``FORMATS``.

    Raises:
        ConfigError: there is no such format, or the grid has several frames and the format none.
    """
    if output_fmt not in FORMATS or (output_fmt == "NCHW" and thw[0] > 1):
        raise ConfigError(
            f"features of {thw[0]} frames cannot have the format {output_fmt!r}. Choose from: "
            "NCTHW, NLC, or for one frame NCHW"
        )
    if output_fmt == "NLC":
        return tokens
    grid = tokens[:, num_prefix_tokens:].transpose(1, 2).unflatten(2, thw)
    return grid.squeeze(2) if output_fmt == "NCHW" else grid  # type: ignore[no-any-return]


class FeatureExtractor(nn.Module):
    """The outputs of some stages of a model, without its norm, its head and the blocks after them.

    Args:
        model: an ``MViT`` that is not used for anything else: it loses those parts.
        out_indices: as in ``pick_stages``.

    Attributes:
        feature_info: widths and strides of the outputs.

    Raises:
        ConfigError: there is no such stage.
    """

    def __init__(self, model: MViT, out_indices: int | Sequence[int] | None = None) -> None:
        super().__init__()
        self.stages = pick_stages(out_indices, model.feature_info)
        self.feature_info = FeatureInfo(model.feature_info[stage] for stage in self.stages)
        model.blocks = model.blocks[: last_block(self.feature_info[-1]) + 1]
        for name in ("norm", "head"):
            setattr(model, name, nn.Identity())
        self.model = model

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return (B, C, T, H, W) of each stage for pixels (B, 3, T, H, W)."""
        features: list[Tensor] = self.model.forward_intermediates(
            pixels, self.stages, stop_early=True, intermediates_only=True
        )
        return features
