"""Ways of doing the same are timed in turns, and the figures are medians and means as told."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from benchmarks.timing import child_cpu_ms, in_process, take_turns


def test_the_figure_is_the_median_over_rounds_and_the_mean_over_items():
    # A first run, then three rounds of two items: 1 ms and 3 ms, once disturbed.
    taken_ms = {"a": iter([99.0, 1.0, 3.0, 50.0, 3.0, 1.0, 3.0])}

    figures = take_turns({"a": lambda item: next(taken_ms["a"])}, ["x", "y"], num_rounds=3)

    assert figures == {"a": 2.0}


def test_ways_take_turns_and_each_is_first_as_often_as_the_others():
    order = []
    ways = {name: lambda item, name=name: order.append((item, name)) or 0.0 for name in "ab"}

    take_turns(ways, [0, 1], num_rounds=2)

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


def test_a_program_that_fails_is_told_with_its_words():
    command = [sys.executable, "-c", "import sys; sys.exit('no such codec')"]

    with pytest.raises(subprocess.CalledProcessError) as caught:
        child_cpu_ms(command)

    assert caught.value.returncode == 1
    assert b"no such codec" in caught.value.stderr
