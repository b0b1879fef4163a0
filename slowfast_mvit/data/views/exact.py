"""RandAugment's operations one after another, each rounded to bytes, as in PySlowFast.

``on_whole_frames`` is the plain form. ``on_a_part`` computes the same pixels of one part only:
pixels outside the crop matter only to the operations that resample or take statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from slowfast_mvit.data.views import randaugment
from slowfast_mvit.data.views.geometry import GREY, Window, fetched_box, resample
from slowfast_mvit.data.views.pixels import Box, Frames, cropped
from slowfast_mvit.data.views.randaugment import Step, Tables


def on_whole_frames(
    frames: Frames, steps: Sequence[Step], interpolation: str, fill: tuple[int, int, int] = GREY
) -> Frames:
    """Apply all steps to all pixels (T, H, W, 3) uint8; ``fill`` is the colour outside."""
    size = frames.shape[1:3]
    whole = (0, 0, *size)
    window = Window(frames, whole, size, fill)
    for step in steps:
        window = _apply(window, step, whole, interpolation)
    return window.pixels


def on_a_part(
    frames: Frames,
    steps: Sequence[Step],
    interpolation: str,
    box: Box,
    fill: tuple[int, int, int] = GREY,
) -> Frames:
    """Return the pixels of ``box`` after all steps: (T, H, W, 3) -> (T, h, w, 3) uint8."""
    size = frames.shape[1:3]
    boxes = [box]
    for step in reversed(steps):
        boxes.append(_box_before(step, boxes[-1], size, interpolation))
    boxes.reverse()
    window = Window(cropped(frames, boxes[0]), boxes[0], size, fill)
    for step, after in zip(steps, boxes[1:], strict=True):
        window = _apply(window, step, after, interpolation)
    return window.pixels


def _box_before(step: Step, after: Box, size: tuple[int, int], interpolation: str) -> Box:
    """Return the pixels from which a step makes those of ``after``."""
    match step.kind:
        case randaugment.FrameLevels():
            return 0, 0, *size
        case randaugment.Geometry(matrix):
            height, width = size
            return fetched_box(matrix(step.argument, width, height), after, size, interpolation)
        case randaugment.Sharpness():
            return _grown(after, size)
        case randaugment.Levels() | randaugment.Colour():
            return after


def _apply(window: Window, step: Step, after: Box, interpolation: str) -> Window:
    """Return the part ``after`` of the frames that a step makes of a window."""
    argument = step.argument
    inside = (after[0] - window.box[0], after[1] - window.box[1], *after[2:])
    pixels = cropped(window.pixels, inside)
    match step.kind:
        case randaugment.Geometry(matrix):
            height, width = window.size
            return resample(window, matrix(argument, width, height), after, interpolation)
        case randaugment.Levels() as kind:
            pixels = _look_up(pixels, kind.tables(argument))
        case randaugment.FrameLevels(tables):
            pixels = _look_up(pixels, tables(window.pixels, argument, 1))
        case randaugment.Colour():
            pixels = randaugment.colour(pixels, argument)
        case randaugment.Sharpness():
            # Wrong at an edge of the window inside the frame: it is cut off.
            pixels = cropped(randaugment.sharpness(window.pixels, argument), inside)
    return replace(window, pixels=pixels, box=after)


def _look_up(pixels: Frames, tables: Tables) -> Frames:
    return randaugment.look_up(pixels, tables, np.empty(pixels.shape, np.uint8))


def _grown(box: Box, size: tuple[int, int]) -> Box:
    top, left, height, width = box
    bottom, right = min(top + height + 1, size[0]), min(left + width + 1, size[1])
    top, left = max(top - 1, 0), max(left - 1, 0)
    return top, left, bottom - top, right - left
