"""RandAugment in one sampling: all geometric operations and the crop become one affine map.

Each output pixel is sampled once from the decoded frames; the other operations are applied to the
small view, in the order drawn. Tables of levels merge into one. Pixels that an operation samples
outside the frame are grey, and later operations act on that grey, as in PySlowFast. Statistics of
whole frames are those of a coarse copy to which the same operations are applied.

Differences from ``exact``: bytes are rounded once, not after each operation; geometric operations
are bilinear; statistics are those of every fourth pixel of every fourth row; sharpness acts on the
resized view.

Where OpenCV is installed it does the pixel arithmetic (``OPENCV``); the plain form is ``PLAIN``.
They differ by at most two levels: OpenCV rounds coordinates to 1/32 pixel and bytes to the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from slowfast_mvit.data.views import geometry, pixels, randaugment
from slowfast_mvit.data.views.geometry import FILL, Cut, coordinates, outside_frame
from slowfast_mvit.data.views.pixels import Box, Frames
from slowfast_mvit.data.views.randaugment import Affine, Step, Tables, look_up

COARSE_STEP = 4  # statistics look at every fourth pixel of every fourth row

_PIXEL = np.dtype("V3")  # red, green and blue as one value

_UNCHANGED: Tables = np.arange(256, dtype=np.uint8)[None, None]


@dataclass(frozen=True)
class Outside:
    """Pixels of the view that a geometric operation sampled outside the frame, and made grey.

    Attributes:
        mask: (S, S) of these pixels.
        tables: the levels made from each level by the operations since then.
    """

    mask: geometry.Mask
    tables: Tables


class Backend(NamedTuple):
    """The functions that do the pixel arithmetic."""

    sample: Callable[[Frames, Affine, int], Frames]
    colour: Callable[[Frames, float], Frames]
    sharpness: Callable[[Frames, float], Frames]
    look_up: Callable[[Frames, Tables, Frames], Frames]


def best_backend() -> Backend:
    """Return OpenCV where it is installed."""
    return OPENCV if pixels.has_opencv() else PLAIN


def _maps(steps: Sequence[Step], to_frame: Affine, size: tuple[int, int]) -> list[Affine]:
    """Return, for each geometric step, the map from the view to the frames before this step."""
    height, width = size
    maps = []
    for step in reversed(steps):
        kind = step.kind
        if isinstance(kind, randaugment.Geometry):
            to_frame = _after(kind.matrix(step.argument, width, height), to_frame)
            maps.append(to_frame)
    return maps[::-1]


def _after(second: Affine, first: Affine) -> Affine:
    """Return the composition of two maps: ``first``, then ``second``."""
    a, b, c, d, e, f = second
    p, q, r, s, t, u = first
    return (
        a * p + b * s,
        a * q + b * t,
        a * r + b * u + c,
        d * p + e * s,
        d * q + e * t,
        d * r + e * u + f,
    )


def write_view(
    frames: Frames,
    steps: Sequence[Step],
    cut: Cut,
    view: Frames,
    *,
    mirrored: bool,
    backend: Backend,
) -> None:
    """Sample the view through the crop and the geometric steps, apply the others, and write it.

    Args:
        frames: (T, H, W, 3) uint8.
        steps: in the order drawn.
        cut: the crop.
        view: (T, S, S, 3) uint8, written to: a clip (3, T, S, S) in memory.
        mirrored: whether the view is mirrored.
        backend: the functions to use.
    """
    size, side = frames.shape[1:3], view.shape[1]
    square, to_frame = (0, 0, side, side), cut.to_frame(size, side, mirrored=mirrored)
    maps = _maps(steps, to_frame, size)
    if maps or cut.size != size:
        sampled = backend.sample(frames, [*maps, to_frame][0], side)
    else:
        sampled = geometry.cut_from_all(frames, cut, side, mirrored=mirrored)
    remaining = iter(maps)
    tables, fills = _UNCHANGED, list[Outside]()
    for step, its_tables in zip(steps, _tables_of(steps, frames), strict=True):
        match step.kind:
            case randaugment.Geometry():
                outside = outside_frame(*coordinates(next(remaining), square), size)
                if outside.any():
                    fills.append(Outside(outside.reshape(view.shape[1:3]), _UNCHANGED))
            case randaugment.Levels() | randaugment.FrameLevels():
                tables = _then(tables, its_tables)
                fills = [Outside(fill.mask, _then(fill.tables, its_tables)) for fill in fills]
            case randaugment.Colour():
                sampled = backend.colour(_settled(sampled, tables, fills), step.argument)
                tables, fills = _UNCHANGED, []
            case randaugment.Sharpness():
                sampled = backend.sharpness(_settled(sampled, tables, fills), step.argument)
                tables, fills = _UNCHANGED, []
    pixels.write_planes(sampled, view)
    if tables is not _UNCHANGED:
        backend.look_up(view, tables, view)
    _fill(view, fills)


def _then(first: Tables, second: Tables) -> Tables:
    """Merge two look-ups into one table."""
    shape = np.broadcast_shapes(first.shape, second.shape)
    first, second = np.broadcast_to(first, shape), np.broadcast_to(second, shape)
    return np.take_along_axis(second, first.astype(np.int64), axis=-1)


def _settled(sampled: Frames, tables: Tables, fills: Sequence[Outside]) -> Frames:
    """Apply the pending look-ups, then fill the pixels outside."""
    if tables is _UNCHANGED and not fills:
        return np.ascontiguousarray(sampled)
    settled = np.array(sampled, order="C")
    if tables is not _UNCHANGED:
        look_up(settled, tables, settled)
    _fill(settled, fills)
    return settled


def _fill(view: Frames, fills: Sequence[Outside]) -> None:
    """Write what became of grey; the three bytes of a pixel at once where they are adjacent."""
    plane_by_plane = view.strides[3] > 1
    for fill in fills:
        colours = fill.tables[..., FILL]  # (T or 1, 3 or 1)
        if plane_by_plane:
            np.copyto(view.transpose(0, 3, 1, 2), colours[..., None, None], where=fill.mask)
            continue
        whole = np.ascontiguousarray(np.broadcast_to(colours, (len(view), 3)))
        for frame, colour in zip(view.view(_PIXEL)[..., 0], whole.view(_PIXEL), strict=True):
            frame[fill.mask] = colour


def _tables_of(steps: Sequence[Step], frames: Frames) -> list[Tables]:
    """Return the tables of each step; one that changes nothing where it has none.

    Statistics are those of a coarse copy of the frames to which the same steps are applied.
    """
    kinds = [step.kind for step in steps]
    last = max(
        (n for n, kind in enumerate(kinds) if isinstance(kind, randaugment.FrameLevels)), default=-1
    )
    coarse = _coarse_copy(frames) if last >= 0 else frames
    tables_of_steps = list[Tables]()
    for number, (step, kind) in enumerate(zip(steps, kinds, strict=True)):
        tables = _UNCHANGED
        if isinstance(kind, randaugment.Levels):
            tables = kind.tables(step.argument)
        elif isinstance(kind, randaugment.FrameLevels):
            tables = kind.tables(coarse, step.argument, COARSE_STEP**2)
        tables_of_steps.append(tables)
        if number < last:
            coarse = _apply_coarsely(coarse, step, tables)
    return tables_of_steps


def _coarse_copy(frames: Frames) -> Frames:
    thinned = frames[:, ::COARSE_STEP, ::COARSE_STEP]
    copy = np.empty(thinned.shape, np.uint8)
    for channel in range(3):  # a third of the time of copying pixel by pixel
        copy[..., channel] = thinned[..., channel]
    return copy


def _apply_coarsely(frames: Frames, step: Step, tables: Tables) -> Frames:
    """Apply a step to the coarse copy, whose pixels are too far apart to sharpen or blend."""
    match step.kind:
        case randaugment.Levels() | randaugment.FrameLevels():
            return look_up(frames, tables, np.empty(frames.shape, np.uint8))
        case randaugment.Colour():
            return randaugment.colour(frames, step.argument)
        case randaugment.Geometry(matrix):
            return _moved(frames, matrix(step.argument, frames.shape[2], frames.shape[1]))
        case randaugment.Sharpness():
            return frames


def _moved(frames: Frames, matrix: Affine) -> Frames:
    """Sample each pixel from the nearest one; grey outside the frame."""
    height, width = frames.shape[1:3]
    whole: Box = (0, 0, height, width)
    from_x, from_y = coordinates(matrix, whole)
    columns = from_x.astype(np.int64).clip(0, width - 1)
    rows = from_y.astype(np.int64).clip(0, height - 1)
    moved = frames[:, rows, columns]
    moved[:, outside_frame(from_x, from_y, (height, width))] = FILL
    return moved.reshape(frames.shape)


# The backends


def _sample_by_torch(frames: Frames, to_frames: Affine, side: int) -> Frames:
    """Sample the view (T, side, side, 3) from the frames by an affine map, bilinearly."""
    size, view = frames.shape[1:3], (0, 0, side, side)
    box = geometry.fetched_box(to_frames, view, size, "bilinear")
    window = geometry.Window(pixels.cropped(frames, box), box, size)
    sampled = geometry.fetch(window, *coordinates(to_frames, view), "bilinear")
    return sampled.reshape(-1, side, side, 3)


def _sample_by_opencv(frames: Frames, to_frames: Affine, side: int) -> Frames:
    """Sample the view (T, side, side, 3) from the frames by an affine map, bilinearly."""
    import cv2

    from_x, from_y = coordinates(to_frames, (0, 0, side, side))
    x, y = ((grid - 0.5).astype(np.float32).reshape(side, side) for grid in (from_x, from_y))
    whole, fractions = cv2.convertMaps(x, y, cv2.CV_16SC2)
    view = np.empty((len(frames), side, side, 3), dtype=np.uint8)
    cv2.setNumThreads(1)  # the other cores are for the other workers
    for frame, made in zip(frames, view, strict=True):
        cv2.remap(
            frame, whole, fractions, cv2.INTER_LINEAR, dst=made, borderMode=cv2.BORDER_REPLICATE
        )
    return view


def _colour_by_opencv(frames: Frames, factor: float) -> Frames:
    """Move each contiguous frame away from its grey version, or towards it."""
    import cv2

    grey = np.tile(np.array([0.299, 0.587, 0.114]), (3, 1))
    mixed = factor * np.eye(3) + (1 - factor) * grey
    result = np.empty_like(frames)
    for frame, made in zip(frames, result, strict=True):
        cv2.transform(frame, mixed, dst=made)
    return result


def _sharpness_by_opencv(frames: Frames, factor: float) -> Frames:
    """Move each contiguous frame away from its smoothed version, or towards it."""
    import cv2

    kernel = np.ones((3, 3)) * (1 - factor) / 13
    kernel[1, 1] = factor + (1 - factor) * 5 / 13
    result = np.empty_like(frames)
    for frame, made in zip(frames, result, strict=True):
        cv2.filter2D(frame, -1, kernel, dst=made, borderType=cv2.BORDER_REPLICATE)
    return result


def _look_up_by_opencv(frames: Frames, tables: Tables, out: Frames) -> Frames:
    """Replace each level by its entry; ``out``, which may be ``frames``, has planes. Return it."""
    import cv2

    for number, frame in enumerate(frames):
        table = tables[number % len(tables)]
        for channel in range(3):
            plane = out[number, ..., channel]
            cv2.LUT(frame[..., channel], table[channel % len(table)], dst=plane)
    return out


PLAIN = Backend(_sample_by_torch, randaugment.colour, randaugment.sharpness, randaugment.look_up)
OPENCV = Backend(_sample_by_opencv, _colour_by_opencv, _sharpness_by_opencv, _look_up_by_opencv)
