"""PySlowFast's method for a training item and for a test view, on a current stack.

Written from its documented behaviour, not from its code, with its decoder's fault (a sum of a list
and a number) repaired, without which it reads nothing:

    read    seek to before the window of T x tau frames, decode it, turn every frame of it into RGB,
            each with a converter of its own; then take T of them
    train   for each view: float, PIL images, RandAugment on whole frames, tensors, normalisation of
            whole frames, random resized crop, flip, random erasing
    test    for each view: read again, normalisation of whole frames, resize, crop

The draws are those of the same generators as ours, in the same order, so that both augment alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import timm.data.auto_augment as timm_ops
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image, to_tensor

from slowfast_mvit.randomness import Draws, whole_number

MEAN = torch.tensor([0.45, 0.45, 0.45])
STD = torch.tensor([0.225, 0.225, 0.225])
SEEK_MARGIN = 1024  # in the stream's time base

NUM_OPS, MAGNITUDE, MAGNITUDE_STD = 4, 7.0, 0.5  # rand-m7-n4-mstd0.5-inc1
GREY = (128, 128, 128)
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


def read_clip(path: Path, indices: Sequence[int]) -> Tensor:
    """The frames of a clip: (T, H, W, 3) uint8.

    Args:
        path: a video file with a known duration.
        indices: frame numbers, rising; all frames from the first to the last are read.
    """
    frames = torch.as_tensor(np.stack(read_window(path, indices[0], indices[-1])))
    places = torch.tensor(indices) - indices[0]
    return torch.index_select(frames, 0, places.clamp(0, len(frames) - 1))


def read_window(path: Path, first: int, last: int) -> list[np.ndarray]:
    """Every frame from ``first`` to ``last``, each (H, W, 3) uint8."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.duration is None or not stream.frames:
            raise ValueError(f"{path}: PySlowFast needs a duration and a number of frames")
        ticks = stream.duration / stream.frames
        first_pts, last_pts = int(first * ticks), int(last * ticks)
        container.seek(
            max(first_pts - SEEK_MARGIN, 0), any_frame=False, backward=True, stream=stream
        )
        frames = {}
        for frame in container.decode(video=0):
            if frame.pts > last_pts:
                break
            if frame.pts >= first_pts:
                frames[frame.pts] = frame
        return [frames[pts].to_rgb().to_ndarray() for pts in sorted(frames)]


def train_view(
    frames: Tensor,
    side: int,
    rng: Draws,
    *,
    resample: Image.Resampling = BICUBIC,
    erase_prob: float = 0.25,
) -> Tensor:
    """One augmented view: (T, H, W, 3) uint8 -> (3, T, S, S) float32, normalised.

    Args:
        frames: of the clip.
        side: S.
        rng: the stream of this view.
        resample: of RandAugment's geometric operations; the recipes say bicubic.
        erase_prob: share of the views with an erased box.
    """
    floats = frames.clone().float() / 255.0
    images = [to_pil_image(image) for image in floats.permute(0, 3, 1, 2)]
    images = rand_augment(images, rng, resample)
    clip = torch.stack([to_tensor(image) for image in images])  # (T, 3, H, W)
    clip = normalise(clip.permute(0, 2, 3, 1)).permute(3, 0, 1, 2)  # (3, T, H, W)
    clip = random_resized_crop(clip, side, rng)
    if rng.random() < 0.5:
        clip = clip.flip(-1)
    return random_erase(clip, erase_prob, rng)


def test_view(path: Path, indices: Sequence[int], *, short_px: int, side: int) -> Tensor:
    """The central view of a test clip, read separately: (3, T, S, S) float32, normalised.

    Args:
        path: a video file.
        indices: frame numbers of the clip.
        short_px: shorter side before the crop.
        side: S.
    """
    clip = normalise(read_clip(path, indices)).permute(3, 0, 1, 2)
    height, width = clip.shape[-2:]
    if min(height, width) != short_px:
        scale = short_px / min(height, width)
        clip = _resize(clip, (math.floor(height * scale), math.floor(width * scale)))
        height, width = clip.shape[-2:]
    top, left = math.ceil((height - side) / 2), math.ceil((width - side) / 2)
    return clip[:, :, top : top + side, left : left + side]


