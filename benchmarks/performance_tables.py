#!/usr/bin/env python3
"""The tables in the documents, from the newest results, so that the two cannot drift apart.

    python benchmarks/performance_tables.py     # after a benchmark: writes them anew

A document marks the place of a table by ``<!-- table: NAME -->`` and ``<!-- end -->``, each on a
line of its own. A test fails where a document shows something else than its result file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import RESULTS, newest_result

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "docs" / "performance.md", ROOT / "benchmarks" / "README.md")
MODES = {"infer": "forward", "train": "training step"}
PRECISIONS = ("fp32", "bf16")
CLIPS = {"S": "S 16x4", "B": "B 32x3", "L": "L 40x3 at 312"}
NAMES = {
    "ours": "ours",
    "ours_compiled": "ours, compiled",
    "plain": "ours, plain: scores written out",
    "torchvision": "torchvision",
    "torchvision_compiled": "torchvision, compiled",
}

Record = Mapping[str, Any]


def source(record: Record, *more: str) -> str:
    """Command and machine of a result, in a line."""
    machine = record["machine"]
    words = [
        f"`{record['command']}`, {record['date']}",
        f"{machine['cpu']}, {machine['num_threads']} of {machine['num_cores']} cores",
        *more,
        f"torch {machine['torch']}, torchvision {machine['torchvision']}",
    ]
    return "; ".join(words) + "."


def floors(record: Record) -> str:
    """Operations, least bytes and floors of a clip of each published model."""
    products, copy = record["rates"]["products"], record["rates"]["copy_gb_per_s"]
    columns = PRECISIONS if record["bf16_in_hardware"] else ("fp32",)
    heads = ["one clip", "GFLOP", "least GB, fp32", "least GB, bf16"]
    heads += [f"floor, {precision}" for precision in columns]
    rows = []
    for size, clip in CLIPS.items():
        for mode, what in MODES.items():
            row = record["published"][f"{size}_{mode}"]
            cells = [f"{clip}, {what}", f"{row['gflop']:,.1f}"]
            cells += [f"{row[f'gb_{precision}']:.2f}" for precision in PRECISIONS]
            cells += [_seconds(row[f"floor_{precision}_s"]) for precision in columns]
            rows.append(cells)
    rates = ", ".join(
        f"{products[precision]['best_gflop_per_s']:,.0f} GFLOP/s in {precision} "
        f"({products[precision]['best_shape']})"
        for precision in PRECISIONS
    )
    text = f"Best matrix products: {rates}; a copy: {copy:.1f} GB/s. "
    if not record["bf16_in_hardware"]:
        text += "This processor has no instructions for bf16: it emulates them. "
    return f"{_table(heads, rows)}\n\n{text}{source(record)}"


def speed(record: Record) -> str:
    """Seconds a clip of each contender, and what the floor is of them."""
    keys = [f"{mode}_{precision}" for precision in PRECISIONS for mode in MODES]
    keys = [key for key in keys if key in record["speed"]]
    heads = ["a clip"] + [_title(key, record) for key in keys]
    rows = []
    for name in record["speed"][keys[0]]:
        cells = [NAMES[name]]
        for key in keys:
            row = record["speed"][key][name]
            per_clip = row["clock_s"] / row["batch"]
            cells.append(f"{_seconds(per_clip)} ({row['fraction_of_floor']:.2f} of the floor)")
        rows.append(cells)
    ratios = ["ours against torchvision"]
    ratios += [f"{record[f'{key}_vs_torchvision']:.2f} times as fast" for key in keys]
    return f"{_table(heads, [*rows, ratios])}\n\n{source(record)}"


def memory(record: Record) -> str:
    """Peak memory of a training step of each contender."""
    keys = list(record["peak_mb"])
    heads = ["peak memory, one clip"] + [_title(key, record) for key in keys]
    rows = [
        [NAMES[name], *(f"{record['peak_mb'][key][name]:,.0f} MB" for key in keys)]
        for name in record["peak_mb"][keys[0]]
    ]
    ratio = f"ours is {record['train_memory_vs_torchvision']:.2f} of torchvision's"
    return f"{_table(heads, rows)}\n\n{ratio[0].upper()}{ratio[1:]}. {source(record)}"


def growth(record: Record) -> str:
    """The straight lines of memory against tokens."""
    heads = ["", "MB at no tokens", "MB for 1,000 tokens", "a point is off the line by at most"]
    rows = []
    for key, line in record["lines"].items():
        mode, path = key.split("_")
        cells = [f"{NAMES[path]}, {MODES[mode]}", f"{line['constant_mb']:,.0f}"]
        cells += [f"{line['mb_per_1000_tokens']:.1f}", f"{100 * line['worst_off_line']:.0f} %"]
        rows.append(cells)
    return f"{_table(heads, rows)}\n\n{source(record)}"


def profile(record: Record) -> str:
    """Self time by class of operation, as benchmarks/profile_model.py sorted it."""
    columns = record["profiles"]
    heads = ["ms of a pass", *columns]
    classes = sorted(
        {name for times in columns.values() for name in times},
        key=lambda name: -max(times.get(name, 0.0) for times in columns.values()),
    )
    rows = [
        [name, *(f"{times.get(name, 0.0):,.0f}" for times in columns.values())] for name in classes
    ]
    rows.append(["all", *(f"{sum(times.values()):,.0f}" for times in columns.values())])
    return f"{_table(heads, rows)}\n\n{source(record)}"


# By name: which results, and how they are shown.
TABLES: dict[str, tuple[str, Callable[[Record], str]]] = {
    "floors": ("model_S_cpu_*.json", floors),
    "speed": ("model_S_cpu_*.json", speed),
    "memory": ("model_S_cpu_*.json", memory),
    "growth": ("growth_2*.json", growth),
    "profile, forward": ("profile_model_infer_*.json", profile),
    "profile, training step": ("profile_model_train_*.json", profile),
}


def filled(document: str, folder: Path = RESULTS) -> str:
    """A document with every marked table written anew.

    Raises:
        FileNotFoundError: a table has no result.
    """

    def table(found: re.Match[str]) -> str:
        pattern, show = TABLES[found[1]]
        text = show(newest_result(folder, pattern))
        return f"<!-- table: {found[1]} -->\n{text}\n<!-- end -->"

    return re.sub(r"<!-- table: (.+?) -->\n.*?<!-- end -->", table, document, flags=re.DOTALL)


def _title(key: str, record: Record) -> str:
    mode, precision = key.split("_")
    small = precision == "bf16" and record["bf16_input_size"] != record["input_size"]
    size = " x ".join(str(length) for length in record["bf16_input_size"])
    return f"{MODES[mode]}, {precision}" + (f", {size}" if small else "")


def _seconds(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 0.1 else f"{1e3 * seconds:.3g} ms"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, marks, *rows])


def main() -> int:
    """Write the tables of all documents; returns the exit status."""
    for path in DOCUMENTS:
        path.write_text(filled(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
