"""Mixup (https://arxiv.org/abs/1710.09412), CutMix (https://arxiv.org/abs/1905.04899) and label
smoothing, on the device, for a whole batch at a time.

Each clip is mixed with the one as far from the end of the batch as it is from the start. One draw
decides for the batch: whether to mix, how, and how much.
"""

from __future__ import annotations

import functools
import logging

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from slowfast_mvit.randomness import Draws, whole_number

_log = logging.getLogger(__name__)

Box = tuple[int, int, int, int]  # top, bottom, left, right in pixels


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
    """Draw a box of the aspect ratio of the frame around a uniform point, cut off at the edges."""
    side = np.sqrt(1.0 - share)
    box_height, box_width = int(height * side), int(width * side)
    y, x = whole_number(rng, 0, height), whole_number(rng, 0, width)
    top, left = max(y - box_height // 2, 0), max(x - box_width // 2, 0)
    bottom = min(y + box_height // 2, height)
    right = min(x + box_width // 2, width)
    return top, bottom, left, right
