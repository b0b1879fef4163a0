"""RandAugment (https://arxiv.org/abs/1909.13719): specifications, draws, and pixel arithmetic.

A specification such as ``rand-m7-n4-mstd0.5-inc1`` means: 4 operations, drawn for each clip with
repeats; each is applied with probability 1/2, at a strength drawn around 7 of 10 with standard
deviation 0.5; ``inc``: strength grows with the number for every operation. With ``w0``, the
operations are drawn without repeats and the geometric ones more often.

Each operation is of one kind, by the pixels that it reads to make one:

    Levels       the pixel itself: a table of the 256 levels
    FrameLevels  the same, but the table depends on all pixels of the frame
    Colour       the pixel itself, all its channels
    Sharpness    the pixel and the eight around it
    Geometry     pixels elsewhere: an affine map

Frames are (T, H, W, 3) uint8 RGB. One operation is applied to all frames of a clip alike; tables
that depend on a frame are made for each frame. ``exact`` and ``fused`` apply the operations.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from slowfast_mvit.data.views.pixels import Frames
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.randomness import Draws, whole_number

MAX_LEVEL = 10.0
_APPLY_PROB = 0.5

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


# level (0 to 1), whether arguments increase with the level, and draws -> argument
Argument = Callable[[float, bool, Draws], float]


class Operation(NamedTuple):
    """A row of ``OPERATIONS``: its kind, its argument, and its weight with "w0", in thousandths."""

    kind: Kind
    argument: Argument
    weight: int


class Step(NamedTuple):
    """A drawn operation: a row of ``OPERATIONS``, and its argument in the unit of the operation."""

    name: str
    argument: float

    @property
    def kind(self) -> Kind:
        """Return the kind of the operation."""
        return OPERATIONS[self.name].kind


# Specifications and draws


@dataclass(frozen=True)
class RandAugment:
    """A parsed specification; see the top of this file.

    Args:
        num_ops: operations drawn for a clip.
        magnitude: mean strength, 0 to 10.
        magnitude_std: standard deviation of the strength.
        increasing: whether every operation grows with its strength; if not, posterize, solarize
            and the enhancements keep the older scales.
        weighted: whether operations are drawn by their weights and without repeats.
    """

    num_ops: int = 2
    magnitude: float = MAX_LEVEL
    magnitude_std: float = 0.0
    increasing: bool = False
    weighted: bool = False

    def draw(self, rng: Draws) -> tuple[Step, ...]:
        """Draw the operations for a clip, in order."""
        steps = []
        for name in self._draw_names(rng):
            if rng.random() < _APPLY_PROB:
                strength = float(rng.normal(self.magnitude, self.magnitude_std))
                level = min(max(strength, 0.0), MAX_LEVEL) / MAX_LEVEL
                steps.append(Step(name, OPERATIONS[name].argument(level, self.increasing, rng)))
        return tuple(steps)

    def _draw_names(self, rng: Draws) -> list[str]:
        names = list(OPERATIONS)
        if self.weighted:
            weights = [row.weight / 1000 for row in OPERATIONS.values()]
            numbers = rng.choice(len(names), self.num_ops, replace=False, p=weights)
            return [names[number] for number in numbers]
        return [names[whole_number(rng, 0, len(names))] for _ in range(self.num_ops)]


@functools.cache
def parse_randaugment(spec: str) -> RandAugment:
    """Read a specification in PySlowFast's form.

    Raises:
        ConfigError: when it is not one, or cannot be met.
    """
    found = re.findall(r"-(m|n|mstd|inc|w)(\d+(?:\.\d+)?)", spec)
    settings = dict(found)
    written = "rand" + "".join(f"-{key}{value}" for key, value in found)
    num_ops, table = settings.get("n", "2"), settings.get("w", "0")
    if written != spec or len(settings) < len(found) or "." in num_ops + table:
        raise ConfigError(
            f"AUG.AA_TYPE {spec!r} cannot be read. Write it like rand-m7-n4-mstd0.5-inc1: "
            "m strength (0 to 10), n operations, mstd spread of the strength, inc1 increasing, "
            "w0 weighted choice"
        )
    magnitude = float(settings.get("m", MAX_LEVEL))
    if magnitude > MAX_LEVEL:
        raise ConfigError(f"AUG.AA_TYPE {spec!r}: the strength m must be from 0 to 10")
    if int(table) > 0:
        raise ConfigError(f"AUG.AA_TYPE {spec!r}: there is one table of weights, w0")
    num_weighted = sum(row.weight > 0 for row in OPERATIONS.values())
    if "w" in settings and int(num_ops) > num_weighted:
        raise ConfigError(
            f"AUG.AA_TYPE {spec!r}: w0 draws without repeats, from {num_weighted} operations; "
            f"n must be at most {num_weighted}"
        )
    return RandAugment(
        num_ops=int(num_ops),
        magnitude=magnitude,
        magnitude_std=float(settings.get("mstd", 0.0)),
        increasing="inc" in settings,  # PySlowFast takes inc0 for true, too
        weighted="w" in settings,
    )


# From a level (0 to 1) to the argument of an operation


def _none(level: float, increasing: bool, rng: Draws) -> float:
    return 0.0


def _signed(greatest: float) -> Argument:
    return lambda level, increasing, rng: _either_sign(level * greatest, rng)


def _either_sign(value: float, rng: Draws) -> float:
    return -value if rng.random() > 0.5 else value


def _num_bits(level: float, increasing: bool, rng: Draws) -> float:
    bits = int(level * 4)
    return 4 - bits if increasing else bits


def _threshold(level: float, increasing: bool, rng: Draws) -> float:
    threshold = int(level * 256)
    return 256 - threshold if increasing else threshold


def _added(level: float, increasing: bool, rng: Draws) -> float:
    return int(level * 110)


def _factor(level: float, increasing: bool, rng: Draws) -> float:
    return 1.0 + _either_sign(level * 0.9, rng) if increasing else level * 1.8 + 0.1


# Tables of levels


def _posterize(bits: float) -> npt.NDArray:
    return _LEVELS & (256 - (1 << (8 - int(bits)))) if bits > 0 else 0 * _LEVELS


def _solarize(threshold: float) -> npt.NDArray:
    return np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS)


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


# In the order in which the draws number them. ShearX shifts each row by its argument times the
# distance from the top, and ShearY each column by that from the left. The translations shift to
# the left and upwards, by a share of the size.
OPERATIONS: dict[str, Operation] = {
    "AutoContrast": Operation(FrameLevels(_auto_contrast), _none, 25),
    "Equalize": Operation(FrameLevels(_equalize), _none, 5),
    "Invert": Operation(Levels(lambda _: 255 - _LEVELS), _none, 0),
    "Rotate": Operation(Geometry(_rotate), _signed(30.0), 300),  # degrees
    "Posterize": Operation(Levels(_posterize), _num_bits, 0),
    "Solarize": Operation(Levels(_solarize), _threshold, 5),
    "SolarizeAdd": Operation(Levels(_solarize_add), _added, 5),
    "Color": Operation(Colour(), _factor, 25),
    "Contrast": Operation(FrameLevels(_contrast), _factor, 5),
    "Brightness": Operation(
        Levels(lambda factor: np.float32(factor) * _LEVELS.astype(np.float32)), _factor, 5
    ),
    "Sharpness": Operation(Sharpness(), _factor, 25),
    "ShearX": Operation(Geometry(lambda f, w, h: (1, f, 0, 0, 1, 0)), _signed(0.3), 200),
    "ShearY": Operation(Geometry(lambda f, w, h: (1, 0, 0, f, 1, 0)), _signed(0.3), 200),
    "TranslateXRel": Operation(
        Geometry(lambda share, w, h: (1, 0, share * w, 0, 1, 0)), _signed(0.45), 100
    ),
    "TranslateYRel": Operation(
        Geometry(lambda share, w, h: (1, 0, 0, 0, 1, share * h)), _signed(0.45), 100
    ),
}
