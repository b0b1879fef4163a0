"""Random erasing (https://arxiv.org/abs/1708.04896), on the device, on whole batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slowfast_mvit.data.views.pixels import Box
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.randomness import Draws, whole_number

_ERASE_TRIES = 100
_ERASE_AREA = (0.02, 1 / 3)  # of the frame
_ERASE_ASPECT = (0.3, 1 / 0.3)


def random_erase(
    clips: Tensor, rng: Draws, *, prob: float, mode: str = "pixel", max_count: int = 1
) -> Tensor:
    """Overwrite boxes of normalised clips: drawn for each clip, the same in all of its frames.

    Args:
        clips: (N, 3, T, H, W) float, normalised.
        rng: the stream of this batch.
        prob: share of the clips that are erased.
        mode: "pixel": normal noise, fresh for each pixel of each frame; "rand": one normal colour
            for each frame; "const": zeros, the mean colour.
        max_count: 1 to this many boxes in a clip; they share the area.

    Returns:
        New clips, or ``clips`` itself where none was erased.

    Raises:
        ConfigError: when there is no such mode.
    """
    if mode not in ERASE_MODES:
        raise ConfigError(f"AUG.RE_MODE {mode!r} is not a choice. Choose from: {list(ERASE_MODES)}")
    height, width = clips.shape[-2:]
    boxes = [
        (number, box)
        for number in range(len(clips))
        if rng.random() < prob
        for box in _draw_erase_boxes(height, width, max_count, rng)
    ]
    if not boxes:
        return clips
    noise = torch.Generator(clips.device).manual_seed(whole_number(rng, 0, 1 << 62))
    erased = clips.clone()
    for number, (top, left, box_height, box_width) in boxes:
        region = erased[number, :, :, top : top + box_height, left : left + box_width]
        region.copy_(ERASE_MODES[mode](region, noise))
    return erased


def _draw_erase_boxes(height: int, width: int, max_count: int, rng: Draws) -> list[Box]:
    count = 1 if max_count == 1 else whole_number(rng, 1, max_count + 1)
    boxes = (_draw_erase_box(height, width, count, rng) for _ in range(count))
    return [box for box in boxes if box is not None]


def _draw_erase_box(height: int, width: int, count: int, rng: Draws) -> Box | None:
    least, greatest = map(math.log, _ERASE_ASPECT)
    for _ in range(_ERASE_TRIES):
        area = rng.uniform(*_ERASE_AREA) * height * width / count
        aspect = math.exp(rng.uniform(least, greatest))
        box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width < width and 0 < box_height < height:
            top = whole_number(rng, 0, height - box_height + 1)
            left = whole_number(rng, 0, width - box_width + 1)
            return top, left, box_height, box_width
    return None


def _pixel_noise(region: Tensor, noise: torch.Generator) -> Tensor:
    return torch.randn(region.shape, generator=noise, device=region.device, dtype=region.dtype)


def _colour_noise(region: Tensor, noise: torch.Generator) -> Tensor:
    shape = (*region.shape[:2], 1, 1)  # (3, T, 1, 1)
    return torch.randn(shape, generator=noise, device=region.device, dtype=region.dtype)


def _no_noise(region: Tensor, noise: torch.Generator) -> Tensor:
    return torch.zeros_like(region)


ERASE_MODES = {"pixel": _pixel_noise, "rand": _colour_noise, "const": _no_noise}
