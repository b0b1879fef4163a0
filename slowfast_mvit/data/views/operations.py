"""RandAugment's operations on pixels: PIL's arithmetic, on all frames of a clip.

Each operation is of one kind, by the pixels that it reads to make one:

    Levels       the pixel itself: a table of the 256 levels
    FrameLevels  the same, but the table depends on all pixels of the frame
    Colour       the pixel itself, all its channels
    Sharpness    the pixel and the eight around it
    Geometry     pixels elsewhere: an affine map

Frames are (T, H, W, 3) uint8 RGB. One operation is applied to all frames of a clip alike; tables
that depend on a frame are made for each frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from slowfast_mvit.data.views.pixels import Frames

Tables = npt.NDArray[np.uint8]  # (T or 1, 3 or 1, 256): for each frame or all, channel or all

# pixel (x, y) -> its source (a x + b y + c, d x + e y + f), in pixels from the corner
Affine = tuple[float, float, float, float, float, float]

_LEVELS = np.arange(256)


@dataclass(frozen=True)
class Levels:
    """The new levels (256,) made from the argument."""

    levels: Callable[[float], npt.NDArray]

    def tables(self, argument: float) -> Tables:
        """Return one table for all frames and channels."""
        return _as_levels(self.levels(argument)[None, None])


@dataclass(frozen=True)
class FrameLevels:
    """Tables of levels made from whole frames, the argument, and the weight of a pixel.

    The weight is 1 where the frames are whole, and more where they are a coarse copy.
    """

    tables: Callable[[Frames, float, int], Tables]


@dataclass(frozen=True)
class Colour:
    """Away from grey (argument above 1) or towards it."""


@dataclass(frozen=True)
class Sharpness:
    """Away from a smoothed frame (argument above 1) or towards it."""


@dataclass(frozen=True)
class Geometry:
    """The affine map made from the argument, and the width and height of the frame."""

    matrix: Callable[[float, int, int], Affine]


Kind = Levels | FrameLevels | Colour | Sharpness | Geometry


class Step(NamedTuple):
    """A drawn operation: a row of ``KINDS``, and its argument in the unit of the operation."""

    name: str
    argument: float


# Tables of levels


def _posterize(bits: float) -> npt.NDArray:
    return _LEVELS & (256 - (1 << (8 - int(bits)))) if bits > 0 else 0 * _LEVELS


def _solarize_add(added: float) -> npt.NDArray:
    return np.where(_LEVELS < 128, np.minimum(_LEVELS + int(added), 255), _LEVELS)


def _auto_contrast(frames: Frames, argument: float, weight: int) -> Tables:
    """Stretch each channel to 0 to 255."""
    num_frames, height, width, _ = frames.shape
    rows = frames.reshape(num_frames, height, width * 3)
    low = rows.min(axis=1).reshape(num_frames, width, 3).min(axis=1).astype(float)[..., None]
    high = rows.max(axis=1).reshape(num_frames, width, 3).max(axis=1).astype(float)[..., None]
    scale = 255.0 / np.maximum(high - low, 1.0)
    return _as_levels(np.where(high > low, _LEVELS * scale - low * scale, _LEVELS))


def _equalize(frames: Frames, argument: float, weight: int) -> Tables:
    """A flat histogram for each channel."""
    counts = np.array([Image.fromarray(frame).histogram() for frame in frames])
    counts = weight * counts.reshape(len(frames), 3, 256)
    greatest = 255 - (counts[..., ::-1] > 0).argmax(axis=-1, keepdims=True)
    num_pixels = counts.sum(axis=-1, keepdims=True)
    step = (num_pixels - np.take_along_axis(counts, greatest, axis=-1)) // 255
    before = counts.cumsum(axis=-1) - counts
    tables = (step // 2 + before) // np.maximum(step, 1)
    return _as_levels(np.where(step == 0, _LEVELS, tables))


def _contrast(frames: Frames, factor: float, weight: int) -> Tables:
    """Away from the mean grey of each frame, or towards it."""
    num_pixels = frames[0, ..., 0].size
    greys = [np.asarray(Image.fromarray(frame).convert("L")) for frame in frames]
    means = [int(grey.sum(dtype=np.int64)) / num_pixels for grey in greys]
    return _away_from(np.floor(np.array(means) + 0.5), factor)


def _away_from(levels: npt.NDArray[np.float64], factor: float) -> Tables:
    """Return tables (T, 1, 256) that blend with one level for each frame; in float32, as PIL."""
    start = levels.astype(np.float32)[:, None, None]
    return _as_levels(start + np.float32(factor) * (_LEVELS.astype(np.float32) - start))


def _as_levels(values: npt.NDArray) -> Tables:
    return values.clip(0, 255).astype(np.uint8)


def look_up(frames: Frames, tables: Tables, out: Frames) -> Frames:
    """Replace each level by its entry; ``out`` may be ``frames``. Returns ``out``.

    ``bytes.translate`` is the fastest look-up here: a fifth of the time of numpy's indexing.
    """
    plane_by_plane = frames.strides[3] > 1  # (3, T, H, W) in memory
    for number, frame in enumerate(frames):
        table = tables[number % len(tables)]
        if plane_by_plane:
            for channel in range(3):
                levels = table[channel % len(table)]
                out[number, ..., channel] = _translated(frame[..., channel], levels)
        elif len(table) == 1:
            out[number] = _translated(frame, table[0])
        else:
            out[number] = np.asarray(Image.fromarray(frame).point(table.ravel().tolist()))
    return out


def _translated(levels: npt.NDArray[np.uint8], table: npt.NDArray[np.uint8]) -> npt.NDArray:
    new = levels.tobytes().translate(table.tobytes())
    return np.frombuffer(new, dtype=np.uint8).reshape(levels.shape)


# Pixels and their neighbours


def colour(frames: Frames, factor: float) -> Frames:
    """Each frame away from its grey version, or towards it."""
    result = np.empty(frames.shape, dtype=np.uint8)
    for number, frame in enumerate(frames):
        image = Image.fromarray(frame)
        result[number] = np.asarray(Image.blend(image.convert("L").convert("RGB"), image, factor))
    return result


def sharpness(frames: Frames, factor: float) -> Frames:
    """Each frame away from its smoothed version, or towards it; the outermost pixels stay."""
    result = np.empty(frames.shape, dtype=np.uint8)
    for number, frame in enumerate(frames):
        smooth = np.array(frame, order="C")
        if min(frame.shape[:2]) > 2:
            smooth[1:-1, 1:-1] = _smoothed_inside(frame)
        result[number] = _blend(smooth, frame, factor)
    return result


def _smoothed_inside(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) -> (H - 2, W - 2, 3): the pixel counts 5, each of the eight around it 1."""
    whole = np.array(frame, dtype=np.uint16, order="C")
    rows = whole[:-2] + whole[1:-1]
    rows += whole[2:]
    total = rows[:, :-2] + rows[:, 1:-1]
    total += rows[:, 2:]
    total += 4 * whole[1:-1, 1:-1]
    # Thirteenths are never within 1/26 of where rounding turns, so 32 bits are exact.
    shares: npt.NDArray[np.float32] = np.multiply(total, np.float32(1 / 13), dtype=np.float32)
    shares += np.float32(0.5)
    return shares.astype(np.uint8)


