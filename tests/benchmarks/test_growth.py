"""The benchmark of growth: its points, the figure and its data."""

from __future__ import annotations

import json
from concurrent.futures.process import BrokenProcessPool
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="it draws the figure")

from benchmarks import growth


@pytest.fixture
def fake_runs(monkeypatch):
    """Ours takes a megabyte a token, plain the square of that; notes what was run."""
    runs = []

    def run_alone(name, case):
        runs.append((name, case))
        tokens = growth.tokens_of(case) / 1000
        return {"peak_mb": tokens if name == "ours" else tokens**2, "clock_s": tokens / 10}

    monkeypatch.setattr(growth, "run_alone", run_alone)
    return runs


def test_every_size_is_inferred_and_the_smaller_ones_are_trained():
    points = growth.points()

    inferred = {(sweep, value) for sweep, value, case in points if case.mode == "infer"}
    trained = {(sweep, value) for sweep, value, case in points if case.mode == "train"}
    assert inferred >= {("frames", 8), ("frames", 64), ("resolution", 160), ("resolution", 448)}
    assert trained == {
        *(("frames", t) for t in (8, 16, 32)),
        *(("resolution", px) for px in (160, 224, 312)),
        *(("batch", clips) for clips in (1, 2)),
    }


def test_tokens_are_counted_over_the_batch():
    assert growth.tokens_of(growth.PUBLISHED._replace(batch=2)) == 2 * 8 * 56 * 56


def test_the_result_has_rows_and_is_drawn(fake_runs, tmp_path, capsys):
    words = ["--results", str(tmp_path), "--figure", str(tmp_path / "growth.svg")]

    assert growth.main(words) == 0
    drawn = (tmp_path / "growth.svg").read_text()

    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["tokens"] for row in record["rows"][:4:2]] == [4 * 56 * 56, 8 * 56 * 56]
    assert len(fake_runs) == len(set(fake_runs))  # what sweeps share is run once
    ElementTree.fromstring(drawn)
    assert growth.digest(record["rows"]) in drawn

    (tmp_path / "growth.svg").unlink()
    assert growth.main(["--draw", *words]) == 0
    assert (tmp_path / "growth.svg").read_text() == drawn


def test_a_point_that_does_not_fit_is_not_in_the_figure(monkeypatch, tmp_path):
    def run_alone(name, case):
        if growth.tokens_of(case) > growth.tokens_of(growth.PUBLISHED):
            raise BrokenProcessPool("killed")
        return {"peak_mb": 2.0, "clock_s": 1.0}

    monkeypatch.setattr(growth, "run_alone", run_alone)

    rows = growth.measure()

    assert {row["peak_mb"] for row in rows} == {2.0, None}
    growth.draw(rows, tmp_path / "growth.svg")
    ElementTree.parse(tmp_path / "growth.svg")
