"""RandAugment's operations one after another, each rounded to bytes, as upstream does them.

``on_whole_frames`` is the plain way. ``on_a_part`` gives the same pixels of one part of the picture
and works out no others: a crop is wanted, and what lies beyond it matters only to the operations
that fetch pixels from elsewhere or take statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from slowfast_mvit.data.views import operations
from slowfast_mvit.data.views.affine import GREY, Box, Window, fetched_box, resample
from slowfast_mvit.data.views.operations import (
    KINDS,
    Colour,
    FrameLevels,
    Frames,
    Geometry,
    Levels,
    Sharpness,
    Step,
    look_up,
)


def on_whole_frames(
    frames: Frames,
    steps: Sequence[Step],
    interpolation: str,
    fill: tuple[int, int, int] = GREY,
) -> Frames:
    """All steps on all pixels: (T, H, W, 3) uint8 -> the same; ``fill`` comes in from outside."""
    size = frames.shape[1:3]
    whole = (0, 0, *size)
    window = Window(frames, whole, size, fill)
    for step in steps:
        window = _done(window, step, whole, interpolation)
    return window.pixels


def on_a_part(
    frames: Frames,
    steps: Sequence[Step],
    interpolation: str,
    box: Box,
    fill: tuple[int, int, int] = GREY,
) -> Frames:
    """The pixels of ``box`` after all steps: (T, H, W, 3) -> (T, h, w, 3) uint8."""
    size = frames.shape[1:3]
    boxes = [box]
    for step in reversed(steps):
        boxes.append(_box_before(step, boxes[-1], size, interpolation))
    boxes.reverse()
    window = Window(_part(frames, boxes[0]), boxes[0], size, fill)
    for step, after in zip(steps, boxes[1:], strict=True):
        window = _done(window, step, after, interpolation)
    return window.pixels


def _box_before(step: Step, after: Box, size: tuple[int, int], interpolation: str) -> Box:
    """Return what a step has to be given to make the pixels of ``after``."""
    match KINDS[step.name]:
        case FrameLevels():
            return 0, 0, *size
        case Geometry(matrix):
            height, width = size
            return fetched_box(matrix(step.argument, width, height), after, size, interpolation)
        case Sharpness():
            return _grown(after, size)
        case Levels() | Colour():
            return after


def _done(window: Window, step: Step, after: Box, interpolation: str) -> Window:
    """The part ``after`` of the picture that a step makes of a window."""
    argument = step.argument
    kind = KINDS[step.name]
    if isinstance(kind, Geometry):
        height, width = window.size
        return resample(window, kind.matrix(argument, width, height), after, interpolation)
    pixels = _part(window.pixels, _within(after, window.box))
    match kind:
        case Levels(tables):
            pixels = look_up(pixels, tables(argument), np.empty(pixels.shape, np.uint8))
        case FrameLevels(frame_tables):
            tables_of_frames = frame_tables(window.pixels, argument, 1)
            pixels = look_up(pixels, tables_of_frames, np.empty(pixels.shape, np.uint8))
        case Colour():
            pixels = operations.colour(pixels, argument)
        case Sharpness():
            # An edge of the window that is no edge of the picture comes out wrong: it is cut off.
            pixels = operations.sharpness(window.pixels, argument)
            pixels = _part(pixels, _within(after, window.box))
    return replace(window, pixels=pixels, box=after)


def _grown(box: Box, size: tuple[int, int]) -> Box:
    top, left, height, width = box
    bottom, right = min(top + height + 1, size[0]), min(left + width + 1, size[1])
    top, left = max(top - 1, 0), max(left - 1, 0)
    return top, left, bottom - top, right - left


def _within(box: Box, window: Box) -> Box:
    return box[0] - window[0], box[1] - window[1], box[2], box[3]


def _part(frames: Frames, box: Box) -> Frames:
    top, left, height, width = box
    return frames[:, top : top + height, left : left + width]
