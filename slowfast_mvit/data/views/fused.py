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

from slowfast_mvit.data.views import operations, pixels
from slowfast_mvit.data.views.affine import (
    FILL,
    Mask,
    Window,
    coordinates,
    fetch,
    fetched_box,
    outside_frame,
)
from slowfast_mvit.data.views.operations import KINDS, Affine, Step, Tables, look_up
from slowfast_mvit.data.views.pixels import Box, Frames

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

    mask: Mask
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


def has_geometry(steps: Sequence[Step]) -> bool:
    """Return whether any of the operations moves pixels."""
    return any(isinstance(KINDS[step.name], operations.Geometry) for step in steps)


def sample(
    frames: Frames, steps: Sequence[Step], to_frame: Affine, side: int, backend: Backend
) -> Frames:
    """Sample a square view through the geometric steps at once; other steps are not applied.

    Args:
        frames: (T, H, W, 3) uint8.
        steps: in the order drawn.
        to_frame: from a pixel of the view to the frame that is cropped.
        side: of the view, in pixels.
        backend: the functions to use.

    Returns:
        (T, side, side, 3) uint8.
    """
    to_frames = [*_maps(steps, to_frame, frames.shape[1:3]), to_frame][0]
    return backend.sample(frames, to_frames, side)


def _maps(steps: Sequence[Step], to_frame: Affine, size: tuple[int, int]) -> list[Affine]:
    """Return, for each geometric step, the map from the view to the frame before this step."""
    height, width = size
    maps = []
    for step in reversed(steps):
        kind = KINDS[step.name]
        if isinstance(kind, operations.Geometry):
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


def finish(
    sampled: Frames,
    frames: Frames,
    steps: Sequence[Step],
    to_frame: Affine,
    view: Frames,
    backend: Backend,
) -> None:
    """Apply the steps that move no pixels, fill the pixels outside, and write the view.

    Args:
        sampled: (T, S, S, 3) uint8, from ``sample``.
        frames: (T, H, W, 3) uint8, the source of ``sampled``.
        steps: in the order drawn.
        to_frame: from a pixel of the view to the frame that is cropped.
        view: (T, S, S, 3) uint8, written to: a clip (3, T, S, S) in memory.
        backend: the functions to use.
    """
    size, square = frames.shape[1:3], (0, 0, *view.shape[1:3])
    maps = iter(_maps(steps, to_frame, size))
    tables, fills = _UNCHANGED, list[Outside]()
    for step, its_tables in zip(steps, _tables_of(steps, frames), strict=True):
        match KINDS[step.name]:
            case operations.Geometry():
                outside = outside_frame(*coordinates(next(maps), square), size)
                if outside.any():
                    fills.append(Outside(outside.reshape(view.shape[1:3]), _UNCHANGED))
            case operations.Levels() | operations.FrameLevels():
                tables = _then(tables, its_tables)
                fills = [Outside(fill.mask, _then(fill.tables, its_tables)) for fill in fills]
            case operations.Colour():
                sampled = backend.colour(_settled(sampled, tables, fills), step.argument)
                tables, fills = _UNCHANGED, []
            case operations.Sharpness():
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
    kinds = [KINDS[step.name] for step in steps]
    last = max(
        (n for n, kind in enumerate(kinds) if isinstance(kind, operations.FrameLevels)), default=-1
    )
    coarse = _coarse_copy(frames) if last >= 0 else frames
    tables_of_steps = list[Tables]()
    for number, (step, kind) in enumerate(zip(steps, kinds, strict=True)):
        tables = _UNCHANGED
        if isinstance(kind, operations.Levels):
            tables = kind.tables(step.argument)
        elif isinstance(kind, operations.FrameLevels):
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
    match KINDS[step.name]:
        case operations.Levels() | operations.FrameLevels():
            return look_up(frames, tables, np.empty(frames.shape, np.uint8))
        case operations.Colour():
            return operations.colour(frames, step.argument)
        case operations.Geometry(matrix):
            return _moved(frames, matrix(step.argument, frames.shape[2], frames.shape[1]))
        case operations.Sharpness():
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
    box = fetched_box(to_frames, view, size, "bilinear")
    window = Window(pixels.part_of(frames, box), box, size)
    sampled = fetch(window, *coordinates(to_frames, view), "bilinear")
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


PLAIN = Backend(_sample_by_torch, operations.colour, operations.sharpness, operations.look_up)
OPENCV = Backend(_sample_by_opencv, _colour_by_opencv, _sharpness_by_opencv, _look_up_by_opencv)
