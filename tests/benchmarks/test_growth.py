"""The benchmark of growth: which points, the line through them, the figure and its data."""

from __future__ import annotations

import json
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

pytest.importorskip("matplotlib", reason="it draws the figure")

from benchmarks import growth

CPU = torch.device("cpu")


@pytest.fixture
def fake_runs(monkeypatch):
    """Ours takes a megabyte a token, plain the square of that; notes what was run."""
    runs = []

    def run_alone(name, case, *, num_runs):
        runs.append((name, case))
        tokens = growth.tokens_of(case) / 1000
        return {"peak_mb": tokens if name == "ours" else tokens**2, "clock_s": tokens / 10}

    monkeypatch.setattr(growth, "run_alone", run_alone)
    return runs


def test_every_size_is_inferred_and_the_smaller_ones_are_trained():
    points = list(growth.points(CPU, "fp32"))

    inferred = {(sweep, value) for sweep, value, case in points if case.mode == "infer"}
    trained = {(sweep, value) for sweep, value, case in points if case.mode == "train"}
    assert inferred >= {("frames", 8), ("frames", 64), ("resolution", 160), ("resolution", 448)}
    assert trained == {
        *(("frames", t) for t in (8, 16, 32)),
        *(("resolution", px) for px in (160, 224, 312)),
        *(("batch", clips) for clips in (1, 2)),
    }
    assert len(list(growth.points(torch.device("cuda"), "bf16"))) == 2 * len(inferred)


def test_tokens_are_counted_over_the_batch():
    assert growth.tokens_of(replace(growth.PUBLISHED, batch=2)) == 2 * 8 * 56 * 56


def test_a_line_is_told_from_a_curve():
    straight = growth.straight_line([(1000, 12.0), (2000, 14.0), (4000, 18.0)])
    curved = growth.straight_line([(1000, 1.0), (2000, 4.0), (4000, 16.0)])

    assert straight == {"constant_mb": 10.0, "mb_per_1000_tokens": 2.0, "worst_off_line": 0.0}
    assert curved["worst_off_line"] > 0.5


def test_the_result_holds_lines_and_rows_and_is_drawn(fake_runs, tmp_path, capsys):
    words = ["--results", str(tmp_path), "--figure", str(tmp_path / "growth.svg")]

    assert growth.main(words) == 0
    drawn = (tmp_path / "growth.svg").read_text()

    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["lines"]["infer_ours"]["worst_off_line"] == 0
    assert record["lines"]["infer_plain"]["worst_off_line"] > 0.1
    assert len(fake_runs) == len(set(fake_runs))  # what sweeps share is run once
    ElementTree.fromstring(drawn)
    assert growth.digest(record["rows"]) in drawn

    (tmp_path / "growth.svg").unlink()
    assert growth.main(["--draw", *words]) == 0
    assert (tmp_path / "growth.svg").read_text() == drawn


def test_a_point_that_does_not_fit_is_left_out_of_line_and_figure(monkeypatch, tmp_path):
    def run_alone(name, case, *, num_runs):
        if growth.tokens_of(case) > growth.tokens_of(growth.PUBLISHED):
            raise BrokenProcessPool("killed")
        return {"peak_mb": 2.0, "clock_s": 1.0}

    monkeypatch.setattr(growth, "run_alone", run_alone)

    rows = growth.measure(CPU, "fp32")

    assert {row["peak_mb"] for row in rows} == {2.0, None}
    assert growth.lines(rows)["train_plain"]["constant_mb"] == 2.0
    growth.draw(rows, tmp_path / "growth.svg")
    ElementTree.parse(tmp_path / "growth.svg")
