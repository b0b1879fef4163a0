"""Checks between keys, and messages that name the keys and their places."""

from __future__ import annotations

import pytest

from slowfast_mvit.config import load_config
from slowfast_mvit.config.checks import CHECKS, RULES
from slowfast_mvit.errors import ConfigError

STEPS = "SOLVER.LR_POLICY=steps_with_relative_lrs"

FAULTS = {
    "batch_sizes": (
        ["TRAIN.BATCH_SIZE=6", "NUM_GPUS=4"],
        "TRAIN.BATCH_SIZE: 6 is not a multiple of NUM_GPUS, 4",
    ),
    "shard_id": (["SHARD_ID=1"], "SHARD_ID: must be below NUM_SHARDS, 1, got 1"),
    "precision": (
        ["TRAIN.MIXED_PRECISION=True", "TRAIN.PRECISION=fp32"],
        "TRAIN.PRECISION: 'fp32' contradicts",
    ),
    "compilation": (
        ["MODEL.COMPILE=True", "TRAIN.STRATEGY=fsdp"],
        "MODEL.COMPILE: the model is compiled as one graph, which TRAIN.STRATEGY fsdp would cut",
    ),
    "end_of_cosine": (
        ["SOLVER.COSINE_END_LR=0.1"],
        "SOLVER.COSINE_END_LR: must be below SOLVER.BASE_LR, 0.1, got 0.1",
    ),
    "steps": (
        [STEPS, "SOLVER.STEPS=[0, 4]", "SOLVER.LRS=[1]"],
        "SOLVER.STEPS: needs one factor in SOLVER.LRS for each step, got 2 steps and 1 factors",
    ),
    "nesterov": (["SOLVER.MOMENTUM=0"], "SOLVER.NESTEROV: needs a SOLVER.MOMENTUM"),
    "ranges": (
        ["DATA.TRAIN_JITTER_SCALES=[320, 256]"],
        "DATA.TRAIN_JITTER_SCALES: expected two numbers, from and to, got [320, 256]",
    ),
    "crop_sizes": (
        ["DATA.TRAIN_JITTER_SCALES=[256, 320]", "DATA.TRAIN_CROP_SIZE=288"],
        "DATA.TRAIN_CROP_SIZE: must not be above the first of DATA.TRAIN_JITTER_SCALES, 256",
    ),
    "num_views": (
        ["TEST.NUM_ENSEMBLE_VIEWS=0"],
        "TEST.NUM_ENSEMBLE_VIEWS: must be at least 1, or -1, got 0",
    ),
    "shifted_clips": (
        ["TEST.SEGMENT_CLIPS=shifted", "TEST.DATASET=kinetics"],
        "TEST.SEGMENT_CLIPS: 'shifted' is for SSv2",
    ),
    "mixing": (
        ["MIXUP.ENABLE=True", "MIXUP.ALPHA=0", "MIXUP.CUTMIX_ALPHA=0"],
        "MIXUP.ALPHA: with MIXUP.CUTMIX_ALPHA 0 too nothing can be mixed",
    ),
    "patches": (
        ["MVIT.PATCH_2D=True", "MVIT.PATCH_STRIDE=[4, 4]", "MVIT.PATCH_PADDING=[3, 3]"],
        "MVIT.PATCH_KERNEL: expected 2 numbers with MVIT.PATCH_2D True, got [3, 7, 7]",
    ),
    "blocks": (
        ["MVIT.POOL_Q_STRIDE=[[16, 1, 2, 2]]"],
        "MVIT.POOL_Q_STRIDE: names block 16, but with MVIT.DEPTH 16 the last that it can name",
    ),
    "image_frames": (
        [
            "MVIT.PATCH_2D=True",
            "MVIT.PATCH_KERNEL=[7, 7]",
            "MVIT.PATCH_STRIDE=[4, 4]",
            "MVIT.PATCH_PADDING=[3, 3]",
        ],
        "DATA.NUM_FRAMES: must be 1 with MVIT.PATCH_2D True, got 8",
    ),
    "end_of_warmup": (
        ["SOLVER.MAX_EPOCH=3", "SOLVER.WARMUP_EPOCHS=3", "SOLVER.COSINE_AFTER_WARMUP=True"],
        "SOLVER.WARMUP_EPOCHS: 3 leaves no epoch after the warm-up",
    ),
    "heads": (
        ["MVIT.EMBED_DIM=100", "MVIT.NUM_HEADS=3"],
        "MVIT.EMBED_DIM: 100 is not a multiple of MVIT.NUM_HEADS, 3",
    ),
}


