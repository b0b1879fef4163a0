"""Text is read by the type of its key, since YAML 1.1 takes 1e-4 and (3, 7, 7) for text."""

from __future__ import annotations

import pytest

from slowfast_mvit.config import load_config, trusted_configs
from slowfast_mvit.config.coerce import describe
from slowfast_mvit.errors import ConfigError

ROWS = ((0, 1, 2, 2), (3, 1, 1, 1))


def written(key: str, spelling: str, tmp_path) -> object:
    """The value of a key, from a file that spells it so."""
    section, word = key.split(".")
    path = tmp_path / "run.yaml"
    path.write_text(f"{section}:\n  {word}: {spelling}\n")
    with trusted_configs():
        return getattr(getattr(load_config(path), section.lower()), word.lower())


VALUES = [
    ("SOLVER.BASE_LR", "1e-4", 1e-4),
    ("SOLVER.BASE_LR", "1.0e-4", 1e-4),
    ("SOLVER.BASE_LR", "1", 1.0),
    ("SOLVER.MAX_EPOCH", "200", 200),
    ("SOLVER.MAX_EPOCH", "200.0", 200),
    ("SOLVER.MAX_EPOCH", "'200'", 200),
    ("SOLVER.CLIP_GRAD_L2NORM", "None", None),
    ("SOLVER.CLIP_GRAD_L2NORM", "null", None),
    ("SOLVER.CLIP_GRAD_L2NORM", "2", 2.0),
    ("SOLVER.STEPS", "[0, 30, 60]", (0, 30, 60)),
    ("MVIT.PATCH_KERNEL", "(3, 7, 7)", (3, 7, 7)),
    ("MVIT.PATCH_KERNEL", "[3, 7, 7]", (3, 7, 7)),
    ("MVIT.POOL_KVQ_KERNEL", "None", None),
    ("MVIT.POOL_Q_STRIDE", "[[0, 1, 2, 2], [3, 1, 1, 1]]", ROWS),
    ("MVIT.POOL_Q_STRIDE", "((0, 1, 2, 2), (3, 1, 1, 1))", ROWS),
    ("MVIT.DIM_MUL", "[[1, 2], [3, 2.0]]", ((1, 2.0), (3, 2.0))),
    ("MVIT.USE_ABS_POS", "false", False),
    ("MVIT.USE_ABS_POS", "'False'", False),
    ("MODEL.ACT_CHECKPOINT", "True", True),
    ("MODEL.ACT_CHECKPOINT", "'False'", False),
    ("MODEL.ACT_CHECKPOINT", "selective", "selective"),
    ("TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN", '("backbone.",)', ("backbone.",)),
    ("TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN", '["module.", "backbone."]', ("module.", "backbone.")),
    ("TRAIN.DATASET", "Kinetics", "kinetics"),
    ("TRAIN.DATASET", "my.Package:Name", "my.Package:Name"),
    ("DATA.PATH_TO_DATA_DIR", "", ""),
    ("DATA.PATH_TO_DATA_DIR", "None", ""),
    ("DATA.PATH_TO_DATA_DIR", "2024-01-01", "2024-01-01"),
    ("DATA.PATH_LABEL_SEPARATOR", '"\\t"', "\t"),
    ("DATA.TRAIN_JITTER_SCALES_RELATIVE", "[]", ()),
    ("DATA.TRAIN_JITTER_SCALES_RELATIVE", "None", ()),
]


@pytest.mark.parametrize(("key", "spelling", "value"), VALUES)
def test_a_spelling_of_a_file_is_read_by_type(key, spelling, value, tmp_path):
    result = written(key, spelling, tmp_path)

    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("key", "spelling", "value"), [row for row in VALUES if "'" not in row[1] and row[1] != '"\\t"']
)
def test_an_override_is_read_like_a_file(key, spelling, value):
    section, word = key.split(".")

    config = load_config(None, [key, spelling])

    assert getattr(getattr(config, section.lower()), word.lower()) == value


@pytest.mark.parametrize(
    ("key", "spelling", "words"),
    [
        ("SOLVER.BASE_LR", "fast", "expected a number, got 'fast'"),
        ("SOLVER.BASE_LR", "True", "expected a number, got True"),
        ("SOLVER.BASE_LR", ".nan", "expected a number, got nan"),
        ("SOLVER.BASE_LR", "1e999", "expected a number, got '1e999'"),
        ("SOLVER.BASE_LR", "0", "must be above 0, got 0.0"),
        ("SOLVER.MAX_EPOCH", "1.5", "expected a whole number, got 1.5"),
        ("SOLVER.MAX_EPOCH", "[1]", "expected a whole number, got [1]"),
        ("SOLVER.MAX_EPOCH", "", "expected a whole number, got None"),
        ("SOLVER.CLIP_GRAD_VAL", "no way", "expected a number or None, got 'no way'"),
        ("MVIT.QKV_BIAS", "1", "expected True or False, got 1"),
        ("MVIT.POOL_KVQ_KERNEL", "3", "expected a list of 3 whole numbers or None, got 3"),
        ("MVIT.POOL_Q_STRIDE", "[[1, 2, 2]]", "expected a list of lists of 4 whole numbers"),
        ("MVIT.DROPPATH_RATE", "1.5", "must be at most 1, got 1.5"),
        ("MVIT.VARIANT", "XL", "'XL' is not a choice. Choose from: '', T, S, B, L, H"),
        ("DATA.STD", "[0.2, 0, 0.2]", "must be above 0, got 0.0"),
        ("DATA.MEAN", "[0.4, 0.4]", "expected a list of 3 numbers, got [0.4, 0.4]"),
        ("DATA.PATH_PREFIX", "[a, b]", "expected text, got ['a', 'b']"),
        ("DATA.INPUT_CHANNEL_NUM", "[1]", "1 is not a choice. Choose from: 3"),
        ("TEST.NUM_SPATIAL_CROPS", "2", "2 is not a choice. Choose from: 1, 3"),
    ],
)
def test_a_value_that_does_not_fit_says_what_would(key, spelling, words, tmp_path):
    with pytest.raises(ConfigError) as caught:
        written(key, spelling, tmp_path)

    assert f"line 2    {key}: {words}" in str(caught.value)


def test_types_are_described_in_words():
    assert describe(tuple[int, ...]) == "a list of whole numbers"
    assert describe(tuple[tuple[int, float], ...]) == "a list of lists of 2 numbers"
    assert describe(tuple[str, ...]) == "a list of texts"
