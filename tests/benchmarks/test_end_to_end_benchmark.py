"""The benchmark of the training loop runs, and prints what it promises."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import end_to_end
from benchmarks.end_to_end import Case
from benchmarks.timing import Seconds

TINY = Case("Demo/motion.yaml", end_to_end.WITH_RECIPE, 2, 2, num_rounds=3, num_quick_rounds=2)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two clips and few steps, and the number of threads as it was."""
    monkeypatch.setattr(end_to_end, "CASES", {"s_16x4": TINY, "demo": TINY})
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def test_the_loop_is_compared_with_the_bare_step(tmp_path, capsys):
    assert end_to_end.main(["--quick", "--results", str(tmp_path)]) == 0

    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text()) == record
    ratios = [record[name]["loop_over_bare_step"] for name in ("s_16x4", "demo")]
    assert record["loop_over_bare_step"] == min(ratios)
    assert min(ratios) > 0
    assert record["demo"]["bare_clips_per_cpu_s"] > 0
    assert record["command"] == "python benchmarks/end_to_end.py --quick"


def test_each_step_of_the_loop_follows_a_bare_one(monkeypatch):
    order = []
    bare_step = end_to_end.bare_step

    def noted(ready):
        order.append("bare")
        bare_step(ready)

    summarised = {}
    monkeypatch.setattr(end_to_end, "bare_step", noted)
    monkeypatch.setattr(end_to_end, "summarise", lambda loader, case: summarised.update(l=loader))
    end_to_end.measure(TINY, num_rounds=2)

    loader = summarised["l"]
    assert len(loader.bare) == len(loader.loop) == 2 * TINY.log_period
    assert len(order) == 1 + len(loader.bare)  # the first is not counted
    assert all(step.cpu > 0 for step in loader.bare + loader.loop)


def test_the_median_round_counts():
    loader = end_to_end.AlternatingLoader(None, None, 6)
    loader.bare = [Seconds(1.0, 1.0)] * 6
    loader.loop = [Seconds(1.25, 2.0)] * 4 + [Seconds(50.0, 50.0)] * 2

    measured = end_to_end.summarise(loader, TINY)

    assert measured["loop_over_bare_step"] == 0.8
    assert measured["loop_over_bare_step_by_the_clock_noisy"] == 0.5
    assert measured["bare_cpu_ms_per_step"] == 1000
    assert measured["loop_clips_per_cpu_s"] == 1.6


def test_a_bare_step_moves_the_weights():
    torch.manual_seed(0)
    config = end_to_end.case_config(TINY)
    model = end_to_end.builders.build_model(config).train()
    optimizer = end_to_end.builders.build_optimizer(config, model)
    objective = end_to_end.builders.build_objective(config)
    batch = end_to_end.random_batch(config, 2)
    ready = end_to_end.make_ready(config, model, optimizer, objective, batch)
    before = model.head.projection.weight.clone()

    end_to_end.bare_step(ready)

    assert ready.inputs.shape == (2, 3, 8, 48, 48)
    assert ready.targets.sum(dim=1).tolist() == pytest.approx([1, 1])
    assert not torch.equal(model.head.projection.weight, before)
    assert model.head.projection.weight.grad is None
