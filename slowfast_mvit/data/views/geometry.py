"""Crops of training views, and resampling by an affine map, for all frames of a clip at once.

The map is the same for all frames, so neighbours and weights are computed once, and a pixel is a
weighted sum of a few rows of a table whose row (x, y) contains that pixel of every frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from slowfast_mvit.data.views.pixels import Box, Frames, cropped, resize_frames, short_side_at
from slowfast_mvit.data.views.randaugment import Affine
from slowfast_mvit.randomness import Draws, whole_number

FILL = 128  # grey, outside the frame
GREY = (FILL, FILL, FILL)

Grid = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float32]

_CROP_TRIES = 10
_FETCHED_AT_ONCE = 1 << 14  # pixels: their neighbours and weights stay in the cache
_PIXELS_AT_ONCE = 1 << 22  # of frames: 64 MiB as floats
_JUST_BELOW = 1 / 4096  # values are rounded down, but not a 7 that was computed as 6.9999


@dataclass(frozen=True)
class Window:
    """A part of a clip's frames.

    Attributes:
        pixels: (T, h, w, 3) uint8.
        box: the place of the part in the frame.
        size: height and width of the frame.
        fill: R, G and B outside the frame.
    """

    pixels: Frames
    box: Box
    size: tuple[int, int]
    fill: tuple[int, int, int] = GREY


def resample(window: Window, matrix: Affine, box: Box, interpolation: str) -> Window:
    """Return the part ``box`` of the mapped frame; ``fill`` where the source is outside the frame.

    Neighbours beyond the edge of the frame repeat the edge.

    Args:
        window: contains at least ``fetched_box`` of the other arguments.
        matrix: from a pixel to its source.
        box: the pixels to make.
        interpolation: a row of ``KERNELS``.
    """
    from_x, from_y = coordinates(matrix, box)
    outside = outside_frame(from_x, from_y, window.size)
    pixels = fetch(window, from_x, from_y, interpolation, outside if outside.any() else None)
    return replace(window, pixels=pixels.reshape(-1, *box[2:], 3), box=box)


def coordinates(matrix: Affine, box: Box) -> tuple[Grid, Grid]:
    """Return the source x and y of the pixels of ``box``, each (h*w,), centres at one half."""
    top, left, height, width = box
    a, b, c, d, e, f = matrix
    x = np.arange(left, left + width) + 0.5
    y = (np.arange(top, top + height) + 0.5)[:, None]
    return (a * x + b * y + c).ravel(), (d * x + e * y + f).ravel()


def outside_frame(from_x: Grid, from_y: Grid, size: tuple[int, int]) -> Mask:
    """Return a mask of the coordinates outside the frame."""
    height, width = size
    return (from_x < 0) | (from_x >= width) | (from_y < 0) | (from_y >= height)


def fetched_box(matrix: Affine, box: Box, size: tuple[int, int], interpolation: str) -> Box:
    """Return the box of the pixels that ``resample`` reads to make ``box``; at least one pixel."""
    top, left, height, width = box
    a, b, c, d, e, f = matrix
    corners = [
        (a * x + b * y + c, d * x + e * y + f)
        for x in (left + 0.5, left + width - 0.5)
        for y in (top + 0.5, top + height - 0.5)
    ]
    before, kernel = KERNELS[interpolation]
    after = before + len(kernel(np.zeros(1, dtype=np.float32))) - 1
    spans = []
    for values, length in zip(zip(*corners, strict=True), size[::-1], strict=True):
        first = int(np.floor(min(values) - 0.5)) + before
        last = int(np.floor(max(values) - 0.5)) + after
        first, last = (min(max(end, 0), length - 1) for end in (first, last))
        spans.append((first, last - first + 1))
    (left, width), (top, height) = spans
    return top, left, height, width


def fetch(
    window: Window, from_x: Grid, from_y: Grid, interpolation: str, outside: Mask | None = None
) -> Frames:
    """Return the pixels at (N,) coordinates of the frame: (T, 1, N, 3) uint8.

    Those in ``outside`` are the window's ``fill``; without it, pixels outside are undefined.
    """
    _, _, height, width = window.box
    count = max(1, _PIXELS_AT_ONCE // (height * width))
    portions = [
        _fetch_portion(replace(window, pixels=portion), from_x, from_y, interpolation, outside)
        for portion in np.split(window.pixels, range(count, len(window.pixels), count))
    ]
    return portions[0] if len(portions) == 1 else np.concatenate(portions)


def _fetch_portion(
    window: Window, from_x: Grid, from_y: Grid, interpolation: str, outside: Mask | None
) -> Frames:
    """``fetch`` for some of the frames: all of their pixels are in memory as floats."""
    table = torch.from_numpy(_pixel_by_pixel(window.pixels)).float()
    pixels = np.empty((len(from_x), table.shape[1]), dtype=np.uint8)
    for start in range(0, len(from_x), _FETCHED_AT_ONCE):
        some = slice(start, start + _FETCHED_AT_ONCE)
        neighbours, weights = _neighbours(window, from_x[some], from_y[some], interpolation)
        # embedding_bag computes a weighted sum of a few rows of a table, and is fast.
        fetched = F.embedding_bag(neighbours, table, mode="sum", per_sample_weights=weights)
        pixels[some] = fetched.add_(_JUST_BELOW).clamp_(0, 255).numpy()
    if outside is not None:
        pixels[outside] = (*window.fill, 0) * len(window.pixels)  # the fourth byte is not used
    return _frame_by_frame(pixels)


def _neighbours(
    window: Window, from_x: Grid, from_y: Grid, interpolation: str
) -> tuple[Tensor, Tensor]:
    """Return the pixels of the window for each coordinate, and their weights: (N, taps)."""
    top, left, height, width = window.box
    columns = _taps(from_x, window.size[1], left, width, interpolation)
    rows = _taps(from_y, window.size[0], top, height, interpolation)
    neighbours = np.empty((len(from_x), len(rows) * len(columns)), dtype=np.int32)
    weights = np.empty(neighbours.shape, dtype=np.float32)
    pairs = ((row, column) for row in rows for column in columns)
    for number, ((row, row_weight), (column, column_weight)) in enumerate(pairs):
        np.add(row * np.int32(width), column, out=neighbours[:, number])
        np.multiply(row_weight, column_weight, out=weights[:, number])
    return torch.from_numpy(neighbours), torch.from_numpy(weights)


# Whole pixels are moved, padded to four bytes: a sixth of the time of moving their bytes.


def _pixel_by_pixel(frames: Frames) -> npt.NDArray[np.uint8]:
    """(T, H, W, 3) -> (H*W, T*4); the fourth byte of each pixel is not used."""
    num_frames, height, width, _ = frames.shape
    memory = np.empty(frames.size + 1, dtype=np.uint8)  # the last pixel has a fourth byte, too
    memory[:-1].reshape(frames.shape)[:] = frames
    memory[-1] = 0
    strides = (width * 3, 3, height * width * 3)
    padded = np.ndarray((height, width, num_frames), np.uint32, buffer=memory, strides=strides)
    return np.ascontiguousarray(padded).view(np.uint8).reshape(height * width, -1)


def _frame_by_frame(pixels: npt.NDArray[np.uint8]) -> Frames:
    """(N, T*4) -> (T, 1, N, 3): a frame is one row."""
    frames = np.ascontiguousarray(pixels.view(np.uint32).T)  # (T, N)
    unpadded = np.empty((len(frames), 1, len(pixels), 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        image = Image.frombuffer("RGBA", (len(frame), 1), frame, "raw", "RGBA", 0, 1)
        bytes_of_frame = np.frombuffer(image.tobytes("raw", "RGB"), dtype=np.uint8)
        unpadded[number] = bytes_of_frame.reshape(1, -1, 3)
    return unpadded


def _taps(
    positions: Grid, size: int, start: int, count: int, interpolation: str
) -> list[tuple[npt.NDArray[np.int32], Weights]]:
    """Return the neighbours of positions along an axis, counted from ``start``, and their weights.

    A neighbour without weight everywhere is left out: a shear moves along one axis only.
    """
    first = np.floor(positions - 0.5)
    before, kernel = KERNELS[interpolation]
    weights = kernel((positions - 0.5 - first).astype(np.float32))
    nearest = first.astype(np.int32) + np.int32(before)
    return [
        (((nearest + np.int32(number)).clip(0, size - 1) - np.int32(start)).clip(0, count - 1), w)
        for number, w in enumerate(weights)
        if w.any()
    ]


def _cubic_weights(d: Weights) -> list[Weights]:
    """The cubic kernel with a = -1 that PIL uses to transform (its resize has a = -1/2)."""
    square, cube = d * d, d * d * d
    return [2 * square - d - cube, 1 - 2 * square + cube, d + square - cube, cube - square]


# interpolation -> the first neighbour, counted from the floor, and the weights of all
KERNELS: dict[str, tuple[int, Callable[[Weights], list[Weights]]]] = {
    "bilinear": (0, lambda d: [1 - d, d]),
    "bicubic": (-1, _cubic_weights),
}


# Crops


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
    return resize_frames(cropped(pixels, box), (side, side), cut.resizing)


def cut_from_all(frames: Frames, cut: Cut, side: int, *, mirrored: bool) -> Frames:
    """Return the view (T, side, side, 3) uint8 of whole frames."""
    size = frames.shape[1:3]
    view = cut_out(Window(frames, (0, 0, *size), size), cut, side)
    return view[:, :, ::-1] if mirrored else view


def _whole_frames(window: Window) -> Frames:
    """Return whole frames with the window's pixels in their place, and any values elsewhere.

    The resizing of whole frames cannot produce a part alone with the same roundings.
    """
    if window.pixels.shape[1:3] == window.size:
        return window.pixels
    frames = np.empty((len(window.pixels), *window.size, 3), dtype=np.uint8)
    cropped(frames, window.box)[:] = window.pixels
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
    height: int, width: int, area_range: Sequence[float], aspect_range: Sequence[float], rng: Draws
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