def test_every_check_has_a_case():
    names = [*RULES, *(check.__name__ for check in CHECKS if check.__name__ != "rules")]

    assert sorted(FAULTS) == sorted(names)


@pytest.mark.parametrize("name", FAULTS)
def test_contradicting_keys_are_reported(name):
    overrides, words = FAULTS[name]

    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["TRAIN.BATCH_SIZE=6", "NUM_GPUS=4", "TRAIN.ENABLE=False"],
        ["TRAIN.BATCH_SIZE=7", "NUM_GPUS=0"],
        [STEPS, "SOLVER.STEPS=[0, 4]", "SOLVER.LRS=[1, 0.1]", "SOLVER.COSINE_END_LR=1"],
        ["SOLVER.MOMENTUM=0", "SOLVER.OPTIMIZING_METHOD=adamw"],
        ["DATA.TEST_CROP_SIZE=312"],
        ["DATA.TEST_CROP_SIZE=312", "TEST.NUM_SPATIAL_CROPS=1", "TEST.DATASET=ssv2"],
        ["TEST.SEGMENT_CLIPS=shifted", "TEST.DATASET=Ssv2"],
        ["TEST.SEGMENT_CLIPS=shifted", "TEST.DATASET=my_package:my_list"],
        ["MVIT.DIM_MUL=[[16, 2.0]]"],
        ["MVIT.VARIANT=L", "MVIT.POOL_Q_STRIDE=[[44, 1, 2, 2]]"],
        ["SOLVER.WARMUP_EPOCHS=30", "SOLVER.MAX_EPOCH=2", "SOLVER.COSINE_AFTER_WARMUP=True"],
    ],
    ids=[
        "a batch of a phase that is off",
        "a batch on the CPU",
        "an end rate that steps do not read",
        "Nesterov that AdamW does not read",
        "three crops scale to the crop",
        "SSv2 scales to the crop",
        "SSv2 in capitals, shifted",
        "a user's data set, shifted",
        "a width that grows for the head",
        "blocks that the variant adds",
        "a warm-up that is cut short",
    ],
)
def test_keys_that_are_not_read_do_not_contradict(overrides):
    assert load_config(None, overrides)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([STEPS, "SOLVER.STEPS=[5]", "SOLVER.LRS=[1]"], "must begin with epoch 0, got [5]"),
        ([STEPS, "SOLVER.STEPS=[0, 4, 2]", "SOLVER.LRS=[1, 1, 1]"], "must rise"),
        (["DATA.TRAIN_JITTER_SCALES_RELATIVE=[0.1, 1]"], "or neither"),
        (
            [
                "DATA.TRAIN_JITTER_SCALES=[256, 320]",
                "DATA.TEST_CROP_SIZE=288",
                "TEST.NUM_SPATIAL_CROPS=1",
            ],
            "DATA.TEST_CROP_SIZE: must not",
        ),
        (
            ["MVIT.POOL_KVQ_KERNEL=[3, 2, 3]"],
            "MVIT.POOL_KVQ_KERNEL: must be odd along each axis, got [3, 2, 3]",
        ),
        (["MVIT.DIM_MUL=[[1, 0]]"], "MVIT.DIM_MUL: strides and factors must be above 0"),
    ],
)
def test_the_other_half_of_a_check(overrides, words):
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)

    assert words in str(caught.value)


def test_the_places_of_both_keys_are_reported(tmp_path):
    (tmp_path / "recipe.yaml").write_text("NUM_GPUS: 8\n")
    path = tmp_path / "run.yaml"
    path.write_text("_BASE_: recipe.yaml\nTRAIN:\n  BATCH_SIZE: 12\n")

    with pytest.raises(ConfigError) as caught:
        load_config(path)

    assert str(caught.value) == (
        f"{path}: 1 problem\n"
        "  line 3    TRAIN.BATCH_SIZE: 12 is not a multiple of NUM_GPUS, 8; each device takes an "
        f"equal share (NUM_GPUS: {tmp_path / 'recipe.yaml'} line 1)"
    )


def test_a_wrong_value_is_not_reported_again_by_a_check():
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["SOLVER.BASE_LR=-1", "SOLVER.COSINE_END_LR=0.2"])

    assert str(caught.value) == (
        "command line: 1 problem\n  SOLVER.BASE_LR: must be above 0, got -1.0"
    )
