"""The steps of the fused method that OpenCV does quicker, where it is installed.

Each differs by at most two levels from the function it stands for: OpenCV rounds coordinates to
1/32 pixel, and bytes to the nearest.
"""

from __future__ import annotations

import functools
import importlib

import numpy as np

from slowfast_mvit.data.views.affine import coordinates
from slowfast_mvit.data.views.operations import Affine, Frames, Tables


@functools.cache
def is_here() -> bool:
    """Return whether OpenCV is installed and loads: some builds want libraries of graphics."""
    try:
        importlib.import_module("cv2")
    except ImportError:
        return False
    return True


def sample(frames: Frames, to_frames: Affine, side: int) -> Frames:
    """The view (T, side, side, 3) that an affine map fetches from the frames, bilinearly."""
    import cv2

    from_x, from_y = coordinates(to_frames, (0, 0, side, side))
    x, y = ((grid - 0.5).astype(np.float32).reshape(side, side) for grid in (from_x, from_y))
    whole, fractions = cv2.convertMaps(x, y, cv2.CV_16SC2)
    view = np.empty((len(frames), side, side, 3), dtype=np.uint8)
    cv2.setNumThreads(1)  # a worker has one core; the others belong to the other workers
    for frame, made in zip(frames, view, strict=True):
        cv2.remap(
            frame, whole, fractions, cv2.INTER_LINEAR, dst=made, borderMode=cv2.BORDER_REPLICATE
        )
    return view


def colour(frames: Frames, factor: float) -> Frames:
    """Each frame away from its grey version, or towards it; frames are contiguous."""
    import cv2

    grey = np.tile(np.array([0.299, 0.587, 0.114]), (3, 1))
    mixed = factor * np.eye(3) + (1 - factor) * grey
    result = np.empty_like(frames)
    for frame, made in zip(frames, result, strict=True):
        cv2.transform(frame, mixed, dst=made)
    return result


def sharpness(frames: Frames, factor: float) -> Frames:
    """Each frame away from its smoothed version, or towards it; frames are contiguous."""
    import cv2

    kernel = np.ones((3, 3)) * (1 - factor) / 13
    kernel[1, 1] = factor + (1 - factor) * 5 / 13
    result = np.empty_like(frames)
    for frame, made in zip(frames, result, strict=True):
        cv2.filter2D(frame, -1, kernel, dst=made, borderType=cv2.BORDER_REPLICATE)
    return result


def look_up(frames: Frames, tables: Tables, out: Frames) -> Frames:
    """Replace each level by its entry; ``out`` may be ``frames``, and holds planes. Returns it."""
    import cv2

    for number, frame in enumerate(frames):
        table = tables[number % len(tables)]
        for channel in range(3):
            plane = out[number, ..., channel]
            cv2.LUT(frame[..., channel], table[channel % len(table)], dst=plane)
    return out


def write(pixels: Frames, view: Frames) -> None:
    """Copy a view, as it was cut or mirrored, to where its channels lie apart."""
    import cv2

    mirrored = pixels.strides[2] < 0
    for number, frame in enumerate(pixels[:, :, ::-1] if mirrored else pixels):
        planes = [view[number, ..., channel] for channel in range(3)]
        cv2.split(cv2.flip(frame, 1) if mirrored else frame, planes)
