"""``DATA.REVERSE_INPUT_CHANNEL`` from the picture on disk to the model's input, against upstream.

PySlowFast reads the frames of Something-Something with OpenCV, so as blue, green, red; it augments
and normalises them in that order and turns the channels round at the very end. Here frames are
red, green, blue from the first to the last, so what remains of the key is the order of the
statistics.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from slowfast_mvit import builders
from slowfast_mvit.config import load_config
from slowfast_mvit.data.loading.items import read_views
from slowfast_mvit.structures import ClipBatch, VideoRecord, ViewPlan

SIDE = 32
SETTINGS = ["DATA.NUM_FRAMES", "4", "DATA.TEST_CROP_SIZE", str(SIDE)]


def rgb_with_pil(path):
    return np.array(Image.open(path))


def bgr_with_opencv(path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    return cv2.imread(str(path))


def bgr_by_hand(path):
    return rgb_with_pil(path)[..., ::-1]


@pytest.fixture
def frame_folder(tmp_path):
    """Four pictures, redder than they are blue."""
    pixels = np.random.default_rng(0).integers(0, 200, (4, SIDE, SIDE, 3), dtype=np.uint8)
    pixels[..., 0] += 50
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    return tmp_path


def our_input(config, folder):
    """(3, T, S, S): what our model is given."""
    clip = builders.clip_spec(config, "ssv2")
    plan = ViewPlan(1, 1, scale_px=SIDE, crop_px=SIDE)
    pixels, _ = read_views(VideoRecord("v", str(folder), 0), clip, plan)
    batch = ClipBatch(pixels[None], torch.tensor([0]), ("v",), plan.views())
    return builders.prepare_views(config)(batch)[0]


def upstream_input(config, folder, read):
    """(3, T, S, S): PySlowFast's chain, step by step."""
    numbers = [0, 1, 2, 2]  # the middle frames of the parts 0-1, 1-2, 2-2 and 2-3
    frames = np.stack([read(folder / f"{number}.png") for number in numbers])
    clip = frames.astype(np.float32) / 255.0
    clip = (clip - np.array(config.data.mean)) / np.array(config.data.std)
    clip = clip.transpose(3, 0, 1, 2)
    if config.data.reverse_input_channel:
        clip = clip[[2, 1, 0]]
    return torch.from_numpy(clip.copy())


@pytest.mark.parametrize("read", [bgr_with_opencv, bgr_by_hand])
def test_reversed_channels_give_what_upstream_gives_its_models(frame_folder, read):
    config = load_config("SSv2/MVITv2_L_40x3.yaml", SETTINGS)
    assert config.data.reverse_input_channel and len(set(config.data.mean)) == 3

    ours = our_input(config, frame_folder)

    theirs = upstream_input(config, frame_folder, read)
    torch.testing.assert_close(ours, theirs.float(), rtol=0, atol=1e-6)


def test_without_the_key_frames_are_normalised_as_those_of_kinetics(frame_folder):
    overrides = ["DATA.REVERSE_INPUT_CHANNEL", "False", *SETTINGS]
    config = load_config("SSv2/MVITv2_L_40x3.yaml", overrides)

    ours = our_input(config, frame_folder)

    theirs = upstream_input(config, frame_folder, rgb_with_pil)
    torch.testing.assert_close(ours, theirs.float(), rtol=0, atol=1e-6)


AUGMENTATIONS = {
    "AutoContrast": ImageOps.autocontrast,
    "Equalize": ImageOps.equalize,
    "Invert": ImageOps.invert,
    "Posterize": lambda image: ImageOps.posterize(image, 3),
    "Solarize": lambda image: ImageOps.solarize(image, 100),
    "Brightness": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "Sharpness": lambda image: ImageEnhance.Sharpness(image).enhance(1.4),
    "Rotate": lambda image: image.rotate(20, resample=Image.BICUBIC, fillcolor=(128, 128, 128)),
    "Color": lambda image: ImageEnhance.Color(image).enhance(1.4),
    "Contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.4),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_only_colour_and_contrast_see_the_order_in_which_upstream_augments(frame_folder, name):
    """These two weigh the channels as red, green and blue; docs/data.md tells of it."""
    rgb = rgb_with_pil(frame_folder / "0.png")

    in_our_order = np.array(AUGMENTATIONS[name](Image.fromarray(rgb)))
    bgr = Image.fromarray(np.ascontiguousarray(rgb[..., ::-1]))
    in_their_order = np.array(AUGMENTATIONS[name](bgr))[..., ::-1]

    difference = np.abs(in_our_order.astype(int) - in_their_order).max()
    assert difference == 0 if name not in ("Color", "Contrast") else 0 < difference <= 30
