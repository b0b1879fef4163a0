"""RandAugment: specifications and draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slowfast_mvit.data.views.randaugment import OPERATIONS, RandAugment, parse_randaugment
from slowfast_mvit.errors import ConfigError

REFERENCE = Path(__file__).parents[1] / "reference" / "sampling_and_schedules.json"
LEVEL_ARGUMENTS = json.loads(REFERENCE.read_text())["randaug_level_args_at_7_random_seed0"]


class FirstDrawOfRandomSeed0:
    """Python's ``random.seed(0); random.random()``, which the reference was computed with."""

    def random(self):
        return 0.8444218515250481


@pytest.mark.parametrize("name", OPERATIONS)
def test_levels_mean_what_they_mean_in_pyslowfast(name):
    draws = FirstDrawOfRandomSeed0()
    increasing_name = name + "Increasing" if name + "Increasing" in LEVEL_ARGUMENTS else name
    plain, increasing = LEVEL_ARGUMENTS[name], LEVEL_ARGUMENTS[increasing_name]
    argument = OPERATIONS[name].argument

    assert argument(0.7, False, draws) == pytest.approx((plain or [0])[0])
    assert argument(0.7, True, draws) == pytest.approx((increasing or [0])[0])


def test_every_operation_is_there():
    assert len(OPERATIONS) == 15
    assert sum(row.weight for row in OPERATIONS.values()) == 1000


def test_the_published_specification_is_understood():
    assert parse_randaugment("rand-m7-n4-mstd0.5-inc1") == RandAugment(
        num_ops=4, magnitude=7.0, magnitude_std=0.5, increasing=True
    )
    assert parse_randaugment("rand-m9-mstd0.5-inc1").num_ops == 2
    assert parse_randaugment("rand-n1").magnitude == 10.0
    assert not parse_randaugment("rand-m9").increasing
    assert parse_randaugment("rand-m9-w0").weighted


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("augmix-m3", "cannot be read"),
        ("rand-m", "cannot be read"),
        ("rand-m7-x2", "cannot be read"),
        ("rand-m7-m8", "cannot be read"),
        ("rand-n2.5", "cannot be read"),
        ("m7-n4", "cannot be read"),
        ("rand-m11", "must be from 0 to 10"),
        ("rand-w1", "one table of weights, w0"),
        ("rand-n14-w0", "n must be at most 13"),
    ],
)
def test_other_specifications_are_refused(spec, message):
    with pytest.raises(ConfigError, match=f"AUG.AA_TYPE '{spec}'.*{message}"):
        parse_randaugment(spec)


def drawn(spec, num_draws):
    augment = parse_randaugment(spec)
    return [augment.draw(np.random.default_rng(seed)) for seed in range(num_draws)]


def test_half_of_the_operations_are_done_each_as_often_as_another():
    steps = [step for steps in drawn("rand-m7-n4-mstd0.5-inc1", 3000) for step in steps]

    names, counts = np.unique([step.name for step in steps], return_counts=True)
    assert len(steps) == pytest.approx(3000 * 4 / 2, rel=0.03)
    assert set(names) == set(OPERATIONS)
    assert counts == pytest.approx(len(steps) / 15, rel=0.2)


def test_strength_is_spread_around_its_mean_and_has_either_sign():
    steps = [step for steps in drawn("rand-m7-n4-mstd0.5-inc1", 3000) for step in steps]
    degrees = np.array([step.argument for step in steps if step.name == "Rotate"])

    assert np.abs(degrees).mean() == pytest.approx(21, abs=0.3)
    assert np.abs(degrees).std() == pytest.approx(1.5, abs=0.2)
    assert (degrees > 0).mean() == pytest.approx(0.5, abs=0.08)


def test_a_strength_above_ten_counts_as_ten():
    steps = [step for steps in drawn("rand-m10-mstd3-n4", 500) for step in steps]

    assert max(abs(step.argument) for step in steps if step.name == "ShearX") == 0.3


def test_weighted_choice_favours_geometry_and_repeats_nothing():
    draws = drawn("rand-m7-n4-mstd0.5-inc1-w0", 2000)

    names, counts = np.unique([step.name for steps in draws for step in steps], return_counts=True)
    often = dict(zip(names, counts, strict=True))
    assert all(len({step.name for step in steps}) == len(steps) for steps in draws)
    assert "Posterize" not in often and "Invert" not in often
    assert often["Rotate"] > often["ShearX"] > often["TranslateXRel"] > 3 * often["Color"]
