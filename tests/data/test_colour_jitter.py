"""Colour jitter, against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from slowfast_mvit.data.views.train_views import TrainTransform, adjust, draw_adjustments


def clip():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 4, 12, 16), dtype=torch.uint8, generator=generator)


def test_factors_are_uniform_and_orders_all_occur():
    draws = [draw_adjustments(0.4, np.random.default_rng(seed)) for seed in range(600)]

    values = np.array([factor for factors in draws for _, factor in factors])
    assert values.min() == pytest.approx(0.6, abs=0.01)
    assert values.max() == pytest.approx(1.4, abs=0.01)
    assert values.mean() == pytest.approx(1.0, abs=0.02)
    assert len({tuple(name for name, _ in factors) for factors in draws}) == 6


def test_all_frames_are_adjusted_alike_in_the_drawn_order():
    adjusted = clip()
    frames = adjusted.transpose(0, 1).clone()

    adjust(adjusted, [("saturation", 0.7), ("brightness", 1.3), ("contrast", 0.8)])

    expected = F.adjust_contrast(F.adjust_brightness(F.adjust_saturation(frames, 0.7), 1.3), 0.8)
    assert torch.equal(adjusted.transpose(0, 1), expected)


def test_views_are_jittered_only_without_randaugment():
    frames = clip().permute(1, 2, 3, 0).contiguous()
    settings = {"crop_px": 8, "scales_px": (12, 12)}
    both = {**settings, "randaugment": "rand-m7"}

    plain = TrainTransform(**settings)(frames, np.random.default_rng(0))
    jittered = TrainTransform(**settings, colour_jitter=0.4)(frames, np.random.default_rng(0))
    augmented = TrainTransform(**both)(frames, np.random.default_rng(0))
    not_jittered = TrainTransform(**both, colour_jitter=0.4)(frames, np.random.default_rng(0))

    assert not torch.equal(jittered, plain)
    assert torch.equal(not_jittered, augmented)
