"""Every shipped config file loads in silence, says what it trains, and is what was published."""

from __future__ import annotations

import json
import logging
import re
from ast import literal_eval
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from slowfast_mvit.config import load_config
from slowfast_mvit.config.config import KEYS

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
RUNS = [path for path in FILES if not path.name.startswith("recipe")]
REFERENCE = json.loads((ROOT / "tests" / "reference" / "config_keys.json").read_text())

# Our file, and the released one that it must equal in all that both say.
RELEASED = {
    "Kinetics/MVITv2_S_16x4.yaml": "Kinetics/MVITv2_S_16x4.yaml",
    "Kinetics/MVITv2_B_32x3.yaml": "Kinetics/MVITv2_B_32x3.yaml",
    "Kinetics/MVITv2_L_40x3.yaml": "Kinetics/MVITv2_L_40x3_test.yaml",
    "Kinetics/MVIT_B_16x4_CONV.yaml": "Kinetics/MVIT_B_16x4_CONV.yaml",
    "Kinetics/MVIT_B_32x3_CONV.yaml": "Kinetics/MVIT_B_32x3_CONV.yaml",
    "SSv2/MVITv2_S_16x4.yaml": "SSv2/MVITv2_S_16x4.yaml",
    "SSv2/MVITv2_B_32x3.yaml": "SSv2/MVITv2_B_32x3.yaml",
    "SSv2/MVITv2_L_40x3.yaml": "SSv2/MVITv2_L_40x3.yaml",
    "ImageNet/MVITv2_T.yaml": "ImageNet/MVITv2_T.yaml",
    "ImageNet/MVITv2_S.yaml": "ImageNet/MVITv2_S.yaml",
    "ImageNet/MVITv2_B.yaml": "ImageNet/MVITv2_B.yaml",
    "Kinetics/MVIT_S_16x4_MaskFeat_FT.yaml": "masked_ssl/k400_MVITv2_S_16x4_FT.yaml",
    "Kinetics/MVIT_L_16x4_MaskFeat_FT.yaml": "masked_ssl/k400_MVITv2_L_16x4_FT.yaml",
}
# The decoder has a new name; released L files only test; MViTv1's was published with 5 clips. Of
# TensorBoard's keys the reference has the names alone.
DIFFERENT = {
    "": {"DATA.DECODING_BACKEND", "DATA.PATH_TO_DATA_DIR", "MVIT.VARIANT", "TENSORBOARD"},
    "Kinetics/MVITv2_L_40x3.yaml": {
        "TRAIN.ENABLE",
        "TRAIN.BATCH_SIZE",
        "TRAIN.CHECKPOINT_EPOCH_RESET",
        "SOLVER",
    },
    "Kinetics/MVIT_B_16x4_CONV.yaml": {"TEST.NUM_ENSEMBLE_VIEWS"},
    "Kinetics/MVIT_B_32x3_CONV.yaml": {"TEST.NUM_ENSEMBLE_VIEWS"},
    # Not read without MVIT.USE_ABS_POS.
    "Kinetics/MVIT_S_16x4_MaskFeat_FT.yaml": {"MVIT.SEP_POS_EMBED"},
    "Kinetics/MVIT_L_16x4_MaskFeat_FT.yaml": {"MVIT.SEP_POS_EMBED"},
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "configs").as_posix()


def plain(value: object) -> object:
    """Tuples as lists, and text that spells a number or a tuple as such."""
    if isinstance(value, str):
        try:
            return plain(literal_eval(value))
        except (ValueError, SyntaxError):
            return value
    return [plain(part) for part in value] if isinstance(value, (tuple, list)) else value


def header(path: Path) -> str:
    lines = path.read_text().splitlines()
    count = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(lines[:count])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_it_loads_without_a_warning(path, caplog):
    with caplog.at_level(logging.INFO):
        load_config(path)

    assert caplog.messages == []


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_it_opens_with_what_it_trains_and_how(path):
    opening = header(path)

    assert re.search(rf"configs/{re.escape(name_of(path))}|make demo", opening)
    assert re.search(r"Published: \d\d\.\d top-1|top-1|accuracy", opening)


@pytest.mark.parametrize("ours", RELEASED)
def test_it_equals_the_released_file(ours):
    config = load_config(ROOT / "configs" / ours)
    exempt = DIFFERENT[""] | DIFFERENT.get(ours, set())

    for name, key in KEYS.items():
        said = REFERENCE.get(name, {}).get("set_in_mvit_yamls", {}).get(RELEASED[ours])
        left_to_variant = key.rule.from_variant and not config.is_set(name)
        if {name, key.section.upper()} & exempt or key.rule.ours or left_to_variant:
            continue
        if said is None and name not in ("MODEL.ARCH", "MODEL.MODEL_NAME"):
            said = REFERENCE[name]["default"]
        if said != "(see yaml)":
            assert plain(key.value_in(config)) == plain(said), name


@pytest.mark.parametrize("ours", [name for name in RELEASED if "v2" in Path(name).name])
def test_the_variant_is_the_released_size(ours):
    config = load_config(ROOT / "configs" / ours)

    depth = REFERENCE["MVIT.DEPTH"]["set_in_mvit_yamls"][RELEASED[ours]]
    assert config.mvit.variant == {10: "T", 16: "S", 24: "B", 48: "L"}[depth]
    assert not config.is_set("MVIT.DEPTH")


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_it_can_be_read_by_pyslowfasts_own_loader(path):
    theirs = CfgNode.load_yaml_with_base(str(path))

    assert theirs.get("DATA", {}).get("NUM_FRAMES") == load_config(path).data.num_frames
