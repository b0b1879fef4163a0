"""The figures and the drawing in the documents are those of the newest results."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="it draws the figure")

from benchmarks import growth
from benchmarks.record import RESULTS, newest_result

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"ours": "ours", "plain": "ours, plain: scores written out", "torchvision": "torchvision"}
CLIPS = {"S": "S 16x4", "B": "B 32x3", "L": "L 40x3 at 312"}
MODES = {"infer": "forward", "train": "training step"}
MODEL, LOADER = "model_S_cpu_2*.json", "loader_2*.json"
QUICK = "model_quick_2*.json"

# Text of README.md with the keys of a result
QUOTED = [
    ("decode_2*.json", "decoding the same frames | {read_16x4_over_floor:.2f} |"),
    ("end_to_end_2*.json", "clips in memory | {loop_over_bare_step:.2f} of its clips/s |"),
    ("motion_2*.json", "| {top1_videos}, "),
    (LOADER, "{train_2aug_exact_vs_pyslowfast:.1f} times as fast; {train_2aug_vs_pyslowfast:.1f}"),
    (LOADER, "{train_2aug_prepared_vs_pyslowfast:.1f} on videos prepared"),
    (LOADER, "one decoding a clip | {test_5clips_vs_pyslowfast:.1f} times as fast |"),
    (MODEL, "forward {infer_fp32_vs_torchvision:.2f} times as fast"),
    (MODEL, "training step {train_fp32_vs_torchvision:.2f} times, with"),
    (MODEL, "{train_memory_vs_torchvision:.2f} of the memory"),
    (QUICK, "fp32: forward {infer_fp32_vs_torchvision:.2f}, training step"),
    (QUICK, "bf16: {infer_bf16_vs_torchvision:.2f} and {train_bf16_vs_torchvision:.2f} times"),
]


@pytest.mark.parametrize(("result", "text"), QUOTED)
def test_the_readme_quotes_the_newest_result(result, text):
    assert text.format(**newest_result(RESULTS, result)) in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_of_speed_and_memory_are_those_of_the_newest_result(name):
    seconds, fraction = (
        "{speed[MODE][NAME][clock_s]:.2f}",
        "{speed[MODE][NAME][fraction_of_floor]:.2f}",
    )
    cell = f"{seconds} s ({fraction} of the floor)"
    cells = [cell.replace("MODE", mode) for mode in ("infer_fp32", "train_fp32")]
    rows = [" | ".join(["| LABEL", *cells, ""]), "| LABEL | {peak_mb[train_fp32][NAME]:,.0f} MB |"]

    for row in rows:
        text = row.replace("LABEL", NAMES[name]).replace("NAME", name)
        assert text.format(**newest_result(RESULTS, MODEL)) in performance()


@pytest.mark.parametrize("size", CLIPS)
@pytest.mark.parametrize("mode", MODES)
def test_the_table_of_floors_is_that_of_the_newest_result(size, mode):
    floors = newest_result(RESULTS, MODEL)["published"][f"{size}_{mode}"]

    row = "{gflop:,.1f} | {gb_fp32:.2f} | {gb_bf16:.2f} | {floor_fp32_s:,.2f} s |".format(**floors)

    assert f"| {CLIPS[size]}, {MODES[mode]} | {row}" in performance()


def test_the_figure_is_drawn_from_the_newest_result():
    rows = newest_result(RESULTS, growth.RESULT)["rows"]

    assert growth.digest(rows) in growth.FIGURE.read_text()


def test_a_missing_result_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no growth_2"):
        newest_result(tmp_path, growth.RESULT)


def performance() -> str:
    return (ROOT / "docs" / "performance.md").read_text()
