"""Weights in the layouts of other libraries, so that those load them strictly."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping

from torch import Tensor

from slowfast_mvit.errors import WeightsError, pick
from slowfast_mvit.weights.architecture import anatomy_of
from slowfast_mvit.weights.names import to_torchvision

_GROWS = {"attention": "shortcut_proj_attn", "MLP": "shortcut_proj_mlp"}


def to_layout(state: Mapping[str, Tensor], layout: str, where: str) -> dict[str, Tensor]:
    """A model's state dict in the layout of a library.

    Args:
        state: in our names.
        layout: a key of ``LAYOUTS``.
        where: the file, for messages.

    Raises:
        ConfigError: if there is no such layout.
        WeightsError: if that library has no such model.
    """
    return pick(LAYOUTS, layout, "layout of weights")(state, where)


def to_timm(state: Mapping[str, Tensor], where: str = "(a state dict)") -> dict[str, Tensor]:
    """Our state dict of an image model as timm's ``mvitv2_*`` load it, strictly.

    Blocks are counted by stage, pooling kernels lose a time axis of one, and where channels grow is
    said in the name of the projection beside.

    Raises:
        WeightsError: if the model is for clips.
    """
    anatomy = anatomy_of(state)
    _require(not anatomy.is_video, where, "timm has MViTv2 for images only")
    starts = (0, *anatomy.stage_starts)

    def rename(name: str) -> str:
        found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if not found:
            return name.replace("head.projection.", "head.fc.")
        block, rest = int(found[1]), found[2]
        if rest.startswith("proj."):
            rest = f"{_GROWS[anatomy.grows_in]}.{rest.removeprefix('proj.')}"
        stage = bisect_right(starts, block) - 1
        return f"stages.{stage}.blocks.{block - starts[stage]}.{rest}"

    return {
        rename(name): value.squeeze(2) if value.ndim == 5 else value
        for name, value in state.items()
    }


def _to_slowfast(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    return dict(state)


def _to_torchvision(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    anatomy = anatomy_of(state)
    _require(
        anatomy.is_video and anatomy.cls_token,
        where,
        "torchvision has MViT for clips with a class token only",
    )
    return to_torchvision(state)


def _require(fits: bool, where: str, reason: str) -> None:
    if not fits:
        raise WeightsError(f"{where}: cannot be written in that layout: {reason}")


LAYOUTS: dict[str, Callable[[Mapping[str, Tensor], str], dict[str, Tensor]]] = {
    "slowfast": _to_slowfast,
    "torchvision": _to_torchvision,
    "timm": to_timm,
}
