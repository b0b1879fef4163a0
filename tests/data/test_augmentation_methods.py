"""The three methods for the same draws: against PIL in their order, and each other."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from slowfast_mvit.data.views import exact, fused, geometry, pixels
from slowfast_mvit.data.views.randaugment import OPERATIONS, Step, parse_randaugment
from slowfast_mvit.data.views.train_views import METHODS, TrainTransform

SPEC = "rand-m7-n4-mstd0.5-inc1"
RESIZED_CROP = {"area_range": (0.08, 1.0), "aspect_range": (0.75, 1.3333)}
CROPS = {"resized crop": RESIZED_CROP, "jitter": {}}
ONE_OF_EACH = {
    "AutoContrast": 0,
    "Equalize": 0,
    "Invert": 0,
    "Rotate": 21.3,
    "Posterize": 2,
    "Solarize": 77,
    "SolarizeAdd": 77,
    "Color": 1.63,
    "Contrast": 0.37,
    "Brightness": 1.63,
    "Sharpness": 0.37,
    "ShearX": 0.21,
    "ShearY": -0.21,
    "TranslateXRel": 0.315,
    "TranslateYRel": -0.315,
}


def smooth_frames(height=96, width=130, num_frames=3):
    """(T, H, W, 3) uint8: soft blobs of colour with a little noise."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (num_frames, 3, 6, 8)))
    soft = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    noise = torch.from_numpy(rng.normal(0, 2, (num_frames, 3, height, width)))
    return (soft + noise).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def transform(method="exact", **settings):
    return TrainTransform(
        **{"crop_px": 64, "scales_px": (72, 110), "randaugment": SPEC, "method": method, **settings}
    )


def chains(count):
    augment = parse_randaugment(SPEC)
    drawn = (augment.draw(np.random.default_rng(seed)) for seed in range(10 * count))
    return [steps for steps in drawn if len(steps) > 1][:count]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_part_is_that_part_of_the_whole(interpolation):
    frames = smooth_frames().numpy()
    rng = np.random.default_rng(1)

    for steps in chains(80):
        height, width = rng.integers(1, 96), rng.integers(1, 130)
        top, left = rng.integers(0, 97 - height), rng.integers(0, 131 - width)
        whole = exact.on_whole_frames(frames, steps, interpolation)
        part = exact.on_a_part(frames, steps, interpolation, (top, left, height, width))

        expected = whole[:, top : top + height, left : left + width]
        np.testing.assert_array_equal(part, expected, err_msg=str(steps))


def test_large_frames_are_fetched_in_portions(monkeypatch):
    frames, steps = smooth_frames().numpy(), [Step("Rotate", 21.3)]
    expected = exact.on_whole_frames(frames, steps, "bicubic")
    monkeypatch.setattr(geometry, "_PIXELS_AT_ONCE", 2 * 96 * 130)
    monkeypatch.setattr(geometry, "_FETCHED_AT_ONCE", 1000)

    in_portions = exact.on_whole_frames(frames, steps, "bicubic")

    np.testing.assert_array_equal(in_portions, expected)


SIZES = [(1, 1), (1, 9), (2, 2), (3, 40), (40, 3), (37, 41)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]} x {size[1]}")
def test_a_view_can_be_made_of_frames_of_any_size(size, method):
    levels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    frames = torch.from_numpy(levels)

    for crop in CROPS.values():
        make_view = transform(method, crop_px=16, scales_px=(16, 20), **crop)
        for seed in range(8):
            view = make_view(frames, np.random.default_rng(seed))

            assert view.shape == (3, 1, 16, 16) and view.dtype == torch.uint8


def timm_chain(frames, steps):
    operations = pytest.importorskip("timm.data.auto_augment", reason="timm is the oracle")
    images = [Image.fromarray(frame) for frame in frames]
    style = {"fillcolor": (128, 128, 128), "resample": Image.Resampling.BICUBIC}
    for name, argument in steps:
        arguments = () if name in ("AutoContrast", "Equalize", "Invert") else (argument,)
        images = [operations.NAME_TO_OP[name](image, *arguments, **style) for image in images]
    return np.stack([np.array(image) for image in images])


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS)
def test_the_exact_method_is_pil_on_whole_frames_then_the_crop(crop):
    frames = smooth_frames()
    method = transform(**crop)
    differences = []

    for seed in range(40):
        draws = method.draw((96, 130), np.random.default_rng(seed))
        augmented = torch.from_numpy(timm_chain(frames.numpy(), draws.steps))
        expected = torch.empty((3, 3, 64, 64), dtype=torch.uint8)
        same_crop = type(draws)((), draws.cut, draws.flip)
        METHODS["exact"](
            augmented.numpy(), same_crop, "bicubic", expected.permute(1, 2, 3, 0).numpy()
        )
        actual = method(frames, np.random.default_rng(seed))
        differences.append((actual.int() - expected.int()).abs().float().mean())

    # A level's difference grows where a later operation inverts from a threshold on.
    assert np.median(differences) < 1e-3
    assert np.max(differences) < 0.05


def test_crop_first_is_the_crop_then_pil_on_the_view():
    frames = smooth_frames()
    method = transform("crop_first", **RESIZED_CROP)
    differences = []

    for seed in range(40):
        draws = method.draw((96, 130), np.random.default_rng(seed))
        without_steps = type(draws)((), draws.cut, draws.flip)
        cropped = np.empty((3, 64, 64, 3), dtype=np.uint8)
        METHODS["exact"](frames.numpy(), without_steps, "bicubic", cropped)
        expected = timm_chain(cropped, draws.steps)
        actual = method(frames, np.random.default_rng(seed)).permute(1, 2, 3, 0).numpy()
        differences.append(np.abs(actual.astype(int) - expected).mean())

    assert np.median(differences) < 1e-3
    assert np.max(differences) < 0.05


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS)
def test_all_methods_use_up_the_same_draws(crop):
    for seed in range(10):
        after = []
        for name in METHODS:
            rng = np.random.default_rng(seed)
            transform(name, **crop)(smooth_frames(), rng)
            after.append(rng.random())

        assert after == after[:1] * len(METHODS)