def normalise(frames: Tensor) -> Tensor:
    """(..., 3) uint8, or float32 from 0 to 1 -> float32, normalised."""
    if frames.dtype == torch.uint8:
        frames = frames.float() / 255.0
    return (frames - MEAN) / STD


def rand_augment(
    images: list[Image.Image], rng: Draws, resample: Image.Resampling
) -> list[Image.Image]:
    """RandAugment by timm's PIL operations; all images get the same operations."""
    names = [list(OPERATIONS)[whole_number(rng, 0, len(OPERATIONS))] for _ in range(NUM_OPS)]
    for name in names:
        if rng.random() >= 0.5:
            continue
        level = min(max(float(rng.normal(MAGNITUDE, MAGNITUDE_STD)), 0.0), 10.0) / 10.0
        operation, argument = OPERATIONS[name]
        words = argument(level, rng)
        images = [operation(image, *words, fillcolor=GREY, resample=resample) for image in images]
    return images


def _signed(greatest: float, start: float = 0.0) -> Callable[[float, Draws], tuple[float]]:
    def argument(level: float, rng: Draws) -> tuple[float]:
        return (start - level * greatest if rng.random() > 0.5 else start + level * greatest,)

    return argument


# name -> timm's operation, and a level (0 to 1) -> its arguments
OPERATIONS: dict[str, tuple[Callable[..., Image.Image], Callable[[float, Draws], tuple]]] = {
    "AutoContrast": (timm_ops.auto_contrast, lambda level, rng: ()),
    "Equalize": (timm_ops.equalize, lambda level, rng: ()),
    "Invert": (timm_ops.invert, lambda level, rng: ()),
    "Rotate": (timm_ops.rotate, _signed(30.0)),
    "Posterize": (timm_ops.posterize, lambda level, rng: (4 - int(level * 4),)),
    "Solarize": (timm_ops.solarize, lambda level, rng: (256 - int(level * 256),)),
    "SolarizeAdd": (timm_ops.solarize_add, lambda level, rng: (int(level * 110),)),
    "Color": (timm_ops.color, _signed(0.9, 1.0)),
    "Contrast": (timm_ops.contrast, _signed(0.9, 1.0)),
    "Brightness": (timm_ops.brightness, _signed(0.9, 1.0)),
    "Sharpness": (timm_ops.sharpness, _signed(0.9, 1.0)),
    "ShearX": (timm_ops.shear_x, _signed(0.3)),
    "ShearY": (timm_ops.shear_y, _signed(0.3)),
    "TranslateXRel": (timm_ops.translate_x_rel, _signed(0.45)),
    "TranslateYRel": (timm_ops.translate_y_rel, _signed(0.45)),
}


def random_resized_crop(
    clip: Tensor,
    side: int,
    rng: Draws,
    area_range: Sequence[float] = (0.08, 1.0),
    aspect_range: Sequence[float] = (0.75, 1.3333),
) -> Tensor:
    """A random part of (3, T, H, W), resized to (3, T, S, S); whole if ten parts do not fit."""
    height, width = clip.shape[-2:]
    least, greatest = map(math.log, aspect_range)
    for _ in range(10):
        area = rng.uniform(*area_range) * height * width
        aspect = math.exp(rng.uniform(least, greatest))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = whole_number(rng, 0, height - box_height + 1)
            left = whole_number(rng, 0, width - box_width + 1)
            clip = clip[:, :, top : top + box_height, left : left + box_width]
            break
    return _resize(clip, (side, side))


def _resize(clip: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(clip, size=size, mode="bilinear", align_corners=False)


def random_erase(clip: Tensor, prob: float, rng: Draws) -> Tensor:
    """Noise in a random box of (3, T, S, S), fresh for each pixel, with probability ``prob``."""
    if rng.random() >= prob:
        return clip
    side = clip.shape[-1]
    erased = clip.contiguous()
    for _ in range(100):
        area = rng.uniform(0.02, 1 / 3) * side * side
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < side and width < side:
            top, left = whole_number(rng, 0, side - height), whole_number(rng, 0, side - width)
            box = erased[:, :, top : top + height, left : left + width]
            box.copy_(torch.empty(box.shape).normal_())
            break
    return erased
