"""RandAugment in one sampling: all geometric operations and the crop become one affine map.

Each output pixel is fetched once from the decoded frames; the other operations are done to the
small view, in the order they were drawn. Tables of levels merge into one. What an operation fetched
from outside the picture is grey, and later operations act on that grey, as upstream. Statistics of
whole frames come from a coarse copy that goes through the same operations.

What differs from ``exact``: bytes are rounded once, not after each operation; geometric operations
are bilinear; statistics are those of every fourth pixel of every fourth row; sharpness acts on the
resized view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from slowfast_mvit.data.views import opencv, operations
from slowfast_mvit.data.views.affine import (
    FILL,
    Box,
    Mask,
    Window,
    coordinates,
    fetch,
    fetched_box,
    outside_picture,
)
from slowfast_mvit.data.views.operations import (
    KINDS,
    Affine,
    Colour,
    FrameLevels,
    Frames,
    Geometry,
    Levels,
    Sharpness,
    Step,
    Tables,
    look_up,
)

COARSE_STEP = 4  # statistics look at every fourth pixel of every fourth row

_PIXEL = np.dtype("V3")  # red, green and blue as one value

_AS_THEY_ARE: Tables = np.arange(256, dtype=np.uint8)[None, None]


@dataclass(frozen=True)
class Outside:
    """Pixels of the view that a geometric operation fetched from outside, and turned grey.

    Attributes:
        mask: (S, S), which pixels.
        tables: what the operations since then made of each level.
    """

    mask: Mask
    tables: Tables


@dataclass(frozen=True)
class Means:
    """The backend of each part of the work."""

    sample: Callable[[Frames, Affine, int], Frames]
    colour: Callable[[Frames, float], Frames]
    sharpness: Callable[[Frames, float], Frames]
    look_up: Callable[[Frames, Tables, Frames], Frames]
    write: Callable[[Frames, Frames], None]


def sample_by_torch(frames: Frames, to_frames: Affine, side: int) -> Frames:
    """The view (T, side, side, 3) that an affine map fetches from the frames, bilinearly."""
    size, view = frames.shape[1:3], (0, 0, side, side)
    box = top, left, height, width = fetched_box(to_frames, view, size, "bilinear")
    window = Window(frames[:, top : top + height, left : left + width], box, size)
    pixels = fetch(window, *coordinates(to_frames, view), "bilinear")
    return pixels.reshape(-1, side, side, 3)


def write(pixels: Frames, view: Frames) -> None:
    """Copy a view to where its channels lie apart."""
    view[:] = pixels


PLAIN = Means(
    sample=sample_by_torch,
    colour=operations.colour,
    sharpness=operations.sharpness,
    look_up=operations.look_up,
    write=write,
)
OPENCV = Means(
    sample=opencv.sample,
    colour=opencv.colour,
    sharpness=opencv.sharpness,
    look_up=opencv.look_up,
    write=opencv.write,
)


def best_means() -> Means:
    """OpenCV where it is installed."""
    return OPENCV if opencv.is_here() else PLAIN


def has_geometry(steps: Sequence[Step]) -> bool:
    """Return whether any of the operations moves pixels."""
    return any(isinstance(KINDS[step.name], Geometry) for step in steps)


def sample(
    frames: Frames, steps: Sequence[Step], to_picture: Affine, side: int, means: Means
) -> Frames:
    """A square view, fetched through the geometric steps at once; the other steps are not done.

    Args:
        frames: (T, H, W, 3) uint8.
        steps: in the order drawn.
        to_picture: from a pixel of the view to the picture that is cropped.
        side: of the view, in pixels.
        means: what to do it with.

    Returns:
        (T, side, side, 3) uint8.
    """
    to_frames = [*_maps(steps, to_picture, frames.shape[1:3]), to_picture][0]
    return means.sample(frames, to_frames, side)


def _maps(steps: Sequence[Step], to_picture: Affine, size: tuple[int, int]) -> list[Affine]:
    """For each geometric step, in order: from the view to the picture that this step was given."""
    height, width = size
    maps = []
    for step in reversed(steps):
        kind = KINDS[step.name]
        if isinstance(kind, Geometry):
            to_picture = _after(kind.matrix(step.argument, width, height), to_picture)
            maps.append(to_picture)
    return maps[::-1]


def _after(second: Affine, first: Affine) -> Affine:
    """The map that is ``first`` and then ``second``."""
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
    pixels: Frames,
    frames: Frames,
    steps: Sequence[Step],
    to_picture: Affine,
    view: Frames,
    means: Means,
) -> None:
    """Do the steps that move no pixels, fill what lies outside, and write the view.

    Args:
        pixels: (T, S, S, 3) uint8: what was sampled.
        frames: (T, H, W, 3) uint8, those it was sampled from.
        steps: in the order drawn.
        to_picture: from a pixel of the view to the picture that is cropped.
        view: (T, S, S, 3) uint8, written to: a clip (3, T, S, S) in memory.
        means: what to do it with.
    """
    size, square = frames.shape[1:3], (0, 0, *view.shape[1:3])
    maps = iter(_maps(steps, to_picture, size))
    tables, fills = _AS_THEY_ARE, list[Outside]()
    for step, its_tables in zip(steps, _tables_of(steps, frames), strict=True):
        match KINDS[step.name]:
            case Geometry():
                outside = outside_picture(*coordinates(next(maps), square), size)
                if outside.any():
                    fills.append(Outside(outside.reshape(view.shape[1:3]), _AS_THEY_ARE))
            case Levels() | FrameLevels():
                tables = _then(tables, its_tables)
                fills = [Outside(fill.mask, _then(fill.tables, its_tables)) for fill in fills]
            case Colour():
                settled = _settled(pixels, tables, fills)
                tables, fills = _AS_THEY_ARE, []
                pixels = means.colour(settled, step.argument)
            case Sharpness():
                settled = _settled(pixels, tables, fills)
                tables, fills = _AS_THEY_ARE, []
                pixels = means.sharpness(settled, step.argument)
    means.write(pixels, view)
    if tables is not _AS_THEY_ARE:
        means.look_up(view, tables, view)
    _fill(view, fills)


def _then(first: Tables, second: Tables) -> Tables:
    """One table for two look-ups."""
    shape = np.broadcast_shapes(first.shape, second.shape)
    first, second = np.broadcast_to(first, shape), np.broadcast_to(second, shape)
    return np.take_along_axis(second, first.astype(np.int64), axis=-1)


def _settled(pixels: Frames, tables: Tables, fills: Sequence[Outside]) -> Frames:
    """The look-ups that have gathered, and then grey from outside, or what became of it."""
    if tables is _AS_THEY_ARE and not fills:
        return np.ascontiguousarray(pixels)
    settled = np.array(pixels, order="C")
    if tables is not _AS_THEY_ARE:
        look_up(settled, tables, settled)
    _fill(settled, fills)
    return settled


def _fill(pixels: Frames, fills: Sequence[Outside]) -> None:
    """Write what became of grey, in one piece a pixel where its three bytes lie together."""
    plane_by_plane = pixels.strides[3] > 1
    for fill in fills:
        colours = fill.tables[..., FILL]  # (T or 1, 3 or 1)
        if plane_by_plane:
            np.copyto(pixels.transpose(0, 3, 1, 2), colours[..., None, None], where=fill.mask)
            continue
        whole = np.ascontiguousarray(np.broadcast_to(colours, (len(pixels), 3)))
        for frame, colour in zip(pixels.view(_PIXEL)[..., 0], whole.view(_PIXEL), strict=True):
            frame[fill.mask] = colour


def _tables_of(steps: Sequence[Step], frames: Frames) -> list[Tables]:
    """The tables of each step; the one that changes nothing where it has none.

    Statistics are those of a coarse copy of the frames that goes through the same steps.
    """
    kinds = [KINDS[step.name] for step in steps]
    last = max((n for n, kind in enumerate(kinds) if isinstance(kind, FrameLevels)), default=-1)
    coarse = _coarse_copy(frames) if last >= 0 else frames
    found = list[Tables]()
    for number, (step, kind) in enumerate(zip(steps, kinds, strict=True)):
        tables = _AS_THEY_ARE
        if isinstance(kind, Levels):
            tables = kind.tables(step.argument)
        elif isinstance(kind, FrameLevels):
            tables = kind.tables(coarse, step.argument, COARSE_STEP**2)
        found.append(tables)
        if number < last:
            coarse = _coarsely_done(coarse, step, tables)
    return found


def _coarse_copy(frames: Frames) -> Frames:
    thinned = frames[:, ::COARSE_STEP, ::COARSE_STEP]
    copy = np.empty(thinned.shape, np.uint8)
    for channel in range(3):  # a third of the time of copying pixel by pixel
        copy[..., channel] = thinned[..., channel]
    return copy


def _coarsely_done(frames: Frames, step: Step, tables: Tables) -> Frames:
    """A step on the coarse copy, whose pixels are too far apart to be sharpened or blended."""
    match KINDS[step.name]:
        case Levels() | FrameLevels():
            return look_up(frames, tables, np.empty(frames.shape, np.uint8))
        case Colour():
            return operations.colour(frames, step.argument)
        case Geometry(matrix):
            return _moved(frames, matrix(step.argument, frames.shape[2], frames.shape[1]))
        case Sharpness():
            return frames


def _moved(frames: Frames, matrix: Affine) -> Frames:
    """Each pixel fetched from the nearest one; grey from outside."""
    height, width = frames.shape[1:3]
    whole: Box = (0, 0, height, width)
    from_x, from_y = coordinates(matrix, whole)
    columns = from_x.astype(np.int64).clip(0, width - 1)
    rows = from_y.astype(np.int64).clip(0, height - 1)
    moved = frames[:, rows, columns]
    moved[:, outside_picture(from_x, from_y, (height, width))] = FILL
    return moved.reshape(frames.shape)
