"""The charts of a report, as HTML and inline SVG that need no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from slowfast_mvit.evaluation.page import escaped, percent
from slowfast_mvit.evaluation.pictures import exact_picture

Points = Sequence[tuple[float, float]]

# Colours of the compact matrix, from none (white) to all videos of a class.
RIGHT_RGB = np.array([22, 94, 158])
WRONG_RGB = np.array([190, 40, 30])


def bar(rate: float, mark: float | None = None) -> str:
    """A horizontal bar of ``rate`` percent, with a thin mark at ``mark`` percent."""
    line = "" if mark is None else f'<b style="left:{mark:.2f}%"></b>'
    return f'<span class="bar"><i style="width:{rate:.2f}%"></i>{line}</span>'


def class_bars(names: Sequence[str], rates: np.ndarray, counts: np.ndarray, mark: float) -> str:
    """One row for each class: name, bar, percent, number of videos; in the order given."""
    rows = [
        f'<li><span class="name" title="{escaped(name)}">{escaped(name)}</span>'
        f"{bar(rate, mark)}<span>{percent(rate)}</span>"
        f'<span class="muted">of {count:,}</span></li>'
        for name, rate, count in zip(names, rates.tolist(), counts.tolist(), strict=True)
    ]
    return '<ul class="bars">\n' + "\n".join(rows) + "\n</ul>"


def matrix_table(matrix: np.ndarray, names: Sequence[str]) -> str:
    """A confusion matrix (K, K) with its counts; the shade of a cell is its share of the row."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    columns = "".join(
        f'<th scope="col" title="{escaped(name)}"><span>{escaped(name)}</span></th>'
        for name in names
    )
    rows = []
    for true, name in enumerate(names):
        cells = "".join(
            _cell(int(matrix[true, predicted]), float(share[true, predicted]), true == predicted)
            for predicted in range(len(names))
        )
        rows.append(
            f'<tr><th scope="row" title="{escaped(name)}"><span>{escaped(name)}</span></th>'
            f"{cells}</tr>"
        )
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table class="matrix"><thead><tr>'
        f'<td class="corner">true \\ predicted</td>{columns}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(count: int, share: float, is_right: bool) -> str:
    if count == 0:
        return '<td class="none">·</td>'
    kind = "right" if is_right else "wrong"
    deep = " deep" if share > 0.55 else ""
    return f'<td class="{kind}{deep}" style="--share:{share:.3f}">{count:,}</td>'


def matrix_picture(matrix: np.ndarray) -> str:
    """A confusion matrix (K, K) of many classes, one pixel a cell, with numbered axes."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    strength = np.cbrt(share)[..., None]  # the root, or single mistakes would be too faint to see
    is_right = np.eye(len(matrix), dtype=bool)[..., None]
    colours = 255 - strength * (255 - np.where(is_right, RIGHT_RGB, WRONG_RGB))
    address = exact_picture(colours.round().astype(np.uint8))

    side, margin = 560, 60
    marks = []
    for tick in ticks(0, len(matrix) - 1, 5):
        at = margin + (tick + 0.5) / len(matrix) * side
        marks.append(f'<text x="{at:.1f}" y="{margin - 10}" text-anchor="middle">{tick:g}</text>')
        marks.append(
            f'<text x="{margin - 10}" y="{at:.1f}" text-anchor="end" dy=".35em">{tick:g}</text>'
        )
    whole = side + margin + 8
    return (
        f'<svg class="heat" viewBox="0 0 {whole} {whole}" role="img" '
        f'aria-label="Confusion matrix, true class downwards, predicted class to the right">\n'
        f'<image href="{address}" x="{margin}" y="{margin}" width="{side}" height="{side}" '
        f'preserveAspectRatio="none"/>\n'
        f'<rect x="{margin}" y="{margin}" width="{side}" height="{side}"/>\n'
        f'<text x="{margin + side / 2}" y="14" text-anchor="middle">predicted class</text>\n'
        f'<text transform="translate(12 {margin + side / 2}) rotate(-90)" '
        f'text-anchor="middle">true class</text>\n' + "\n".join(marks) + "\n</svg>"
    )


def curves(title: str, lines: Mapping[str, Points]) -> str:
    """A chart of values over epochs, one line for each name ("train", "val")."""
    points = [point for line in lines.values() for point in line]
    epochs, values = [point[0] for point in points], [point[1] for point in points]
    x_ticks = ticks(min(epochs), max(epochs), 6, whole=True)
    y_ticks = ticks(min(0.0, *values), max(values), 5)
    left, top, width, height = 44, 12, 420, 200
    x_low, x_high = min(epochs), max(max(epochs), min(epochs) + 1)
    y_low, y_high = y_ticks[0], max(y_ticks[-1], *values)

    def place(epoch: float, value: float) -> tuple[float, float]:
        x = left + (epoch - x_low) / (x_high - x_low) * width
        return x, top + (1 - (value - y_low) / ((y_high - y_low) or 1)) * height

    parts = []
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        parts.append(
            f'<text x="{left - 8}" y="{y:.1f}" text-anchor="end" dy=".35em">{tick:g}</text>'
        )
    for tick in x_ticks:
        x, _ = place(tick, y_low)
        parts.append(
            f'<text x="{x:.1f}" y="{top + height + 20}" text-anchor="middle">{tick:g}</text>'
        )
    parts += [_line(name, [place(*point) for point in line]) for name, line in lines.items()]
    legend = "".join(
        f'<span class="{escaped(name)}">{escaped(name)}, last {line[-1][1]:.4g}</span>'
        for name, line in lines.items()
    )
    return (
        f"<figure><figcaption><strong>{escaped(title)}</strong>{legend}</figcaption>\n"
        f'<svg class="curves" viewBox="0 0 {left + width + 16} {top + height + 30}" role="img" '
        f'aria-label="{escaped(title)} over epochs">\n' + "\n".join(parts) + "\n</svg></figure>"
    )


def _line(name: str, places: Points) -> str:
    if len(places) == 1:
        x, y = places[0]
        return f'<circle class="{escaped(name)}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    path = " ".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return f'<path class="line {escaped(name)}" d="M{path}"/>'


def ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """About ``count`` round numbers, 1, 2 or 5 times a power of ten apart, within low..high."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= count)
    if whole:
        step = max(1.0, step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)] or [low]
