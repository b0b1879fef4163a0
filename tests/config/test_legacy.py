"""Every key of PySlowFast is read, passed over with a reason, or refused with one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from slowfast_mvit.config import load_config
from slowfast_mvit.config.config import KEYS
from slowfast_mvit.config.legacy import IGNORED, REFUSED, RETIRED, WITHOUT_EFFECT
from slowfast_mvit.errors import ConfigError

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
MVIT_KEYS = json.loads((REFERENCE / "config_keys.json").read_text())
OTHER_KEYS = json.loads((REFERENCE / "config_keys_other.json").read_text())


def tree_of(values):
    """Values by key, as the tree of a file; JSON is YAML too."""
    tree = {}
    for name, value in values.items():
        *sections, word = name.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[word] = value
    return tree


def test_every_key_of_pyslowfast_is_known():
    upstream = {*MVIT_KEYS, *(name for name in OTHER_KEYS if not name.startswith("_"))}

    assert upstream - {*KEYS, *IGNORED, *REFUSED} == set()
    ours = {name for name, key in KEYS.items() if key.rule.ours}
    assert {*KEYS, *IGNORED, *REFUSED} - upstream == ours | {*RETIRED}


# The default of both is SlowFast, which is refused.
@pytest.mark.parametrize("name", sorted({*MVIT_KEYS} - {"MODEL.ARCH", "MODEL.MODEL_NAME"}))
def test_the_default_of_pyslowfast_is_silent(name, tmp_path, caplog):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(tree_of({name: MVIT_KEYS[name]["default"]})))

    with caplog.at_level(logging.WARNING):
        load_config(path)

    assert caplog.messages == []


# Reversible MViT is refused.
PUBLISHED = sorted(
    {
        file
        for key in MVIT_KEYS.values()
        for file in key.get("set_in_mvit_yamls", ())
        if "REV_" not in file
    }
)
# The only difference from PySlowFast: names of checkpoints.
TASK_WARNING = "TASK: is not read; checkpoints have no prefix to their names"


@pytest.mark.parametrize("file", PUBLISHED)
def test_a_published_file_gives_true_warnings_only(file, tmp_path, caplog):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(tree_of({
        name: key["set_in_mvit_yamls"][file]
        for name, key in MVIT_KEYS.items()
        if file in key.get("set_in_mvit_yamls", ()) and name != "MVIT.POOL_Q_STRIDE"  # left out
    })))  # fmt: skip

    load_config(path)

    expected = [f"{path} line 1: {TASK_WARNING}"] if file.startswith("masked_ssl/") else []
    assert caplog.messages == expected


@pytest.mark.parametrize("name", sorted({*IGNORED} - {*REFUSED}))
def test_what_pyslowfast_would_not_do_either_gives_no_warning(name, caplog):
    """Any value is harmless where the feature that reads the key is off."""
    with caplog.at_level(logging.INFO):
        load_config(None, [name, "3"])

    (record,) = caplog.records
    is_quiet = IGNORED[name].reason in WITHOUT_EFFECT
    assert record.levelname == ("INFO" if is_quiet else "WARNING")


def test_keys_with_one_reason_share_one_warning(tmp_path, caplog):
    path = tmp_path / "run.yaml"
    path.write_text(
        "DATA:\n  SKIP_ROWS: 5\n  LOADER_CHUNK_SIZE: 200\nTEST:\n  SAVE_RESULTS_PATH: a.pkl\n"
    )

    load_config(path)

    assert caplog.messages == [
        f"{path}: DATA.SKIP_ROWS, DATA.LOADER_CHUNK_SIZE: the whole list is read; it takes little "
        "memory",
        f"{path} line 5: TEST.SAVE_RESULTS_PATH: is not read; scores are always written, to "
        "OUTPUT_DIR/test_scores.npz",
    ]


@pytest.mark.parametrize(("value", "num_warnings"), [("True", 1), ("False", 0)])
def test_a_retired_key_says_what_to_do(value, num_warnings, caplog):
    load_config(None, ["TRAIN.SHARDED_CHECKPOINTS", value])

    assert len(caplog.messages) == num_warnings
    assert all("is retired" in text and "delete the key" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("TASK", "ssl"),
        ("TRAIN.CHECKPOINT_TYPE", "caffe2"),
        ("DETECTION.ENABLE", "True"),
        ("MULTIGRID.SHORT_CYCLE", "True"),
        ("MASK.ENABLE", "True"),
        ("DATA.MULTI_LABEL", "True"),
        ("MVIT.MODE", "max"),
        ("MVIT.POOL_FIRST", "True"),
        ("MVIT.SEPARATE_QKV", "True"),
        ("MVIT.REV.ENABLE", "True"),
        ("MVIT.USE_FIXED_SINCOS_POS", "True"),
        ("SOLVER.LARS_ON", "True"),
        ("MODEL.ARCH", "slowfast"),
        ("MODEL.MODEL_NAME", "PTVMViT"),
        ("MODEL.LOSS_FUNC", "bce_logit"),
        ("MODEL.HEAD_ACT", "sigmoid"),
    ],
)
def test_what_is_out_of_scope_is_an_error(key, value):
    with pytest.raises(ConfigError, match="outside this project's scope"):
        load_config(None, [key, value])


def test_a_value_with_a_new_name_is_replaced_with_a_quiet_note(caplog):
    words = ["DATA.DECODING_BACKEND", "torchvision", "SOLVER.OPTIMIZING_METHOD", "mt_adamw"]

    with caplog.at_level(logging.INFO):
        config = load_config(None, words)

    assert config.data.decoding_backend == "pyav"
    assert config.solver.optimizing_method == "adamw"
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]


def test_mixed_precision_is_fp16():
    assert load_config(None, ["TRAIN.MIXED_PRECISION", "True"]).train.precision == "fp16"
    assert load_config(None, ["TRAIN.PRECISION", "bf16"]).train.precision == "bf16"
    with pytest.raises(ConfigError, match="contradicts"):
        load_config(None, ["TRAIN.MIXED_PRECISION", "True", "TRAIN.PRECISION", "bf16"])
