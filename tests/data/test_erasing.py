"""Random erasing: boxes, modes, shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slowfast_mvit.data.views.batch_augmentation import random_erase
from slowfast_mvit.errors import ConfigError


def erased_boxes(mode, seed, max_count=1, size=(24, 32), prob=1.0):
    clips = torch.full((40, 3, 4, *size), 7.0)
    erased = random_erase(
        clips, np.random.default_rng(seed), prob=prob, mode=mode, max_count=max_count
    )
    assert torch.equal(clips, torch.full_like(clips, 7.0))
    return erased, erased != 7.0


def test_a_box_is_the_same_in_all_frames_and_its_noise_fresh():
    erased, mask = erased_boxes("pixel", 0)

    assert torch.equal(mask, mask[:, :1, :1].expand_as(mask))
    assert mask.any(dim=(1, 2, 3, 4)).all()
    first, second = erased[0, :, 0][mask[0, :, 0]], erased[0, :, 1][mask[0, :, 1]]
    assert not torch.equal(first, second)
    values = erased[mask]
    assert values.mean().abs() < 0.02 and (values.std() - 1).abs() < 0.02


def test_a_box_has_the_drawn_area_and_is_a_box():
    _, mask = erased_boxes("const", 0, size=(60, 80))
    plane = mask[:, 0, 0]

    heights = plane.any(dim=2).sum(1)
    widths = plane.any(dim=1).sum(1)
    areas = plane.sum(dim=(1, 2))
    assert torch.equal(areas, heights * widths)
    shares = areas / (60 * 80)
    assert shares.min() >= 0.018 and shares.max() <= 0.34
    aspects = heights / widths
    assert aspects.min() >= 0.27 and aspects.max() <= 3.6


def test_the_modes_fill_with_zeros_or_one_colour_a_frame():
    zeros, mask = erased_boxes("const", 0)
    colours, colour_mask = erased_boxes("rand", 0)

    assert (zeros[mask] == 0).all()
    one_frame = colours[0, 0, 0][colour_mask[0, 0, 0]]
    assert (one_frame == one_frame[0]).all()
    assert one_frame[0] != colours[0, 0, 1][colour_mask[0, 0, 1]][0]


def test_several_boxes_share_the_area():
    _, mask = erased_boxes("const", 3, max_count=3, size=(60, 80))

    assert (mask[:, 0, 0].sum(dim=(1, 2)) / (60 * 80)).max() <= 0.34


def test_only_the_given_share_is_erased():
    clips = torch.zeros(400, 3, 1, 8, 8)

    erased = random_erase(clips, np.random.default_rng(0), prob=0.25)

    share = (erased != 0).any(dim=(1, 2, 3, 4)).float().mean()
    assert float(share) == pytest.approx(0.25, abs=0.06)
    assert random_erase(clips, np.random.default_rng(0), prob=0.0) is clips


def test_erasing_is_a_function_of_its_generator():
    first, _ = erased_boxes("pixel", 5, prob=0.5)
    again, _ = erased_boxes("pixel", 5, prob=0.5)

    assert torch.equal(first, again)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match=r"AUG.RE_MODE 'pixels' is not a choice"):
        random_erase(torch.zeros(1, 3, 1, 8, 8), np.random.default_rng(0), prob=1.0, mode="pixels")
