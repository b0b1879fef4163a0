"""Errors a user can cause, and the look-up of mistyped names."""

import pytest

from slowfast_mvit.errors import ConfigError, Stopped, UserError, in_one_message, nearest, pick

COLOURS = {"red": 1, "green": 2, "blue": 3}


def test_pick_returns_the_entry():
    assert pick(COLOURS, "green", "colour") == 2


def test_pick_names_what_exists_and_what_is_nearest():
    with pytest.raises(ConfigError) as caught:
        pick(COLOURS, "gren", "colour")

    message = str(caught.value)
    assert "no colour named 'gren'" in message
    assert "Did you mean 'green'?" in message
    assert "blue, green, red" in message


def test_pick_takes_something_from_outside_by_dotted_path():
    import math

    assert pick(COLOURS, "math:sqrt", "function") is math.sqrt


@pytest.mark.parametrize("name", ["math:no_such", "no_such_package:x", "math:", ":x"])
def test_pick_says_why_something_from_outside_was_not_found(name):
    with pytest.raises(ConfigError, match="could not be imported"):
        pick(COLOURS, name, "function")


def test_nearest_ignores_case_and_gives_up_on_nonsense():
    assert nearest("MVIT.DEPHT", ["MVIT.DEPTH", "MVIT.MODE"]) == "MVIT.DEPTH"
    assert nearest("Red", COLOURS) == "red"
    assert nearest("zzzz", COLOURS) is None


def test_every_error_a_user_can_cause_is_a_value_error():
    from slowfast_mvit import errors

    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]

    of_others = {errors.Stopped, errors.RankLost}  # not mistakes of the user

    assert {kind for kind in kinds if not issubclass(kind, UserError)} == of_others
    assert issubclass(UserError, ValueError)


def test_a_stopped_run_says_by_what():
    assert str(Stopped(15)).startswith("stopped by SIGTERM, and saved")
    assert str(Stopped(2)).startswith("stopped by Ctrl-C")


def test_problems_are_counted_and_listed():
    assert in_one_message("a.csv", ["line 1: x"]) == "a.csv: 1 problem\n  line 1: x"
    assert in_one_message("a.csv", ["x", "y"]).startswith("a.csv: 2 problems\n")
