"""Every key of PySlowFast is read, passed over with a reason, or refused with one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from slowfast_mvit.config import load_config
from slowfast_mvit.config.config import KEYS
from slowfast_mvit.config.legacy import IGNORED, REFUSED, RETIRED
from slowfast_mvit.errors import ConfigError

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
MVIT_KEYS = json.loads((REFERENCE / "config_keys.json").read_text())
OTHER_KEYS = json.loads((REFERENCE / "config_keys_other.json").read_text())


def test_every_key_of_pyslowfast_is_known():
    upstream = {*MVIT_KEYS, *(name for name in OTHER_KEYS if not name.startswith("_"))}

    assert upstream - {*KEYS, *IGNORED, *REFUSED} == set()
    ours = {name for name, key in KEYS.items() if key.rule.ours}
    assert {*KEYS, *IGNORED, *REFUSED} - upstream == ours | {*RETIRED}


# The default of both is SlowFast, which is refused.
@pytest.mark.parametrize("name", sorted({*MVIT_KEYS} - {"MODEL.ARCH", "MODEL.MODEL_NAME"}))
def test_the_default_of_pyslowfast_is_silent(name, tmp_path, caplog):
    section, _, word = name.rpartition(".")
    value = json.dumps(MVIT_KEYS[name]["default"])
    for part in reversed(section.split(".") if section else []):
        word, value = part, f"{{{word}: {value}}}"
    path = tmp_path / "run.yaml"
    path.write_text(f"{word}: {value}\n")

    with caplog.at_level(logging.WARNING):
        load_config(path)

    always_warns = name.startswith(("BENCHMARK.", "MVIT.REV.")) and name not in REFUSED
    assert bool(caplog.messages) == always_warns


def test_keys_with_one_reason_share_one_warning(tmp_path, caplog):
    path = tmp_path / "run.yaml"
    path.write_text(
        "BN:\n  USE_PRECISE_STATS: False\n  NUM_BATCHES_PRECISE: 200\nPREFETCH:\n  NUM_LOADERS: 3\n"
    )

    load_config(path)

    assert caplog.messages == [
        f"{path}: BN.USE_PRECISE_STATS, BN.NUM_BATCHES_PRECISE: MViT has no batch normalisation",
        f"{path} line 5: PREFETCH.NUM_LOADERS: is unknown to PySlowFast too; "
        "DATA_LOADER.NUM_WORKERS sets the number of workers",
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
