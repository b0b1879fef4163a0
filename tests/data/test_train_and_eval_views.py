"""Views of training and testing, and normalisation as torchvision does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crops import eval_views

from slowfast_mvit.data.views.pixels import normalise
from slowfast_mvit.data.views.train_views import METHODS, TrainTransform
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.structures import ViewPlan


def frames(height=48, width=64, num_frames=3):
    """(T, H, W, 3) uint8, smooth, so that resizing in floats and in bytes can be compared."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    picture = torch.stack([y * 3 % 256, x * 2 % 256, (x + y) % 256], dim=-1)
    return torch.stack([(picture + 5 * t) % 256 for t in range(num_frames)]).to(torch.uint8)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (50, 50)])
def test_test_views_are_crops_of_one_resized_clip(size):
    clip = frames(*size)

    three = eval_views(clip, ViewPlan(2, 3, scale_px=40, crop_px=32))
    one = eval_views(clip, ViewPlan(2, 1, scale_px=40, crop_px=32))

    assert three.shape == (3, 3, 3, 32, 32) and three.dtype == torch.uint8
    assert torch.equal(one[0], three[1])


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


@pytest.mark.parametrize("method", METHODS)
def test_a_view_is_written_to_the_given_memory(method):
    transform = TrainTransform(
        crop_px=32, scales_px=(32, 40), randaugment="rand-m7-n4-mstd0.5-inc1", method=method
    )
    batch = torch.zeros((2, 2, 3, 3, 32, 32), dtype=torch.uint8)

    made = transform(frames(), np.random.default_rng(3))
    written = transform(frames(), np.random.default_rng(3), out=batch[1, 0])

    assert written.data_ptr() == batch[1, 0].data_ptr()
    assert made.is_contiguous() and torch.equal(batch[1, 0], made)
    assert not batch[0].any() and not batch[1, 1].any()


@pytest.mark.parametrize("method", METHODS)
def test_frames_are_left_as_they_were(method):
    transform = TrainTransform(
        crop_px=48, scales_px=(48, 48), randaugment="rand-m7-n4-mstd0.5-inc1", method=method
    )
    clip = frames(48, 48)

    for seed in range(20):
        transform(clip, np.random.default_rng(seed))

    assert torch.equal(clip, frames(48, 48))


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
        ({"interpolation": "lanczos"}, "AUG.INTERPOLATION 'lanczos' is not a choice"),
        ({"method": "fast"}, r"AUG.AA_METHOD 'fast' is not a choice. Choose from: \['exact'"),
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
