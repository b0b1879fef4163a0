"""RandAugment's operations, one by one, against timm's, which run in PIL."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from videos import picture

from slowfast_mvit.data.views.exact import on_whole_frames
from slowfast_mvit.data.views.randaugment import OPERATIONS, Geometry, Step

timm_operations = pytest.importorskip("timm.data.auto_augment", reason="timm is the oracle")

RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

FACTORS = [0.1, 0.37, 0.5, 0.95, 1.0, 1.05, 1.36, 1.63, 1.9]
ARGUMENTS = {
    "AutoContrast": [0],
    "Equalize": [0],
    "Invert": [0],
    "Rotate": [-30.0, -21.0, -19.73, 0.0, 1.5, 7.3, 22.1, 30.0],
    "Posterize": [1, 2, 3, 4, 8],
    "Solarize": [0, 1, 77, 128, 179, 255, 256],
    "SolarizeAdd": [0, 1, 40, 77, 110],
    "Color": FACTORS,
    "Contrast": FACTORS,
    "Brightness": FACTORS,
    "Sharpness": FACTORS,
    "ShearX": [-0.3, -0.2031, 0.0, 0.03, 0.21, 0.3],
    "ShearY": [-0.3, -0.2031, 0.0, 0.03, 0.21, 0.3],
    "TranslateXRel": [-0.45, -0.3007, 0.0, 0.045, 0.315, 0.45],
    "TranslateYRel": [-0.45, -0.3007, 0.0, 0.045, 0.315, 0.45],
}
SIZES = {"odd": (45, 63), "even": (64, 46), "tiny": (3, 5)}


def frames(height, width):
    """(4, H, W, 3): structure, noise over all levels, few levels, one colour."""
    noise = np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    structure = picture(3, max(height, 16), max(width, 16))[:height, :width]
    one_colour = np.broadcast_to(np.array([7, 128, 250], dtype=np.uint8), noise.shape)
    return np.stack([structure, noise, noise // 32 * 9 + 20, one_colour])


def by_timm(name, images, argument, interpolation):
    operation = timm_operations.NAME_TO_OP[name]
    arguments = () if name in ("AutoContrast", "Equalize", "Invert") else (argument,)
    style = {"fillcolor": (128, 128, 128), "resample": RESAMPLE[interpolation]}
    return np.stack(
        [np.array(operation(Image.fromarray(image), *arguments, **style)) for image in images]
    )


NO_GEOMETRY = [name for name, row in OPERATIONS.items() if not isinstance(row.kind, Geometry)]
GEOMETRY = [name for name, row in OPERATIONS.items() if isinstance(row.kind, Geometry)]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", NO_GEOMETRY)
def test_an_operation_on_levels_is_pil_to_the_bit(name, size):
    images = frames(*size)

    for argument in ARGUMENTS[name]:
        expected = by_timm(name, images, argument, "bicubic")
        actual = on_whole_frames(images, [Step(name, argument)], "bicubic")

        np.testing.assert_array_equal(actual, expected, err_msg=f"{name} {argument}")


def differences(name, images, arguments, interpolation):
    for argument in arguments:
        expected = by_timm(name, images, argument, interpolation).astype(int)
        actual = on_whole_frames(images, [Step(name, argument)], interpolation)
        yield np.abs(actual - expected)


@pytest.mark.parametrize("interpolation", RESAMPLE)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", GEOMETRY)
def test_a_geometric_operation_is_at_most_one_level_from_pil(name, size, interpolation):
    found = list(differences(name, frames(*size), ARGUMENTS[name], interpolation))

    # Round arguments give sums that ought to be whole, which PIL rounds up or down as it happens.
    assert np.max(found) <= 1
    assert np.mean(found) <= 0.02


@pytest.mark.parametrize("interpolation", RESAMPLE)
@pytest.mark.parametrize("name", GEOMETRY)
def test_with_drawn_arguments_few_pixels_differ_from_pil(name, interpolation):
    rng = np.random.default_rng(0)
    drawn = [OPERATIONS[name].argument(level, True, rng) for level in rng.uniform(0, 1, 8)]

    found = list(differences(name, frames(61, 80), drawn, interpolation))

    assert np.max(found) <= 1
    assert np.mean(found) <= 1e-3
