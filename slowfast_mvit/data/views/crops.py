"""Crop boxes and resizing of frames.

clip           bilinear without antialiasing, as PySlowFast resizes the frames of videos
image          bicubic with antialiasing: what Pillow, and so torchvision and timm, do to images
whole image    the same, to a square: all of the picture, not in proportion
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from slowfast_mvit.data.views.affine import Box, Window
from slowfast_mvit.data.views.operations import Affine, Frames
from slowfast_mvit.randomness import Draws, whole_number

_CROP_TRIES = 10


@dataclass(frozen=True)
class Cut:
    """A part of a picture that becomes a square view.

    Attributes:
        size: height and width that the picture is resized to first.
        box: the part of the resized picture; it is resized to the view.
        resizing: how that is done: "clip" or "image". An image is cut in the size that it has.
    """

    size: tuple[int, int]
    box: Box
    resizing: str = "clip"

    def to_picture(self, size: tuple[int, int], side: int, *, mirrored: bool = False) -> Affine:
        """The map from a pixel of the view to the picture of ``size`` that is cut."""
        top, left, height, width = self.box
        scale_x, scale_y = size[1] / self.size[1], size[0] / self.size[0]
        a, c = width / side * scale_x, left * scale_x
        if mirrored:
            a, c = -a, c + a * side
        return (a, 0.0, c, 0.0, height / side * scale_y, top * scale_y)

    def source_box(self, size: tuple[int, int]) -> Box:
        """The pixels of the picture of ``size`` that the view is made of."""
        if self.size == size:
            return self.box
        spans = []
        for start, length, old, new in zip(self.box, self.box[2:], size, self.size, strict=False):
            first = math.floor((start + 0.5) * old / new - 0.5) - 1  # one more: floats are rounded
            last = math.floor((start + length - 0.5) * old / new - 0.5) + 2
            first, last = max(first, 0), min(last, old - 1)
            spans.append((first, last - first + 1))
        (top, height), (left, width) = spans
        return top, left, height, width


def cut_out(window: Window, cut: Cut, side: int) -> Frames:
    """The view (T, side, side, 3) uint8 of a window that holds at least ``cut.source_box``."""
    pixels, box = window.pixels, cut.box
    if cut.size != window.size:
        pixels = _as_clip(_in_its_picture(window), cut.size)
    else:
        box = (box[0] - window.box[0], box[1] - window.box[1], *box[2:])
    top, left, height, width = box
    part = pixels[:, top : top + height, left : left + width]
    return (_as_clip if cut.resizing == "clip" else _as_image)(part, (side, side))


def _in_its_picture(window: Window) -> Frames:
    """Whole frames that hold the window's pixels in their place, and anything elsewhere.

    The resizing of whole frames cannot be asked for a part with the same roundings.
    """
    if window.pixels.shape[1:3] == window.size:
        return window.pixels
    top, left, height, width = window.box
    frames = np.empty((len(window.pixels), *window.size, 3), dtype=np.uint8)
    frames[:, top : top + height, left : left + width] = window.pixels
    return frames


def _as_clip(frames: Frames, size: tuple[int, int]) -> Frames:
    if frames.shape[1:3] == size:
        return frames
    clip = resize(torch.from_numpy(frames).permute(0, 3, 1, 2), list(size))
    resized: Frames = clip.permute(0, 2, 3, 1).numpy()
    return resized


def _as_image(frames: Frames, size: tuple[int, int]) -> Frames:
    if frames.shape[1:3] == size:
        return frames
    pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    resized = [picture.resize(size[::-1], Image.Resampling.BICUBIC) for picture in pictures]
    return np.stack([np.asarray(picture) for picture in resized])


def draw_random_cut(
    size: tuple[int, int], side: int, scales_px: tuple[int, int], inverse: bool, rng: Draws
) -> Cut:
    """A square anywhere in the picture, once its short side is resized to a drawn length.

    As in PySlowFast never at the very end of an axis.
    """
    height, width = short_side_at(size, draw_short_side(scales_px, inverse, rng))
    top = whole_number(rng, 0, height - side) if height > side else 0
    left = whole_number(rng, 0, width - side) if width > side else 0
    return Cut((height, width), (top, left, side, side))


def draw_resized_cut(
    size: tuple[int, int],
    area_range: Sequence[float],
    aspect_range: Sequence[float],
    rng: Draws,
    resizing: str = "clip",
) -> Cut:
    """A random part of the picture, to be resized to a square (the crop of Inception)."""
    return Cut(size, draw_crop(*size, area_range, aspect_range, rng), resizing)


def draw_short_side(scales_px: tuple[int, int], inverse: bool, rng: Draws) -> int:
    """A short side from the least to the greatest of ``scales_px``."""
    least, greatest = scales_px
    if inverse:
        return round(1.0 / rng.uniform(1.0 / greatest, 1.0 / least))
    return round(rng.uniform(least, greatest))


def draw_crop(
    height: int,
    width: int,
    area_range: Sequence[float],
    aspect_range: Sequence[float],
    rng: Draws,
) -> Box:
    """A box of a random share of the area and a random aspect ratio, uniform in its logarithm.

    After ten boxes that do not fit: the largest in the centre within ``aspect_range``.
    """
    least, greatest = aspect_range
    for _ in range(_CROP_TRIES):
        area = rng.uniform(area_range[0], area_range[1]) * height * width
        aspect = math.exp(rng.uniform(math.log(least), math.log(greatest)))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = whole_number(rng, 0, height - box_height + 1)
            left = whole_number(rng, 0, width - box_width + 1)
            return top, left, box_height, box_width
    box_height = min(height, round(width / least))
    box_width = min(width, round(height * greatest))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def crop_boxes(
    height: int, width: int, side: int, num_crops: int, *, resizing: str = "clip"
) -> list[tuple[int, int]]:
    """(top, left) of each crop; the centre is rounded up, for images half to even as torchvision
    does."""
    rounded = math.ceil if resizing == "clip" else round
    top, left = rounded((height - side) / 2), rounded((width - side) / 2)
    if num_crops == 1:
        return [(top, left)]
    if height > width:
        return [(0, left), (top, left), (height - side, left)]
    return [(top, 0), (top, left), (top, width - side)]


def short_side_at(size: tuple[int, int], short_px: int) -> tuple[int, int]:
    """Height and width with the shorter side at ``short_px``; the longer in proportion, floored."""
    height, width = size
    if min(height, width) == short_px:
        return size
    if width < height:
        return math.floor(height / width * short_px), short_px
    return short_px, math.floor(width / height * short_px)


def resize_pictures(frames: Tensor, scale_px: int, resizing: str) -> Tensor:
    """Pictures as a test scales them: (T, H, W, 3) uint8 -> (T, 3, H', W') uint8.

    Args:
        frames: of one video, or an image.
        scale_px: of the shorter side; of both sides of a "whole image".
        resizing: one of ``structures.RESIZINGS``.
    """
    if resizing == "clip":
        return resize_short_side(frames.permute(0, 3, 1, 2), scale_px)
    size = (scale_px, scale_px)
    if resizing == "image":
        size = short_side_at((frames.shape[1], frames.shape[2]), scale_px)
    return torch.from_numpy(_as_image(frames.numpy(), size)).permute(0, 3, 1, 2)


def resize_short_side(clip: Tensor, short_px: int) -> Tensor:
    """(T, 3, H, W) with the shorter side at ``short_px``."""
    size = short_side_at((clip.shape[-2], clip.shape[-1]), short_px)
    return clip if clip.shape[-2:] == size else resize(clip, list(size))


def resize(clip: Tensor, size: list[int]) -> Tensor:
    """(T, 3, H, W) uint8 at another height and width."""
    bilinear = InterpolationMode.BILINEAR
    resized: Tensor = F.resize(clip, size, interpolation=bilinear, antialias=False)
    return resized
