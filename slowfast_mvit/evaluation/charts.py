"""The charts of a report as plain numbers, for ``report.html.jinja``.

Places are shares of an axis: 0 is its start, 1 its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Points = Sequence[tuple[float, float]]

# Colours of the confusion image, from none (white) to all videos of a class.
CORRECT_RGB = np.array([22, 94, 158])
WRONG_RGB = np.array([190, 40, 30])


class Mark(NamedTuple):
    """A number on an axis, and its place."""

    label: str
    place: float


class Line(NamedTuple):
    """A named line with its last value and the places (x, y) of its points."""

    name: str
    last: float
    places: Points


class Chart(NamedTuple):
    """Values over epochs."""

    title: str
    x_marks: list[Mark]
    y_marks: list[Mark]
    lines: list[Line]


def curves(title: str, lines: Mapping[str, Points]) -> Chart:
    """Place the (epoch, value) points of each line ("train", "val") in one chart."""
    points = [point for line in lines.values() for point in line]
    epochs, values = [point[0] for point in points], [point[1] for point in points]
    x_ticks = ticks(min(epochs), max(epochs), 6, whole=True)
    y_ticks = ticks(min(0.0, *values), max(values), 5)
    x_low, x_high = min(epochs), max(*epochs, min(epochs) + 1)
    y_low, y_high = y_ticks[0], max(y_ticks[-1], *values)

    def x(epoch: float) -> float:
        return (epoch - x_low) / (x_high - x_low)

    def y(value: float) -> float:
        return (value - y_low) / ((y_high - y_low) or 1)

    return Chart(
        title,
        [Mark(f"{tick:g}", x(tick)) for tick in x_ticks],
        [Mark(f"{tick:g}", y(tick)) for tick in y_ticks],
        [
            Line(name, line[-1][1], [(x(epoch), y(value)) for epoch, value in line])
            for name, line in lines.items()
        ],
    )


def confusion_pixels(matrix: np.ndarray) -> np.ndarray:
    """Colour a confusion matrix (K, K): one uint8 RGB pixel for each pair of classes."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    # The cube root, or single mistakes would be too faint to see.
    strength: np.ndarray = np.cbrt(share)[..., None]
    is_correct = np.eye(len(matrix), dtype=bool)[..., None]
    colours = 255 - strength * (255 - np.where(is_correct, CORRECT_RGB, WRONG_RGB))
    pixels: np.ndarray = colours.round().astype(np.uint8)
    return pixels


def class_marks(num_classes: int) -> list[Mark]:
    """Mark some class indices on an axis with one pixel for each class."""
    return [Mark(f"{tick:g}", (tick + 0.5) / num_classes) for tick in ticks(0, num_classes - 1, 5)]


def ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """About ``count`` round numbers, 1, 2 or 5 times a power of ten apart, within low..high."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= count)
    if whole:
        step = max(1.0, step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)] or [low]
