"""The figure of benchmarks/growth.py as one SVG file: the same bytes for the same rows.

    time     |  frames  |  resolution  |  batch  |
    memory   |  frames  |  resolution  |  batch  |

Both axes are logarithmic, so a power of the value is a straight line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]

# Of rows: the key, the title and the unit; of columns: the sweep and its axis.
QUANTITIES = (("clock_s", "time", "s"), ("peak_mb", "peak memory", "MB"))
AXES = {"frames": "frames", "resolution": "pixels a side", "batch": "clips a batch"}
# By path and mode: colour and dashes.
STYLES = {
    ("ours", "infer"): ("#165e9e", ""),
    ("plain", "infer"): ("#c2571a", ""),
    ("ours", "train"): ("#165e9e", "5 4"),
    ("plain", "train"): ("#c2571a", "5 4"),
}
NAMES = {"infer": "forward", "train": "training step"}
WIDTH, HEIGHT = 220, 170  # of a panel, in pixels
LEFT, TOP, GAP_X, GAP_Y = 60, 46, 60, 56


def figure(rows: Rows) -> str:
    """The whole figure.

    Args:
        rows: with sweep, value, mode, path, clock_s and peak_mb (None where it did not fit).
    """
    parts = [
        panel(rows, sweep, quantity, x, y)
        for y, quantity in enumerate(QUANTITIES)
        for x, sweep in enumerate(AXES)
    ]
    whole = (LEFT + 3 * WIDTH + 2 * GAP_X + 20, TOP + 2 * HEIGHT + GAP_Y + 46)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole[0]} {whole[1]}" '
        'font-family="sans-serif" font-size="11" fill="#333">\n'
        f'<rect width="{whole[0]}" height="{whole[1]}" fill="white"/>\n'
        f"{legend()}\n" + "\n".join(parts) + "\n</svg>\n"
    )


def legend() -> str:
    parts = []
    for number, ((path, mode), style) in enumerate(STYLES.items()):
        x = LEFT + 190 * number
        parts.append(f'<path d="M{x} 16h28" {_stroke(style)}/>')
        parts.append(f'<text x="{x + 34}" y="20">{path}, {NAMES[mode]}</text>')
    return "\n".join(parts)


def panel(rows: Rows, sweep: str, quantity: tuple[str, str, str], x: int, y: int) -> str:
    """One chart, in column ``x`` and line ``y``."""
    key, title, unit = quantity
    shown = [row for row in rows if row["sweep"] == sweep and row[key] is not None]
    values = sorted({row["value"] for row in shown})
    heights = [row[key] for row in rows if row[key] is not None]  # one scale for a line
    x_axis = Axis(values[0], values[-1], LEFT + x * (WIDTH + GAP_X), WIDTH)
    y_axis = Axis(min(heights), max(heights), TOP + y * (HEIGHT + GAP_Y) + HEIGHT, -HEIGHT)
    left, bottom = x_axis.start, y_axis.start

    parts = []
    for tick in ticks(min(heights), max(heights)):
        at = y_axis.place(tick)
        parts.append(f'<path d="M{left} {at:.1f}h{WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for value in values:
        at = x_axis.place(value)
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{value}</text>')
    parts.append(
        f'<text x="{left + WIDTH / 2}" y="{bottom + 31}" text-anchor="middle">{AXES[sweep]}</text>'
    )
    parts.append(f'<text x="{left}" y="{bottom - HEIGHT - 8}">{title}, {unit}</text>')
    for (path, mode), style in STYLES.items():
        places = [
            f"{x_axis.place(row['value']):.1f} {y_axis.place(row[key]):.1f}"
            for row in shown
            if (row["path"], row["mode"]) == (path, mode)
        ]
        if places:
            parts.append(f'<path d="M{" ".join(places)}" {_stroke(style)}/>')
    return "\n".join(parts)


class Axis:
    """A logarithmic axis of ``length`` pixels from ``start``; a negative length goes upwards."""

    def __init__(self, low: float, high: float, start: float, length: float) -> None:
        self.low = low
        self.span = math.log(high / low) or 1.0
        self.start = start
        self.length = length

    def place(self, value: float) -> float:
        """Where a value lies, in pixels."""
        return self.start + math.log(value / self.low) / self.span * self.length


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between these."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    candidates = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [tick for tick in candidates if low <= tick <= high]


def _stroke(style: tuple[str, str]) -> str:
    colour, dashes = style
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'fill="none" stroke="{colour}" stroke-width="2"{dashed}'
