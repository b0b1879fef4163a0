"""Crops: their places, against golden offsets, and their resizing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from slowfast_mvit.data.views import geometry, pixels
from slowfast_mvit.data.views.eval_views import crop_boxes
from slowfast_mvit.data.views.geometry import Window

REFERENCE = Path(__file__).parents[1] / "reference" / "sampling_and_schedules.json"
CROPS = json.loads(REFERENCE.read_text())["uniform_crop"]


def smooth_clip():
    """(2, 3, 48, 64) uint8, so that resizing in floats and in bytes can be compared."""
    y, x = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    picture = torch.stack([y * 3 % 256, x * 2 % 256, (x + y) % 256])
    return torch.stack([picture, (picture + 5) % 256]).to(torch.uint8)


@pytest.mark.parametrize("case", CROPS, ids=lambda case: f"{case['in']} to {case['short_side']}")
def test_test_crops_are_at_the_same_places_as_in_pyslowfast(case):
    size = pixels.short_side_at(tuple(case["in"]), case["short_side"])
    boxes = crop_boxes(*size, case["crop"], num_crops=3)
    centre = crop_boxes(*size, case["crop"], num_crops=1)

    assert list(size) == case["resized"]
    assert [list(box) for box in boxes] == case["yx_offsets_idx0_1_2"]
    assert centre == boxes[1:2]


def test_resizing_is_bilinear_without_antialiasing():
    clip = smooth_clip()

    resized = pixels.resize_frames(clip.permute(0, 2, 3, 1).numpy(), (30, 40), "clip")

    expected = F.interpolate(clip.float(), size=(30, 40), mode="bilinear", align_corners=False)
    difference = torch.from_numpy(resized).permute(0, 3, 1, 2).float() - expected
    assert difference.abs().max() <= 1.0


def test_the_short_side_is_drawn_uniformly_or_inversely():
    rng = np.random.default_rng(0)

    plain = [geometry.draw_short_side((256, 320), False, rng) for _ in range(4000)]
    inverse = [geometry.draw_short_side((256, 320), True, rng) for _ in range(4000)]

    assert (min(plain), max(plain)) == (min(inverse), max(inverse)) == (256, 320)
    assert np.mean(plain) == pytest.approx(288, abs=1)
    assert np.mean(1 / np.array(inverse)) == pytest.approx((1 / 256 + 1 / 320) / 2, rel=2e-3)


def test_crop_boxes_have_the_drawn_area_and_aspect():
    rng = np.random.default_rng(0)
    boxes = np.array(
        [geometry.draw_crop(256, 256, (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(3000)]
    )

    area = boxes[:, 2] * boxes[:, 3] / 256**2
    aspect = boxes[:, 3] / boxes[:, 2]
    assert (boxes >= 0).all()
    assert ((boxes[:, :2] + boxes[:, 2:]) <= 256).all()
    assert 0.075 < area.min() < 0.1
    assert area.max() > 0.9
    assert 0.73 < aspect.min() < 0.77
    assert 1.3 < aspect.max() < 1.37
    assert np.median(np.log(aspect)) == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((100, 300), (0, 83, 100, 133)),
        ((300, 100), (83, 0, 133, 100)),
        ((90, 100), (0, 0, 90, 100)),
    ],
)
def test_a_crop_that_never_fits_falls_back_to_the_centre(size, box):
    always_too_large = (4.0, 4.0)

    fallen_back = geometry.draw_crop(
        *size, always_too_large, (0.75, 4 / 3), np.random.default_rng(0)
    )

    assert fallen_back == box


def test_random_crops_reach_every_offset_but_the_last():
    cuts = [
        geometry.draw_random_cut((8, 10), 8, (8, 8), False, np.random.default_rng(seed))
        for seed in range(60)
    ]

    assert {cut.box for cut in cuts} == {(0, 0, 8, 8), (0, 1, 8, 8)}


CUTS = {
    "a part": geometry.Cut((57, 83), (5, 20, 31, 44)),
    "a crop of it larger": geometry.Cut((64, 93), (3, 50, 40, 40)),
    "a crop of it smaller": geometry.Cut((41, 59), (0, 19, 40, 40)),
    "its far end": geometry.Cut((64, 93), (24, 53, 40, 40)),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_view_needs_only_its_source_box(cut):
    frames = np.random.default_rng(0).integers(0, 256, (2, 57, 83, 3), dtype=np.uint8)
    top, left, height, width = box = cut.source_box((57, 83))
    part = frames[:, top : top + height, left : left + width]

    whole = geometry.cut_out(Window(frames, (0, 0, 57, 83), (57, 83)), cut, 40)
    from_part = geometry.cut_out(Window(part, box, (57, 83)), cut, 40)

    assert whole.shape == (2, 40, 40, 3)
    assert np.array_equal(from_part, whole)


def test_a_view_is_mapped_to_its_box():
    cut = geometry.Cut((128, 128), (32, 16, 64, 32))  # of a frame of 64 x 64, doubled

    a, _, c, _, e, f = cut.to_frame((64, 64), side=8)
    mirrored = cut.to_frame((64, 64), side=8, mirrored=True)

    assert (c, c + 8 * a) == (8, 24)  # the left and right edge
    assert (f, f + 8 * e) == (16, 48)  # the upper and lower edge
    assert (mirrored[2], mirrored[2] + 8 * mirrored[0]) == (24, 8)
