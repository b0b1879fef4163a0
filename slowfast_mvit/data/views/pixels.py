"""Pixels of training and test views: resizing, writing channel by channel, normalisation.

Ways of resizing (``ViewPlan.resizing``):

clip           bilinear without antialiasing, as PySlowFast resizes the frames of videos
image          bicubic with antialiasing, as Pillow, and so torchvision and timm, resize images
whole image    the same, but to a square: the whole image, not in proportion
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

Frames = npt.NDArray[np.uint8]  # (T, H, W, 3)
Box = tuple[int, int, int, int]  # top, left, height, width in pixels


def cropped(frames: Frames, box: Box) -> Frames:
    """Return a part of frames, (T, h, w, 3), which shares their memory."""
    top, left, height, width = box
    return frames[:, top : top + height, left : left + width]


def short_side_at(size: tuple[int, int], short_px: int) -> tuple[int, int]:
    """Height and width with the shorter side at ``short_px``; the longer in proportion, floored."""
    height, width = size
    if min(height, width) == short_px:
        return size
    if width < height:
        return math.floor(height / width * short_px), short_px
    return short_px, math.floor(width / height * short_px)


def resize_frames(frames: Frames, size: tuple[int, int], resizing: str) -> Frames:
    """Resize frames to a height and width.

    Args:
        frames: (T, H, W, 3) uint8.
        size: height and width.
        resizing: one of ``structures.RESIZINGS``.
    """
    if frames.shape[1:3] == size:
        return frames
    if resizing == "clip":
        bilinear = InterpolationMode.BILINEAR
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
        clip = F.resize(clip, list(size), interpolation=bilinear, antialias=False)
        resized: Frames = clip.permute(0, 2, 3, 1).numpy()
        return resized
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    scaled = [image.resize(size[::-1], Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image) for image in scaled])


@functools.cache
def has_opencv() -> bool:
    """Return whether OpenCV is installed and loads: some builds need graphics libraries."""
    try:
        importlib.import_module("cv2")
    except ImportError:
        return False
    return True


def write_planes(pixels: Frames, view: Frames) -> None:
    """Copy a view, which may be cropped or mirrored, to memory in which channels are separate.

    numpy and torch take 2 to 8 times as long as OpenCV to separate the channels.
    """
    if not has_opencv():
        view[:] = pixels
        return
    import cv2

    mirrored = pixels.strides[2] < 0
    for number, frame in enumerate(pixels[:, :, ::-1] if mirrored else pixels):
        planes = [view[number, ..., channel] for channel in range(3)]
        cv2.split(cv2.flip(frame, 1) if mirrored else frame, planes)


def by_frame(clip: Tensor) -> Frames:
    """Return a clip (3, T, H, W) as frames (T, H, W, 3) that share its memory."""
    frames: Frames = clip.permute(1, 2, 3, 0).numpy()
    return frames


# On the device, on whole batches


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(..., 3, T, S, S) uint8 -> (N, 3, T, S, S) float32, N the product of the leading axes.

    Args:
        pixels: 0 to 255.
        mean: of R, G and B, on the scale from 0 to 1.
        std: standard deviation of R, G and B, on the same scale.
    """
    dtype = torch.get_default_dtype()
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), dtype, pixels.device)
    return torch.addcmul(shift, pixels.flatten(0, -5), scale)  # one pass, one new tensor


@functools.cache  # sending numbers to a GPU waits for all queued work
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the factor and the summand of bytes, (3, 1, 1, 1) each."""
    with torch.inference_mode(False):  # or training could not use what a test run has made
        scale = [1 / (255 * s) for s in std]
        shift = [-m / s for m, s in zip(mean, std, strict=True)]
        both = torch.tensor([scale, shift], dtype=dtype, device=device).view(2, 3, 1, 1, 1)
        return both[0], both[1]