def _blend(
    start: npt.NDArray[np.uint8], end: npt.NDArray[np.uint8], factor: float
) -> npt.NDArray[np.uint8]:
    """start + factor * (end - start) of two frames, by PIL, byte by byte."""
    first, second = (
        Image.fromarray(np.ascontiguousarray(frame).reshape(len(frame), -1))
        for frame in (start, end)
    )
    blended: npt.NDArray[np.uint8] = np.asarray(Image.blend(first, second, factor))
    return blended.reshape(start.shape)


# Affine maps


def _rotate(degrees: float, width: int, height: int) -> Affine:
    """Rotate the frame anticlockwise round its centre."""
    angle = -math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    shift_x, shift_y = x - cosine * x - sine * y, y + sine * x - cosine * y
    return (cosine, sine, shift_x, -sine, cosine, shift_y)


# ShearX shifts each row by its argument times the distance from the top, and ShearY each column by
# that from the left. The translations shift to the left and upwards, by a share of the size.
KINDS: dict[str, Kind] = {
    "AutoContrast": FrameLevels(_auto_contrast),
    "Equalize": FrameLevels(_equalize),
    "Invert": Levels(lambda _: 255 - _LEVELS),
    "Rotate": Geometry(_rotate),
    "Posterize": Levels(_posterize),
    "Solarize": Levels(lambda threshold: np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS)),
    "SolarizeAdd": Levels(_solarize_add),
    "Color": Colour(),
    "Contrast": FrameLevels(_contrast),
    "Brightness": Levels(lambda factor: np.float32(factor) * _LEVELS.astype(np.float32)),
    "Sharpness": Sharpness(),
    "ShearX": Geometry(lambda factor, width, height: (1.0, factor, 0.0, 0.0, 1.0, 0.0)),
    "ShearY": Geometry(lambda factor, width, height: (1.0, 0.0, 0.0, factor, 1.0, 0.0)),
    "TranslateXRel": Geometry(
        lambda share, width, height: (1.0, 0.0, share * width, 0.0, 1.0, 0.0)
    ),
    "TranslateYRel": Geometry(
        lambda share, width, height: (1.0, 0.0, 0.0, 0.0, 1.0, share * height)
    ),
}
