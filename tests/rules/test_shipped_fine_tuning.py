"""The shipped files that start from weights: the published sizes, and weights that fit them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slowfast_mvit.builders import build_model
from slowfast_mvit.config import load_config
from slowfast_mvit.errors import WeightsError
from slowfast_mvit.fast import create_model
from slowfast_mvit.weights import load_weights

KINETICS = Path(__file__).resolve().parents[2] / "configs" / "Kinetics"
# Our file, and the image model it is to start from.
FROM_IMAGES = {
    "MVITv2_S_16x4_from_IN1K.yaml": "mvitv2_s_in1k",
    "MVITv2_B_32x3_from_IN1K.yaml": "mvitv2_b_in1k",
    "MVITv2_B_32x3_from_IN21K.yaml": "mvitv2_b_in21k",
    "MVITv2_L_16x4_from_IN21K.yaml": "mvitv2_l_in21k",
}
# The paper's rate for 512 clips and its epochs, by the images the weights come from.
RECIPES = {"IN1K": (4.8e-4, 100), "IN21K": (1.6e-4, 75)}


def nameless(model_or_file):
    """A model without memory behind its parameters: names and shapes are enough here."""
    with torch.device("meta"):
        if model_or_file.endswith(".yaml"):
            return build_model(load_config(KINETICS / model_or_file))
        return create_model(model_or_file)


@pytest.mark.parametrize(
    ("file", "num_params"),
    [
        ("MVIT_S_16x4_MaskFeat_FT.yaml", 36_475_120),
        ("MVIT_L_16x4_MaskFeat_FT.yaml", 217_578_064),
        ("MVITv2_S_16x4_from_IN1K.yaml", 34_537_744),
        ("MVITv2_B_32x3_from_IN21K.yaml", 51_230_128),
    ],
)
def test_the_model_has_the_published_size(file, num_params):
    model = nameless(file)

    assert sum(parameter.numel() for parameter in model.parameters()) == num_params


@pytest.mark.parametrize("file", FROM_IMAGES)
def test_image_weights_fill_all_but_head_time_and_class_token(file):
    state = nameless(FROM_IMAGES[file]).state_dict()
    model = nameless(file)

    report = load_weights(model, state)

    assert report.filled > 0.99
    assert not report.missing and not report.unexpected
    assert {name.split(".")[-1] for name in report.initialised} <= {
        *("rel_pos_t", "cls_token", "weight", "bias"),
    }
    assert {"head.projection.weight", "head.projection.bias"} <= set(report.initialised)
    assert "patch_embed.proj.weight" in report.inflated


def test_the_large_model_of_imagenet_1k_is_refused_by_name():
    state = nameless("mvitv2_l_in1k").state_dict()
    model = nameless("MVITv2_L_16x4_from_IN21K.yaml")

    with pytest.raises(WeightsError, match="mvitv2_large_cls"):
        load_weights(model, state)


@pytest.mark.parametrize("path", sorted(KINETICS.glob("*_from_IN*.yaml")), ids=lambda p: p.name)
def test_rate_and_epochs_are_the_papers(path):
    rate_of_512, num_epochs = RECIPES[path.stem.rpartition("_")[2]]

    config = load_config(path)

    clips = config.train.batch_size * config.aug.num_sample
    assert config.solver.base_lr == pytest.approx(rate_of_512 * clips / 512)
    assert config.solver.max_epoch == num_epochs
    assert config.train.checkpoint_epoch_reset
    assert not (config.train.checkpoint_inflate or config.train.checkpoint_in_init)


@pytest.mark.parametrize(
    "path", sorted(KINETICS.parent.glob("SSv2/MVIT*.yaml")), ids=lambda p: p.name
)
def test_ssv2_starts_from_weights_of_a_finished_run(path):
    assert load_config(path).train.checkpoint_epoch_reset
    assert "TRAIN.CHECKPOINT_FILE_PATH k400_" in path.read_text()
