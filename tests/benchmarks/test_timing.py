"""Contenders alternate, and the figures are the medians and means that the docstrings name."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
import torch

from benchmarks import timing
from benchmarks.timing import Rounds, Seconds, child_cpu_ms, cpu_ms_per_item, in_process

CPU = torch.device("cpu")


def test_the_figure_is_the_median_over_rounds_and_the_mean_over_items():
    # A first run, then three rounds of two items: 1 ms and 3 ms, once disturbed.
    taken_ms = {"a": iter([99.0, 1.0, 3.0, 50.0, 3.0, 1.0, 3.0])}

    figures = cpu_ms_per_item({"a": lambda item: next(taken_ms["a"])}, ["x", "y"], num_rounds=3)

    assert figures == {"a": 2.0}


def test_ways_alternate_and_each_is_first_as_often_as_the_others():
    order = []
    ways = {name: lambda item, name=name: order.append((item, name)) or 0.0 for name in "ab"}

    cpu_ms_per_item(ways, [0, 1], num_rounds=2)

    assert order[:2] == [(0, "a"), (0, "b")]  # not counted
    assert order[2:6] == [(0, "a"), (0, "b"), (1, "b"), (1, "a")]
    assert order[6:] == [(0, "b"), (0, "a"), (1, "a"), (1, "b")]
    assert gc.isenabled()


def test_work_in_this_process_is_counted_and_sleep_is_not():
    from time import sleep

    asleep_ms = in_process(sleep)(0.2)
    busy_ms = in_process(lambda count: sum(range(count)))(3_000_000)

    assert asleep_ms < 100 < 200
    assert busy_ms > asleep_ms


def test_a_program_that_fails_is_an_error_with_its_message():
    command = [sys.executable, "-c", "import sys; sys.exit('no such codec')"]

    with pytest.raises(subprocess.CalledProcessError) as caught:
        child_cpu_ms(command)

    assert caught.value.returncode == 1
    assert b"no such codec" in caught.value.stderr


def test_rounds_stop_when_the_time_is_up_but_not_before_the_least():
    works = {"one": lambda: None, "two": lambda: None}

    few = timing.seconds_per_round(works, Rounds(budget_s=0.0, least=2, most=9), CPU)
    many = timing.seconds_per_round(works, Rounds(budget_s=60.0, least=2, most=5), CPU)

    assert {name: len(taken) for name, taken in few.items()} == {"one": 2, "two": 2}
    assert {name: len(taken) for name, taken in many.items()} == {"one": 5, "two": 5}
    assert timing.median([Seconds(1, 2), Seconds(9, 9), Seconds(3, 4)], "cpu") == 3
    assert timing.median([Seconds(1, 2), Seconds(9, 9), Seconds(3, 4)], "clock") == 4


def test_another_contender_begins_each_round():
    order: list[str] = []
    works = {name: lambda name=name: order.append(name) for name in "abc"}

    timing.seconds_per_round(works, Rounds.exactly(2), CPU)

    assert "".join(order) == "abc" + "abc" + "bca"  # the first is not counted
