"""RandAugment, operation by operation, against timm's, which run in PIL."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from videos import picture

from slowfast_mvit.data.randaugment import OPERATIONS, RandAugment, parse_randaugment
from slowfast_mvit.errors import ConfigError

timm_operations = pytest.importorskip("timm.data.auto_augment", reason="timm is the oracle")

REFERENCE = Path(__file__).parents[1] / "reference" / "sampling_and_schedules.json"
LEVEL_ARGUMENTS = json.loads(REFERENCE.read_text())["randaug_level_args_at_7_random_seed0"]
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

ARGUMENTS = {
    "AutoContrast": [0],
    "Equalize": [0],
    "Invert": [0],
    "Rotate": [-30.0, -21.0, 7.3, 0.0],
    "Posterize": [1, 2, 4],
    "Solarize": [0, 77, 179, 256],
    "SolarizeAdd": [0, 77, 110],
    "Color": [0.1, 0.37, 1.0, 1.63, 1.9],
    "Contrast": [0.1, 0.37, 1.0, 1.63, 1.9],
    "Brightness": [0.1, 0.37, 1.0, 1.63, 1.9],
    "Sharpness": [0.1, 0.37, 1.0, 1.63, 1.9],
    "ShearX": [-0.3, 0.0, 0.21],
    "ShearY": [-0.3, 0.0, 0.21],
    "TranslateXRel": [-0.45, 0.0, 0.315],
    "TranslateYRel": [-0.45, 0.0, 0.315],
}


class FirstDrawOfRandomSeed0:
    """Python's ``random.seed(0); random.random()``, which the reference was computed with."""

    def random(self):
        return 0.8444218515250481


def frames():
    """(2, H, W, 3): a picture with structure, and noise over all levels."""
    noise = np.random.default_rng(0).integers(0, 256, size=(46, 63, 3), dtype=np.uint8)
    return np.stack([picture(3, 46, 63), noise])


def by_timm(name, images, argument, interpolation):
    operation = timm_operations.NAME_TO_OP[name]
    arguments = () if name in ("AutoContrast", "Equalize", "Invert") else (argument,)
    style = {"fillcolor": (128, 128, 128), "resample": RESAMPLE[interpolation]}
    return np.stack(
        [np.array(operation(Image.fromarray(image), *arguments, **style)) for image in images]
    )


@pytest.mark.parametrize("interpolation", RESAMPLE)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_at_most_one_level_from_pil(name, interpolation):
    augment = RandAugment(interpolation=interpolation)
    images = frames()
    clip = torch.from_numpy(images).permute(0, 3, 1, 2)

    for argument in ARGUMENTS[name]:
        expected = by_timm(name, images, argument, interpolation).astype(int)
        actual = augment.apply(name, clip, argument).permute(0, 2, 3, 1).numpy().astype(int)

        difference = np.abs(actual - expected)
        assert difference.max() <= 1, argument
        assert difference.mean() <= 0.03, argument


@pytest.mark.parametrize("name", OPERATIONS)
def test_levels_mean_what_they_mean_in_pyslowfast(name):
    draws = FirstDrawOfRandomSeed0()
    increasing_name = name + "Increasing" if name + "Increasing" in LEVEL_ARGUMENTS else name
    plain, increasing = LEVEL_ARGUMENTS[name], LEVEL_ARGUMENTS[increasing_name]

    assert OPERATIONS[name].argument(0.7, False, draws) == pytest.approx((plain or [0])[0])
    assert OPERATIONS[name].argument(0.7, True, draws) == pytest.approx((increasing or [0])[0])


def test_the_published_specification_is_understood():
    assert parse_randaugment("rand-m7-n4-mstd0.5-inc1", "bicubic") == RandAugment(
        num_ops=4, magnitude=7.0, magnitude_std=0.5, increasing=True, interpolation="bicubic"
    )
    assert parse_randaugment("rand-m9-mstd0.5-inc1").num_ops == 2
    assert parse_randaugment("rand-n1").magnitude == 10.0
    assert not parse_randaugment("rand-m9").increasing


@pytest.mark.parametrize(
    "spec",
    [
        "augmix-m3",
        "rand-m",
        "rand-m7-x2",
        "rand-m11",
        "rand-m7-m8",
        "rand-n2.5",
        "m7-n4",
        "rand-w0",
    ],
)
def test_other_specifications_are_refused(spec):
    with pytest.raises(ConfigError, match=r"AUG.AA_TYPE"):
        parse_randaugment(spec)


def test_another_interpolation_is_refused():
    with pytest.raises(ConfigError, match=r"AUG.INTERPOLATION 'lanczos' is not a choice"):
        parse_randaugment("rand-m7", "lanczos")


def test_a_clip_is_drawn_for_once_and_by_its_generator_alone():
    augment = parse_randaugment("rand-m7-n4-mstd0.5-inc1", "bilinear")
    clip = torch.from_numpy(picture(0)).permute(2, 0, 1).expand(5, 3, 48, 64)

    for seed in range(12):
        first = augment(clip, np.random.default_rng(seed))
        again = augment(clip, np.random.default_rng(seed))

        assert first.shape == clip.shape and first.dtype == torch.uint8
        assert torch.equal(first, again)
        assert torch.equal(first, first[:1].expand_as(first))  # all frames alike


def test_half_of_the_operations_are_done():
    augment = RandAugment(num_ops=1, magnitude=5.0, magnitude_std=0.0, increasing=True)
    clip = torch.from_numpy(picture(0)).permute(2, 0, 1).expand(1, 3, 48, 64)

    changed = [not torch.equal(augment(clip, np.random.default_rng(s)), clip) for s in range(200)]

    assert np.mean(changed) == pytest.approx(0.5, abs=0.1)
