#!/usr/bin/env python3
"""Growth of time and memory with frames, resolution and batch: ours and the plain form.

The plain form writes out every attention score, queries times keys of them; ours writes none. Each
point is a fresh process (benchmarks/alone.py): the second run is timed, memory is the most
held. Clips that share a point are measured once. A straight line through memory against tokens is
fitted by least squares; ``worst_off_line`` is the largest share by which a point is off it.

    python benchmarks/growth.py              # S in float32; about 10 minutes on 2 cores
    python benchmarks/growth.py --draw       # the figure only, from the newest result

The figure needs matplotlib (`pip install slowfast_mvit[benchmarks]`).

Training is measured up to twice the tokens of the published clip, inference everywhere. Writes
benchmarks/results/growth_<date>.json, which is also the last line printed, and from it the figure
docs/performance_growth.svg. With ``--device cuda --precision bf16`` training is measured everywhere
too, and the file is growth_cuda_<date>.json; a point that does not fit into memory is null.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.alone import run_alone
from benchmarks.operations import num_tokens
from benchmarks.passes import MODES, Case
from benchmarks.rates import DTYPES
from benchmarks.record import keep_record, newest_result, script_parser

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "performance_growth.svg"
PATHS = ("ours", "plain")
PUBLISHED = Case("S", (16, 224, 224), "infer", "fp32")
# By name: the values, and the clip and batch of each.
FRAMES = (8, 16, 32, 64)
SIDES_PX = (160, 224, 312, 448)
BATCHES = (1, 2, 4)
SWEEPS: dict[str, dict[int, Case]] = {
    "frames": {t: replace(PUBLISHED, input_size=(t, 224, 224)) for t in FRAMES},
    "resolution": {px: replace(PUBLISHED, input_size=(16, px, px)) for px in SIDES_PX},
    "batch": {batch: replace(PUBLISHED, batch=batch) for batch in BATCHES},
}
# Rows of the figure: the key of a result and the label of the axis. Columns: the sweep.
QUANTITIES = {"clock_s": "time, s", "peak_mb": "peak memory, MB"}
AXES = {"frames": "frames", "resolution": "pixels a side", "batch": "clips a batch"}
COLOURS = {"ours": "#165e9e", "plain": "#c2571a"}
PASSES = {"infer": ("forward", "-"), "train": ("training step", "--")}
RESULT = "growth_2*.json"  # of a CPU: growth_<date>.json
MOST_TRAINED_ON_CPU = 2.0  # times the tokens of the published clip
NUM_RUNS = 1


def points(device: torch.device, precision: str) -> Iterator[tuple[str, int, Case]]:
    """(sweep, value, what to run), the small ones of each sweep first."""
    most = MOST_TRAINED_ON_CPU * tokens_of(PUBLISHED)
    for mode in MODES:
        for sweep, cases in SWEEPS.items():
            for value, case in cases.items():
                if mode == "infer" or device.type == "cuda" or tokens_of(case) <= most:
                    yield sweep, value, replace(case, mode=mode, device=device, precision=precision)


def tokens_of(case: Case) -> int:
    """Of all clips of a batch, before the first block, without the class tokens."""
    return case.batch * num_tokens(case.input_size)


def measure(device: torch.device, precision: str) -> list[dict[str, Any]]:
    """One row for each point and path."""
    known: dict[tuple[str, Case], dict[str, Any]] = {}
    rows = []
    for sweep, value, case in points(device, precision):
        for path in PATHS:
            if (path, case) not in known:
                known[path, case] = measure_point(path, case)
            row = {"sweep": sweep, "value": value, "mode": case.mode, "path": path}
            rows.append({**row, "tokens": tokens_of(case), **known[path, case]})
            print(rows[-1], flush=True)
    return rows


def measure_point(path: str, case: Case) -> dict[str, Any]:
    """Seconds by the clock and peak memory in 1e6 bytes; None where memory did not suffice."""
    try:
        result = run_alone(path, case, num_runs=NUM_RUNS)
    except RuntimeError as error:
        print(f"{path}, {case}: {error}", file=sys.stderr)
        return {"clock_s": None, "peak_mb": None}
    return {"clock_s": round(result["clock_s"], 4), "peak_mb": result["peak_mb"]}


def lines(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """For each mode and path the straight line of memory against tokens."""
    fitted = {}
    for mode in MODES:
        for path in PATHS:
            chosen = [
                (row["tokens"], row["peak_mb"])
                for row in rows
                if (row["mode"], row["path"]) == (mode, path) and row["peak_mb"] is not None
            ]
            fitted[f"{mode}_{path}"] = straight_line(sorted(set(chosen)))
    return fitted


def straight_line(places: Sequence[tuple[float, float]]) -> dict[str, float]:
    """``mb = constant_mb + mb_per_1000_tokens * tokens / 1000`` through (tokens, mb)."""
    tokens, mb = np.array(places, dtype=float).T
    slope, constant = np.polyfit(tokens, mb, 1)
    off = np.abs(constant + slope * tokens - mb) / mb
    return {
        "constant_mb": round(float(constant), 1),
        "mb_per_1000_tokens": round(1e3 * float(slope), 3),
        "worst_off_line": round(float(off.max()), 3),
    }


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the figure, with both axes logarithmic: a power of the value is a straight line.

    Args:
        rows: with sweep, value, mode, path, clock_s and peak_mb (None where it did not fit).
        file: an SVG, of the same bytes for the same rows; others by their suffix.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style = {"svg.hashsalt": "growth", "svg.fonttype": "none", "font.size": 9}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 5.6), layout="constrained")
        panels = figure.subplots(len(QUANTITIES), len(AXES), sharex="col", sharey="row")
        for (key, label), panels_of_row in zip(QUANTITIES.items(), panels, strict=True):
            panels_of_row[0].set_ylabel(label)
            for sweep, panel in zip(AXES, panels_of_row, strict=True):
                _draw_panel(panel, [row for row in rows if row["sweep"] == sweep], sweep, key)
        for panel, label in zip(panels[-1], AXES.values(), strict=True):
            panel.set_xlabel(label)
        handles = panels[0][0].get_lines()
        figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
        metadata = {"Date": None, "Creator": "benchmarks/growth.py", "Identifier": digest(rows)}
        figure.savefig(file, metadata=metadata if file.suffix == ".svg" else None)


def _draw_panel(panel: Axes, rows: Sequence[Mapping[str, Any]], sweep: str, key: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    for (path, colour), (mode, (name, dashes)) in product(COLOURS.items(), PASSES.items()):
        of_line = [row for row in rows if (row["path"], row["mode"]) == (path, mode)]
        values, heights = [row["value"] for row in of_line], [row[key] for row in of_line]
        panel.plot(values, heights, color=colour, linestyle=dashes, label=f"{path}, {name}")
    panel.loglog()
    panel.grid(color="#ddd")
    panel.set_xticks(list(SWEEPS[sweep]), list(map(str, SWEEPS[sweep])))
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_minor_locator(NullLocator())


def digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """A name for what a figure was drawn from."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--draw", action="store_true", help="the newest result, measuring nothing")
    parser.add_argument("--figure", type=Path, default=FIGURE, help="file of the figure (CPU)")
    given = parser.parse_args(words)
    device = torch.device(given.device)
    if not given.draw:
        rows = measure(device, given.precision)
        on_cpu = device.type == "cpu"
        options = [] if on_cpu else ["--device", given.device]
        options += ["--precision", given.precision] if given.precision != "fp32" else []
        keep_record(
            "growth",
            {"precision": given.precision, "lines": lines(rows), "rows": rows},
            given.results,
            options=options,
            case="" if on_cpu else device.type,
        )
    if device.type == "cpu":
        draw(newest_result(given.results, RESULT)["rows"], given.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
