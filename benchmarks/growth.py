#!/usr/bin/env python3
"""Growth of time and memory with frames, resolution and batch: ours and the plain form.

The plain form writes out every attention score, queries times keys of them; ours writes none. Each
point is a fresh process: the second run is timed, memory is the most held. Clips that share a point
are measured once.

    python benchmarks/growth.py              # S in float32; about 10 minutes on 2 cores
    python benchmarks/growth.py --draw       # the figure only, from the newest result

The figure needs matplotlib (`pip install slowfast_mvit[benchmarks]`).

Training is measured up to twice the tokens of the published clip, inference everywhere. Writes
benchmarks/results/growth_<date>.json, which is also the last line printed, and from it the figure
docs/performance_growth.svg. A point that does not fit into memory is null.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

# The code in this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import MODES, run_alone
from benchmarks.lower_bounds import Case, num_tokens
from benchmarks.record import keep_record, newest_result, script_parser

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "performance_growth.svg"
PUBLISHED = Case("S", (16, 224, 224), "infer", "fp32")
# By name: the values, and the clip and batch of each.
SWEEPS: dict[str, dict[int, Case]] = {
    "frames": {t: PUBLISHED._replace(input_size=(t, 224, 224)) for t in (8, 16, 32, 64)},
    "resolution": {px: PUBLISHED._replace(input_size=(16, px, px)) for px in (160, 224, 312, 448)},
    "batch": {batch: PUBLISHED._replace(batch=batch) for batch in (1, 2, 4)},
}
# Rows of the figure: the key of a result and the label of the axis. Columns: the sweep.
QUANTITIES = {"clock_s": "time, s", "peak_mb": "peak memory, MB"}
AXES = {"frames": "frames", "resolution": "pixels a side", "batch": "clips a batch"}
COLOURS = {"ours": "#165e9e", "plain": "#c2571a"}
PASSES = {"infer": ("forward", "-"), "train": ("training step", "--")}
RESULT = "growth_2*.json"
MOST_TRAINED = 2.0  # times the tokens of the published clip


def points() -> list[tuple[str, int, Case]]:
    """Return (sweep, value, what to run), the small ones of each sweep first."""
    most = MOST_TRAINED * tokens_of(PUBLISHED)
    return [
        (sweep, value, case._replace(mode=mode))
        for mode in MODES
        for sweep, cases in SWEEPS.items()
        for value, case in cases.items()
        if mode == "infer" or tokens_of(case) <= most
    ]


def tokens_of(case: Case) -> int:
    """Return the tokens of all clips of a batch, before the first block, without class tokens."""
    return case.batch * num_tokens(case.input_size)


def measure() -> list[dict[str, Any]]:
    """Measure each point and path; return a row for each."""
    measured = functools.cache(measure_point)
    rows = []
    for (sweep, value, case), path in product(points(), COLOURS):
        row = {"sweep": sweep, "value": value, "mode": case.mode, "path": path}
        rows.append({**row, "tokens": tokens_of(case), **measured(path, case)})
        print(rows[-1], flush=True)
    return rows


def measure_point(path: str, case: Case) -> dict[str, Any]:
    """Measure seconds by the clock and peak memory in 1e6 bytes; None: too little memory."""
    try:
        result = run_alone(path, case)
    except RuntimeError as error:
        print(f"{path}, {case}: {error}", file=sys.stderr)
        return {"clock_s": None, "peak_mb": None}
    return {"clock_s": round(result["clock_s"], 4), "peak_mb": result["peak_mb"]}


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the figure, with both axes logarithmic: a power of the value is a straight line.

    Args:
        rows: with sweep, value, mode, path, clock_s and peak_mb (None where it did not fit).
        file: an SVG, of the same bytes for the same rows.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    with matplotlib.rc_context({"svg.hashsalt": "growth", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 5.6), layout="constrained")
        panels = figure.subplots(len(QUANTITIES), len(AXES), sharex="col", sharey="row")
        for (key, sweep), panel in zip(product(QUANTITIES, AXES), panels.flat, strict=True):
            for (path, colour), (mode, (name, dashes)) in product(COLOURS.items(), PASSES.items()):
                line = [
                    r for r in rows if (r["sweep"], r["path"], r["mode"]) == (sweep, path, mode)
                ]
                values, heights = [row["value"] for row in line], [row[key] for row in line]
                panel.plot(values, heights, color=colour, linestyle=dashes, label=f"{path}, {name}")
            panel.loglog()
            panel.grid(color="#ddd")
            panel.set_xticks(list(SWEEPS[sweep]), list(map(str, SWEEPS[sweep])))
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.minorticks_off()
            panel.set(xlabel=AXES[sweep], ylabel=QUANTITIES[key])
            panel.label_outer()
        handles = panels[0][0].get_lines()
        figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
        metadata = {"Date": None, "Creator": "benchmarks/growth.py", "Identifier": digest(rows)}
        figure.savefig(file, metadata=metadata)


def digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a name for what a figure was drawn from."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__file__, __doc__)
    parser.add_argument("--draw", action="store_true", help="the newest result, measuring nothing")
    parser.add_argument("--figure", type=Path, default=FIGURE, help="file of the figure (SVG)")
    options = parser.parse_args(words)
    if not options.draw:
        rows = measure()
        keep_record(parser, options, {"precision": "fp32", "rows": rows})
    draw(newest_result(options.results, RESULT)["rows"], options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