def difference_of_fused(steps, crop, seed=5):
    """Mean difference of the two methods in levels, for the same crop."""
    frames = smooth_frames()
    drawn = transform(**crop).draw((96, 130), np.random.default_rng(seed))
    draws = type(drawn)(tuple(steps), drawn.cut, drawn.flip)
    views = []
    for name in ("exact", "fused"):
        view = np.empty((3, 3, 64, 64), dtype=np.uint8).transpose(1, 2, 3, 0)  # as in a clip
        METHODS[name](frames.numpy(), draws, "bilinear", view)
        views.append(view.astype(int))
    return np.abs(views[0] - views[1]).mean()


# Posterize has steps of 64 levels, which move where a pixel differs by one.
BOUNDS = {"Posterize": 6.0, "AutoContrast": 4.0, "Equalize": 4.0}


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_fused_is_close_to_exact_for_one_operation(name, crop):
    assert difference_of_fused([Step(name, ONE_OF_EACH[name])], crop) < BOUNDS.get(name, 2.0)


@pytest.mark.parametrize(
    "names",
    [
        ("Rotate", "ShearX", "TranslateYRel"),
        ("Invert", "Rotate", "Brightness"),
        ("TranslateXRel", "Equalize", "Color"),
        ("ShearY", "Color", "TranslateYRel", "Invert"),
        ("Rotate", "AutoContrast", "Solarize"),
        ("Contrast", "ShearX", "Contrast", "SolarizeAdd"),
        ("Brightness", "Equalize", "Equalize", "TranslateXRel"),
    ],
)
def test_fused_is_close_to_exact_for_a_chain(names):
    steps = [Step(name, ONE_OF_EACH[name]) for name in names]

    assert difference_of_fused(steps, RESIZED_CROP) < 4.0


def test_fused_is_close_to_exact_for_most_draws():
    exactly = transform(**RESIZED_CROP)
    fusing = transform("fused", **RESIZED_CROP)
    differences = []

    for seed in range(60):
        expected, actual = (
            method(smooth_frames(), np.random.default_rng(seed)).int()
            for method in (exactly, fusing)
        )
        differences.append((actual - expected).abs().float().mean())

    assert np.mean(differences) < 2.0
    assert np.percentile(differences, 90) < 5.0


@pytest.mark.parametrize("backend", [fused.PLAIN, fused.OPENCV], ids=["plain", "OpenCV"])
def test_grey_from_outside_is_changed_by_later_operations_only(backend):
    if backend is fused.OPENCV:
        pytest.importorskip("cv2", reason="OpenCV is not installed")
    frames = np.full((1, 40, 40, 3), 200, dtype=np.uint8)
    cut = geometry.Cut((40, 40), (0, 0, 40, 40))
    steps = [Step("Invert", 0), Step("TranslateXRel", 0.5), Step("Brightness", 0.5)]
    steps += [Step("TranslateYRel", 0.25), Step("Invert", 0)]
    view = np.empty((3, 1, 40, 40), dtype=np.uint8).transpose(1, 2, 3, 0)

    fused.write_view(frames, steps, cut, view, mirrored=False, backend=backend)

    assert set(np.unique(view[0, :30, :20])) == {255 - (255 - 200) // 2}
    assert set(np.unique(view[0, :30, 20:])) == {255 - 128 // 2}
    assert set(np.unique(view[0, 30:])) == {255 - 128}


def test_opencv_does_the_same_within_two_levels():
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    frames = smooth_frames().numpy()
    planes = smooth_frames().permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0).numpy()
    tables = np.random.default_rng(0).integers(0, 256, (3, 3, 256), dtype=np.uint8)
    rotated = (0.9, 0.2, -3.7, -0.25, 0.8, 21.3)
    plain, fast = fused.PLAIN, fused.OPENCV

    pairs = [
        (plain.sample(frames, rotated, 64), fast.sample(frames, rotated, 64)),
        *((plain.colour(frames, f), fast.colour(frames, f)) for f in (0.37, 1.63)),
        *((plain.sharpness(frames, f), fast.sharpness(frames, f)) for f in (0.37, 1.63)),
    ]

    for expected, actual in pairs:
        # The outermost pixels, which PIL does not sharpen, are left out.
        difference = np.abs(expected.astype(int) - actual)[:, 1:-1, 1:-1]
        assert difference.max() <= 2
        assert difference.mean() <= 0.7
    looked_up = np.empty_like(planes)
    fast.look_up(planes, tables, looked_up)
    for view in (frames, frames[:, :, ::-1]):
        written = np.empty_like(planes)
        pixels.write_planes(view, written)
        np.testing.assert_array_equal(written, view)
    np.testing.assert_array_equal(looked_up, plain.look_up(frames, tables, np.empty_like(frames)))


def test_fused_does_without_opencv(monkeypatch):
    monkeypatch.setattr(pixels, "has_opencv", lambda: False)
    monkeypatch.setitem(sys.modules, "cv2", None)  # any import of it fails

    for seed in range(8):
        view = transform("fused")(smooth_frames(), np.random.default_rng(seed))

        assert view.shape == (3, 3, 64, 64)
