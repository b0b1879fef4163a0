"""A config knows PySlowFast's defaults, writes itself down, and has a digest."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fvcore.common.config import CfgNode

from slowfast_mvit.config import Config, load_config
from slowfast_mvit.config.config import KEYS
from slowfast_mvit.config.document import document

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = json.loads((ROOT / "tests" / "reference" / "config_keys.json").read_text())

# torchvision's decoder is gone, and a user's file says ARCH mvit anyway.
OWN_DEFAULTS = {"DATA.DECODING_BACKEND", "MODEL.ARCH", "MODEL.MODEL_NAME"}


def as_lists(value: object) -> object:
    return [as_lists(part) for part in value] if isinstance(value, tuple) else value


def flat(tree: dict, prefix: str = "") -> dict[str, object]:
    keys: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            keys |= flat(value, f"{prefix}{name}.")
        else:
            keys[f"{prefix}{name}"] = value
    return keys


@pytest.mark.parametrize("name", sorted(set(KEYS) & set(REFERENCE) - OWN_DEFAULTS))
def test_the_default_is_pyslowfasts(name):
    assert as_lists(KEYS[name].default) == REFERENCE[name]["default"]


def test_every_key_has_a_meaning_and_a_default_within_its_rule():
    defaults = {key.name: as_lists(key.default) for key in KEYS.values()}
    words = [f"{name}={json.dumps(value)}" for name, value in defaults.items() if value is not None]

    config = load_config(None, words)

    assert config == Config()
    assert all(key.rule.meaning.endswith(".") for key in KEYS.values())


def test_a_config_is_frozen():
    config = load_config(None)

    with pytest.raises(dataclasses.FrozenInstanceError):
        config.data.num_frames = 3
    assert hash(config) == hash(load_config(None))


def changed() -> Config:
    return load_config(
        None,
        [
            "MVIT.DIM_MUL=[[1, 2.0], [3, 2.0]]",
            "MVIT.POOL_KVQ_KERNEL=(3, 3, 3)",
            "SOLVER.COSINE_END_LR=1e-6",
            "SOLVER.CLIP_GRAD_L2NORM=1",
            "DATA.PATH_LABEL_SEPARATOR=\t",
            "DATA.PATH_PREFIX=: # [",
            "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN=['a.', 'yes']",
            "OUTPUT_DIR=07",
            "TRAIN.MIXED_PRECISION=True",
        ],
    )


def test_a_written_config_is_read_back_as_it_was(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(changed().to_yaml())

    again = load_config(path)

    assert again == changed()
    assert again.to_yaml() == changed().to_yaml()
    assert again.digest() == changed().digest()


def test_fvcore_reads_the_same_values(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(changed().to_yaml())

    theirs = flat(CfgNode(CfgNode.load_yaml_with_base(str(path))))

    assert {name: as_lists(key.value_in(changed())) for name, key in KEYS.items()} == theirs
    assert theirs == flat(yaml.safe_load(changed().to_yaml()))


def test_a_variant_still_fills_the_blocks_after_writing_and_reading(tmp_path):
    path = tmp_path / "config.yaml"
    config = load_config(None, ["MVIT.VARIANT", "B", "MVIT.DEPTH", "16"])
    path.write_text(config.to_yaml())

    again = load_config(path)

    assert again == config
    assert again.is_set("MVIT.DEPTH")
    for key in ("DIM_MUL", "POOL_Q_STRIDE", "POOL_KV_STRIDE", "POOL_KVQ_KERNEL", "EMBED_DIM"):
        assert not again.is_set(f"MVIT.{key}")


def test_a_set_block_key_changes_the_digest_even_at_its_default():
    assert KEYS["MVIT.DEPTH"].default == 16
    left_to_variant = load_config(None, ["MVIT.VARIANT", "B"])
    set_by_hand = load_config(None, ["MVIT.VARIANT", "B", "MVIT.DEPTH", "16"])

    assert left_to_variant == set_by_hand
    assert left_to_variant.digest() != set_by_hand.digest()


def test_is_set_knows_only_keys():
    with pytest.raises(KeyError):
        load_config(None).is_set("MVIT.DEPHT")


@pytest.mark.parametrize(
    "word",
    [
        "OUTPUT_DIR=/elsewhere",
        "NUM_GPUS=2",
        "NUM_SHARDS=4",
        "DATA_LOADER.NUM_WORKERS=0",
        "DATA_LOADER.PIN_MEMORY=False",
        "LOG_PERIOD=1",
        "TRAIN.AUTO_RESUME=False",
        "DATA.PATH_TO_DATA_DIR=/data",
        "TEST.CHECKPOINT_FILE_PATH=a.pyth",
    ],
)
def test_the_digest_does_not_hold_where_and_how_fast(word):
    assert load_config(None, [word]).digest() == load_config(None).digest()


@pytest.mark.parametrize(
    "word",
    [
        "DATA.NUM_FRAMES=16",
        "TEST.NUM_ENSEMBLE_VIEWS=5",
        "SOLVER.BASE_LR=0.05",
        "RNG_SEED=2",
        "TRAIN.PRECISION=bf16",
        "MVIT.VARIANT=S",
    ],
)
def test_the_digest_holds_what_decides_the_numbers(word):
    assert load_config(None, [word]).digest() != load_config(None).digest()


def test_the_document_is_current():
    current = (ROOT / "docs" / "config.md").read_text()

    assert current == document(), "run python -m slowfast_mvit.config.document > docs/config.md"


def test_reading_a_config_needs_no_torch():
    code = (
        "import sys; from slowfast_mvit.config import load_config; load_config(None);"
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
