"""Test and validation views: short side to ``scale_px``, then 1 or 3 crops.

Nothing here is random, and nothing is imported from the augmentation of training views.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slowfast_mvit.data.views.pixels import by_frame, resize_frames, short_side_at, write_planes
from slowfast_mvit.structures import ViewPlan


def scaled_planes(frames: Tensor, plan: ViewPlan) -> tuple[Tensor, list[tuple[int, int]]]:
    """Return the part of the scaled frames that contains all crops.

    Three crops are along the longer side: left, centre, right, or top, centre, bottom. A single one
    is the centre, for every data set (PySlowFast takes the left or top one for SSv2).

    Args:
        frames: (T, H, W, 3) uint8.
        plan: the size to which frames are scaled, the size and number of the crops.

    Returns:
        Planes (3, T, H', W') uint8, contiguous, and the top and left of each crop in them.
    """
    size = (plan.scale_px, plan.scale_px)
    if plan.resizing != "whole image":
        size = short_side_at((frames.shape[1], frames.shape[2]), plan.scale_px)
    scaled = resize_frames(frames.numpy(), size, plan.resizing)
    boxes = crop_boxes(*size, plan.crop_px, plan.num_crops, resizing=plan.resizing)
    (top, left), (bottom, right) = boxes[0], boxes[-1]  # corners of the first and the last
    part = scaled[:, top : bottom + plan.crop_px, left : right + plan.crop_px]
    planes = torch.empty((3, *part.shape[:3]), dtype=torch.uint8)
    write_planes(part, by_frame(planes))
    return planes, [(crop_top - top, crop_left - left) for crop_top, crop_left in boxes]


def crop_boxes(
    height: int, width: int, side: int, num_crops: int, *, resizing: str = "clip"
) -> list[tuple[int, int]]:
    """Return (top, left) of each crop.

    The centre is rounded up; for images half to even, as torchvision does.
    """
    rounded = math.ceil if resizing == "clip" else round
    top, left = rounded((height - side) / 2), rounded((width - side) / 2)
    if num_crops == 1:
        return [(top, left)]
    if height > width:
        return [(0, left), (top, left), (height - side, left)]
    return [(top, 0), (top, left), (top, width - side)]
