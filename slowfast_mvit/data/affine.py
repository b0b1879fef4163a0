"""Fetching pixels from where an affine map says, for all frames of a clip at once.

The map is the same for all frames, so neighbours and weights are worked out once, and a pixel is a
weighted sum of a few rows of a table that holds, in row (x, y), that pixel of every frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from slowfast_mvit.data.operations import Affine, Frames

FILL = 128  # grey that comes in from outside the picture

Box = tuple[int, int, int, int]  # top, left, height, width in pixels
Grid = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_JUST_BELOW = 1 / 4096  # values are rounded down, but not 7 that came out as 6.9999


@dataclass(frozen=True)
class Window:
    """A part of a clip's frames.

    Attributes:
        pixels: (T, h, w, 3) uint8.
        box: where the part lies in the picture.
        size: height and width of the picture.
    """

    pixels: Frames
    box: Box
    size: tuple[int, int]


def resample(window: Window, matrix: Affine, box: Box, interpolation: str) -> Window:
    """The part ``box`` of the picture that ``matrix`` makes; grey where it fetches from outside.

    Neighbours beyond the edge of the picture repeat the edge.

    Args:
        window: holds at least ``fetched_box`` of these.
        matrix: from a pixel to where it comes from.
        box: which pixels to make.
        interpolation: a row of ``KERNELS``.
    """
    _, _, height, width = box
    from_x, from_y = coordinates(matrix, box)
    outside = outside_picture(from_x, from_y, window.size)
    pixels = fetch(window, from_x, from_y, interpolation)
    if outside.any():
        pixels[torch.from_numpy(outside)] = FILL
    pixels = pixels.view(height, width, -1, 3).permute(2, 0, 1, 3)
    return Window(pixels.numpy(), box, window.size)


def coordinates(matrix: Affine, box: Box) -> tuple[Grid, Grid]:
    """Where the pixels of ``box`` come from: x and y, each (h*w,), pixel centres at one half."""
    top, left, height, width = box
    a, b, c, d, e, f = matrix
    x = np.arange(left, left + width) + 0.5
    y = (np.arange(top, top + height) + 0.5)[:, None]
    return (a * x + b * y + c).ravel(), (d * x + e * y + f).ravel()


def outside_picture(from_x: Grid, from_y: Grid, size: tuple[int, int]) -> Mask:
    """Which of the coordinates lie outside the picture."""
    height, width = size
    return (from_x < 0) | (from_x >= width) | (from_y < 0) | (from_y >= height)


def fetched_box(matrix: Affine, box: Box, size: tuple[int, int], interpolation: str) -> Box:
    """The pixels that ``resample`` reads to make ``box``; at least one."""
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


def fetch(window: Window, from_x: Grid, from_y: Grid, interpolation: str) -> Tensor:
    """(N,) coordinates in the picture -> (N, T*3) uint8; those outside give anything."""
    top, left, height, width = window.box
    columns, column_weights = _taps(from_x, window.size[1], left, width, interpolation)
    rows, row_weights = _taps(from_y, window.size[0], top, height, interpolation)
    neighbours = (rows[:, :, None] * np.int32(width) + columns[:, None]).reshape(len(from_x), -1)
    weights = (row_weights[:, :, None] * column_weights[:, None]).reshape(len(from_x), -1)
    # A weighted sum of a few rows of a table: what embedding_bag does, and does quickly.
    fetched = F.embedding_bag(
        torch.from_numpy(neighbours),
        _pixel_by_pixel(window.pixels),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights),
    )
    return fetched.add_(_JUST_BELOW).clamp_(0, 255).to(torch.uint8)


def _pixel_by_pixel(frames: Frames) -> Tensor:
    """(T, H, W, 3) uint8 -> (H*W, T*3) float32."""
    num_frames, height, width, _ = frames.shape
    table = np.empty((height, width, num_frames, 3), dtype=np.uint8)
    whole_pixels = table.view("V3")[..., 0]  # three bytes are moved at a time
    for number, frame in enumerate(frames):
        whole_pixels[:, :, number] = frame.view("V3")[..., 0]
    return torch.from_numpy(table).view(height * width, -1).float()


def _taps(
    positions: Grid, size: int, start: int, count: int, interpolation: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The neighbours of each position along an axis, counted from ``start``, and their weights.

    Both (N, taps). A neighbour that has no weight anywhere is left out: a shear moves along one
    axis only.
    """
    first = np.floor(positions - 0.5)
    before, kernel = KERNELS[interpolation]
    weights = kernel((positions - 0.5 - first).astype(np.float32))
    used = [number for number, weight in enumerate(weights) if weight.any()]
    nearest = first.astype(np.int32) + np.int32(before)
    neighbours = [
        ((nearest + np.int32(number)).clip(0, size - 1) - np.int32(start)).clip(0, count - 1)
        for number in used
    ]
    return np.stack(neighbours, axis=1), np.stack([weights[number] for number in used], axis=1)


Weights = npt.NDArray[np.float32]


def _linear_weights(d: Weights) -> list[Weights]:
    return [1 - d, d]


def _cubic_weights(d: Weights) -> list[Weights]:
    """The cubic kernel with a = -1 that PIL uses to transform (its resize has a = -1/2)."""
    square, cube = d * d, d * d * d
    return [2 * square - d - cube, 1 - 2 * square + cube, d + square - cube, cube - square]


# interpolation -> the first neighbour, counted from the floor, and the weights of all
KERNELS: dict[str, tuple[int, Callable[[Weights], list[Weights]]]] = {
    "bilinear": (0, _linear_weights),
    "bicubic": (-1, _cubic_weights),
}
