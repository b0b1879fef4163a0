"""The test views of one clip, each cut out of the whole, for comparison with those of a video."""

from __future__ import annotations

import torch
from torch import Tensor

from slowfast_mvit.data.views.eval_views import scaled_planes
from slowfast_mvit.structures import ViewPlan


def eval_views(frames: Tensor, plan: ViewPlan) -> Tensor:
    """The crops of one clip: (T, H, W, 3) uint8 -> (num_crops, 3, T, S, S) uint8."""
    planes, corners = scaled_planes(frames, plan)
    side = plan.crop_px
    crops = [planes[..., top : top + side, left : left + side] for top, left in corners]
    return torch.stack(crops)
