"""Views: crops, sizes, normalisation and erasing, against golden offsets and torchvision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from slowfast_mvit.data import transforms
from slowfast_mvit.data.transforms import TrainTransform, normalise, random_erase
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.structures import ViewPlan

REFERENCE = Path(__file__).parents[1] / "reference" / "sampling_and_schedules.json"
CROPS = json.loads(REFERENCE.read_text())["uniform_crop"]


def frames(height=48, width=64, num_frames=3):
    """(T, H, W, 3) uint8, smooth, so that resizing in floats and in bytes can be compared."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    picture = torch.stack([y * 3 % 256, x * 2 % 256, (x + y) % 256], dim=-1)
    return torch.stack([(picture + 5 * t) % 256 for t in range(num_frames)]).to(torch.uint8)


@pytest.mark.parametrize("case", CROPS, ids=lambda case: f"{case['in']} to {case['short_side']}")
def test_test_crops_lie_where_they_do_in_pyslowfast(case):
    clip = torch.zeros(1, 3, *case["in"], dtype=torch.uint8)

    resized = transforms.resize_short_side(clip, case["short_side"])
    boxes = transforms.crop_boxes(*resized.shape[-2:], case["crop"], num_crops=3)
    centre = transforms.crop_boxes(*resized.shape[-2:], case["crop"], num_crops=1)

    assert list(resized.shape[-2:]) == case["resized"]
    assert [list(box) for box in boxes] == case["yx_offsets_idx0_1_2"]
    assert centre == boxes[1:2]


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (50, 50)])
def test_test_views_are_crops_of_one_resized_clip(size):
    clip = frames(*size)

    three = transforms.eval_views(clip, ViewPlan(2, 3, scale_px=40, crop_px=32))
    one = transforms.eval_views(clip, ViewPlan(2, 1, scale_px=40, crop_px=32))

    assert three.shape == (3, 3, 3, 32, 32) and three.dtype == torch.uint8
    assert torch.equal(one[0], three[1])


def test_resizing_is_bilinear_without_antialiasing():
    clip = frames().permute(0, 3, 1, 2)

    resized = transforms.resize_short_side(clip, 30)

    expected = F.interpolate(clip.float(), size=(30, 40), mode="bilinear", align_corners=False)
    assert (resized.float() - expected).abs().max() <= 1.0


def test_the_short_side_is_drawn_uniformly_or_inversely():
    rng = np.random.default_rng(0)

    plain = [transforms.draw_short_side((256, 320), False, rng) for _ in range(4000)]
    inverse = [transforms.draw_short_side((256, 320), True, rng) for _ in range(4000)]

    assert (min(plain), max(plain)) == (min(inverse), max(inverse)) == (256, 320)
    assert np.mean(plain) == pytest.approx(288, abs=1)
    assert np.mean(1 / np.array(inverse)) == pytest.approx((1 / 256 + 1 / 320) / 2, rel=2e-3)


def test_crop_boxes_have_the_drawn_area_and_aspect():
    rng = np.random.default_rng(0)
    boxes = np.array(
        [transforms.draw_crop(256, 256, (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(3000)]
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

    fallen_back = transforms.draw_crop(
        *size, always_too_large, (0.75, 4 / 3), np.random.default_rng(0)
    )

    assert fallen_back == box


def test_random_crops_reach_every_offset_but_the_last():
    clip = torch.arange(10, dtype=torch.uint8).expand(1, 3, 8, 10)

    lefts = {
        int(transforms.random_crop(clip, 8, np.random.default_rng(seed))[0, 0, 0, 0])
        for seed in range(60)
    }

    assert lefts == {0, 1}


SETTINGS = [
    {"area_range": (0.08, 1.0), "aspect_range": (0.75, 1.3333)},
    {"inverse_scales": True, "flip": False},
    {"randaugment": "rand-m7-n4-mstd0.5-inc1", "interpolation": "bilinear"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["resized crop", "jitter", "RandAugment"])
@pytest.mark.parametrize("size", [(48, 64), (64, 48), (20, 90)])
def test_a_train_view_is_a_function_of_its_generator(settings, size):
    transform = TrainTransform(crop_px=32, scales_px=(32, 40), **settings)

    first = transform(frames(*size), np.random.default_rng(1))
    again = transform(frames(*size), np.random.default_rng(1))
    other = transform(frames(*size), np.random.default_rng(2))

    assert first.shape == (3, 3, 32, 32) and first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_half_of_the_views_are_mirrored_or_none():
    flipping = TrainTransform(crop_px=16, scales_px=(16, 16))
    steady = TrainTransform(crop_px=16, scales_px=(16, 16), flip=False)
    clip = frames(16, 16, 1)
    upright = clip.permute(3, 0, 1, 2)

    views = [flipping(clip, np.random.default_rng(seed)) for seed in range(200)]

    mirrored = [torch.equal(view, upright.flip(-1)) for view in views]
    assert all(m or torch.equal(v, upright) for m, v in zip(mirrored, views, strict=True))
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.1)
    assert torch.equal(steady(clip, np.random.default_rng(0)), upright)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"area_range": (0.1, 1.0)}, "go together"),
        ({"area_range": (0.0, 1.0), "aspect_range": (1, 1)}, "two shares from 0 to 1"),
        ({"area_range": (0.5, 1.0), "aspect_range": (2, 1)}, "two ratios above 0"),
        ({"scales_px": (30, 40)}, r"must rise from DATA.TRAIN_CROP_SIZE \(32\) or more"),
        ({"scales_px": (40, 36)}, "must rise"),
        ({"randaugment": "rand-x"}, "AUG.AA_TYPE 'rand-x' cannot be read"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainTransform(**{"crop_px": 32, "scales_px": (32, 40), **settings})


def test_normalising_is_what_torchvision_does():
    from torchvision.transforms.v2 import functional as tv

    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    pixels = torch.randint(0, 256, (2, 3, 3, 4, 5, 5), dtype=torch.uint8)

    actual = normalise(pixels, mean, std)

    images = pixels.flatten(0, 1).transpose(1, 2).float() / 255
    expected = tv.normalize(images, mean, std).transpose(1, 2)
    assert actual.shape == (6, 3, 4, 5, 5) and actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)


def test_an_empty_batch_is_normalised_to_an_empty_batch():
    pixels = torch.empty((0, 6, 3, 4, 5, 5), dtype=torch.uint8)

    assert normalise(pixels, [0.45] * 3, [0.225] * 3).shape == (0, 3, 4, 5, 5)


# Erasing


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
