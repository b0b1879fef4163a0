"""Augmentation on the device, of a whole batch at a time: mixup, CutMix, erasing, label smoothing.

Mixup (https://arxiv.org/abs/1710.09412) and CutMix (https://arxiv.org/abs/1905.04899): each clip is
mixed with the one as far from the end of the batch as it is from the start. One draw for the batch
decides whether to mix, how, and how much.

Random erasing (https://arxiv.org/abs/1708.04896): each clip has its own boxes.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from slowfast_mvit.errors import ConfigError
from slowfast_mvit.randomness import Draws, whole_number

_log = logging.getLogger(__name__)

Box = tuple[int, int, int, int]  # in pixels


def mix(
    clips: Tensor,
    labels: Tensor,
    rng: Draws,
    *,
    num_classes: int,
    alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    prob: float = 1.0,
    switch_prob: float = 0.5,
    label_smoothing: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Mix the clips of a batch and their targets.

    Args:
        clips: (N, 3, T, H, W) float.
        labels: (N,) class indices.
        rng: the stream of this batch.
        num_classes: K.
        alpha: both parameters of the Beta distribution of the mixing share; 0 for no mixup.
        cutmix_alpha: the same for CutMix; 0 for no CutMix.
        prob: how often a batch is mixed.
        switch_prob: how often that is by CutMix, where both are on.
        label_smoothing: share of a target that is spread over all classes, 0 to 1.

    Returns:
        The clips (N, 3, T, H, W), new ones if they were mixed, and the targets (N, K) in the dtype
        of the clips, at least float32; each row sums to 1. The pixels of a batch of one clip, which
        has no partner, are unchanged.
    """
    dtype = torch.promote_types(clips.dtype, torch.float32)
    targets = smooth(labels, num_classes, label_smoothing, dtype=dtype)
    share, by_cutmix = _draw_share(rng, alpha, cutmix_alpha, prob, switch_prob)
    if share == 1.0:
        return clips, targets
    if len(clips) == 1:
        _warn_of_lone_clip()
        return clips, targets
    if by_cutmix:
        height, width = clips.shape[-2:]
        top, bottom, left, right = _draw_box(height, width, share, rng)
        mixed = clips.clone()
        mixed[..., top:bottom, left:right] = clips.flip(0)[..., top:bottom, left:right]
        share = 1.0 - (bottom - top) * (right - left) / (height * width)
    else:
        mixed = clips * share + clips.flip(0) * (1.0 - share)
    return mixed, targets * share + targets.flip(0) * (1.0 - share)


def smooth(
    labels: Tensor, num_classes: int, label_smoothing: float, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(N,) class indices -> (N, K) targets; e / K everywhere, 1 - e more on the class."""
    one_hot = F.one_hot(labels, num_classes).to(dtype)
    return one_hot * (1.0 - label_smoothing) + label_smoothing / num_classes


@functools.cache  # once is enough
def _warn_of_lone_clip() -> None:
    _log.warning("a batch of one clip cannot be mixed with another; MIXUP has no effect on it")


def _draw_share(
    rng: Draws, alpha: float, cutmix_alpha: float, prob: float, switch_prob: float
) -> tuple[float, bool]:
    """Draw the share of the clip itself, and whether by CutMix; in PySlowFast's order."""
    if not rng.random() < prob or alpha <= 0 >= cutmix_alpha:
        return 1.0, False
    if alpha > 0 and cutmix_alpha > 0:
        by_cutmix = bool(rng.random() < switch_prob)
    else:
        by_cutmix = cutmix_alpha > 0
    parameter = cutmix_alpha if by_cutmix else alpha
    return float(rng.beta(parameter, parameter)), by_cutmix


def _draw_box(height: int, width: int, share: float, rng: Draws) -> Box:
    """Draw (top, bottom, left, right) of a box around a uniform point, cut off at the edges."""
    side = np.sqrt(1.0 - share)
    box_height, box_width = int(height * side), int(width * side)
    y, x = whole_number(rng, 0, height), whole_number(rng, 0, width)
    top, left = max(y - box_height // 2, 0), max(x - box_width // 2, 0)
    bottom = min(y + box_height // 2, height)
    right = min(x + box_width // 2, width)
    return top, bottom, left, right


# Random erasing

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


def _noise(region: Tensor, shape: tuple[int, ...], noise: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=noise, device=region.device, dtype=region.dtype)


# mode -> the new values of a region (3, T, h, w)
ERASE_MODES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "pixel": lambda region, noise: _noise(region, region.shape, noise),
    "rand": lambda region, noise: _noise(region, (*region.shape[:2], 1, 1), noise),
    "const": lambda region, noise: torch.zeros_like(region),
}
