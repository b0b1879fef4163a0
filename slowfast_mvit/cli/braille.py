"""Curves drawn with characters: Braille patterns, or stars where a terminal has none.

A character cell holds 2 x 4 dots, so a chart of 40 x 5 characters shows 80 x 20 dots:

    2.10 |⠢⣀
         |  ⠑⠢⢄⣀
    0.41 |      ⠉⠒⠒⠤⠤⠤
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Points = Sequence[tuple[float, float]]

LABEL_WIDTH = 8
# Bit of each dot of a Braille pattern, [row][column]; U+2800 is the empty pattern.
DOT_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
EMPTY = 0x2800
MARK = "o"


def chart(
    curve: Points,
    *,
    marks: Points = (),
    width: int,
    height: int,
    x_range: tuple[float, float],
    braille: bool = True,
) -> list[str]:
    """``height`` lines of at most ``width`` characters, with the greatest and least value.

    Args:
        curve: (x, y), x rising; values that are not finite are gaps. Points that fall into one
            column of dots are averaged.
        marks: single points, drawn as "o" over the curve.
        width: characters, with those of the labels; at least 12.
        height: lines, at least 1.
        x_range: of the whole width.
        braille: False for plain ASCII.
    """
    columns = width - LABEL_WIDTH - 2
    averaged = _averaged(curve, x_range, 2 * columns)
    values = [*averaged.values(), *(y for _, y in marks if math.isfinite(y))]
    if not values:
        return [" " * LABEL_WIDTH + " |"] * height
    low, high = min(values), max(values)

    def row_of(value: float, num_rows: int) -> int:
        """From the top; a curve without any rise lies in the middle."""
        share = (high - value) / (high - low) if high > low else 0.5
        return min(int(share * num_rows), num_rows - 1)

    dots = {column: row_of(value, 4 * height) for column, value in averaged.items()}
    cells = [[0] * columns for _ in range(height)]
    for column, row in _joined(dots):
        cells[row // 4][column // 2] |= DOT_BITS[row % 4][column % 2]
    lines = [[_character(bits, braille) for bits in row] for row in cells]
    for x, y in marks:
        if math.isfinite(y):
            lines[row_of(y, height)][_column(x, x_range, columns)] = MARK
    labels = {height - 1: _label(low), 0: _label(high)}
    return [
        f"{labels.get(number, ''):>{LABEL_WIDTH}} |{''.join(line)}".rstrip()
        for number, line in enumerate(lines)
    ]


def _averaged(curve: Points, x_range: tuple[float, float], num_columns: int) -> dict[int, float]:
    """Column -> the mean of the values in it."""
    sums: dict[int, tuple[float, int]] = {}
    for x, y in curve:
        if math.isfinite(y):
            column = _column(x, x_range, num_columns)
            total, count = sums.get(column, (0.0, 0))
            sums[column] = (total + y, count + 1)
    return {column: total / count for column, (total, count) in sorted(sums.items())}


def _column(x: float, x_range: tuple[float, float], num_columns: int) -> int:
    first, last = x_range
    share = (x - first) / (last - first) if last > first else 0.0
    return min(max(int(share * num_columns), 0), num_columns - 1)


def _joined(dots: dict[int, int]) -> list[tuple[int, int]]:
    """The (column, row) of all dots, with the lines between neighbours."""
    joined = list(dots.items())
    for (column, row), (next_column, next_row) in pairwise(dots.items()):
        num_steps = max(next_column - column, abs(next_row - row))
        for step in range(1, num_steps):
            share = step / num_steps
            joined.append(
                (
                    column + round(share * (next_column - column)),
                    row + round(share * (next_row - row)),
                )
            )
    return joined


def _character(bits: int, braille: bool) -> str:
    if not bits:
        return " "
    return chr(EMPTY + bits) if braille else "*"


def _label(value: float) -> str:
    """A number in at most ``LABEL_WIDTH`` characters."""
    text = f"{value:.4g}"
    return text if len(text) <= LABEL_WIDTH else f"{value:.1e}"
