"""Crops of training views: what is drawn, and how a crop becomes a square view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slowfast_mvit.data.views.affine import Window
from slowfast_mvit.data.views.operations import Affine
from slowfast_mvit.data.views.pixels import Box, Frames, part_of, resize_frames, short_side_at
from slowfast_mvit.randomness import Draws, whole_number

_CROP_TRIES = 10


@dataclass(frozen=True)
class Cut:
    """A part of a frame that becomes a square view.

    Attributes:
        size: height and width to which the frame is resized first.
        box: the part of the resized frame; it is resized to the view.
        resizing: of the part: "clip" or "image". An image is cut without resizing it first.
    """

    size: tuple[int, int]
    box: Box
    resizing: str = "clip"

    def to_frame(self, size: tuple[int, int], side: int, *, mirrored: bool = False) -> Affine:
        """Return the map from a pixel of the view to the frame of ``size`` that is cut."""
        top, left, height, width = self.box
        scale_x, scale_y = size[1] / self.size[1], size[0] / self.size[0]
        a, c = width / side * scale_x, left * scale_x
        if mirrored:
            a, c = -a, c + a * side
        return (a, 0.0, c, 0.0, height / side * scale_y, top * scale_y)

    def source_box(self, size: tuple[int, int]) -> Box:
        """Return the pixels of the frame of ``size`` from which the view is made."""
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
    """Return the view (T, side, side, 3) uint8 of a window that contains ``cut.source_box``."""
    pixels, box = window.pixels, cut.box
    if cut.size != window.size:
        pixels = resize_frames(_whole_frames(window), cut.size, "clip")
    else:
        box = (box[0] - window.box[0], box[1] - window.box[1], *box[2:])
    return resize_frames(part_of(pixels, box), (side, side), cut.resizing)


def _whole_frames(window: Window) -> Frames:
    """Return whole frames with the window's pixels in their place, and any values elsewhere.

    The resizing of whole frames cannot produce a part alone with the same roundings.
    """
    if window.pixels.shape[1:3] == window.size:
        return window.pixels
    frames = np.empty((len(window.pixels), *window.size, 3), dtype=np.uint8)
    part_of(frames, window.box)[:] = window.pixels
    return frames


def draw_random_cut(
    size: tuple[int, int], side: int, scales_px: tuple[int, int], inverse: bool, rng: Draws
) -> Cut:
    """Draw a square anywhere in the frame, once its short side is resized to a drawn length.

    As in PySlowFast never at the very end of an axis.
    """
    height, width = short_side_at(size, draw_short_side(scales_px, inverse, rng))
    top = whole_number(rng, 0, height - side) if height > side else 0
    left = whole_number(rng, 0, width - side) if width > side else 0
    return Cut((height, width), (top, left, side, side))


def draw_short_side(scales_px: tuple[int, int], inverse: bool, rng: Draws) -> int:
    """Draw a short side from the least to the greatest of ``scales_px``."""
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
    """Draw a box of a random share of the area and a log-uniform random aspect ratio.

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
