"""From keys to plain arguments: what PySlowFast's keys set up here."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from slowfast_mvit import builders
from slowfast_mvit.builders.data import channel_statistics
from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.config import load_config, shipped_configs
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.fast import create_model
from slowfast_mvit.randomness import generator
from slowfast_mvit.structures import ClipBatch

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "reference" / "mvit_small_models.json").read_text()
)
S = "Kinetics/MVITv2_S_16x4.yaml"


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        ("Kinetics/MVITv2_S_16x4.yaml", 34_537_744),
        ("Kinetics/MVITv2_B_32x3.yaml", 51_230_128),
        ("Kinetics/MVITv2_L_40x3.yaml", 213_390_112),
        ("Kinetics/MVIT_B_16x4_CONV.yaml", 36_610_672),
        ("Kinetics/MVIT_B_32x3_CONV.yaml", 53_115_280),
        ("SSv2/MVITv2_S_16x4.yaml", 34_363_950),
        ("SSv2/MVITv2_B_32x3.yaml", 51_056_334),
        ("SSv2/MVITv2_L_40x3.yaml", 213_129_534),
        ("ImageNet/MVITv2_T.yaml", 24_173_320),
        ("ImageNet/MVITv2_S.yaml", 34_870_216),
        ("ImageNet/MVITv2_B.yaml", 51_472_744),
        ("ImageNet/MVITv2_L.yaml", 217_992_952),
    ],
)
def test_a_shipped_config_builds_the_published_model(name, num_params):
    config = load_config(name)

    with torch.device("meta"):
        model = mvit_from_lists(**builders.model_arguments(config))

    assert sum(parameter.numel() for parameter in model.parameters()) == num_params


@pytest.mark.parametrize(
    ("file", "name"),
    [(S, "mvitv2_s_16x4")]
    + [(f"ImageNet/MVITv2_{size}.yaml", f"mvitv2_{size.lower()}_in1k") for size in "TSBL"],
)
def test_a_config_and_a_name_build_the_same_model(file, name):
    config = load_config(file)

    with torch.device("meta"):
        by_config = mvit_from_lists(**builders.model_arguments(config))
        by_name = create_model(name)

    assert str(by_config) == str(by_name)


def test_a_variant_fills_only_what_no_file_sets():
    config = load_config(S, ["MVIT.POOL_KV_STRIDE_ADAPTIVE", "[1, 4, 4]"])

    arguments = builders.model_arguments(config)

    assert arguments["pool_kv_stride_adaptive"] == (1, 4, 4)
    assert arguments["depth"] == 16 and arguments["pool_q_stride"][1] == [1, 1, 2, 2]


def test_strides_given_block_by_block_replace_those_of_the_variant():
    rows = [[block, 1, 2, 2] for block in range(16)]
    config = load_config(S, ["MVIT.POOL_KV_STRIDE", str(rows)])

    assert builders.model_arguments(config).get("pool_kv_stride_adaptive") is None


def test_three_crops_are_cut_from_a_smaller_frame_than_one():
    config = load_config(S)

    one = builders.view_plan(config, num_clips=5, num_crops=1)
    three = builders.view_plan(config, num_clips=5, num_crops=3)

    assert (one.scale_px, one.crop_px) == (256, 224)
    assert (three.scale_px, three.crop_px) == (224, 224)


def test_segments_always_use_the_small_frame():
    plan = builders.view_plan(load_config("SSv2/MVITv2_S_16x4.yaml"), num_clips=1, num_crops=1)

    assert plan.scale_px == plan.crop_px == 224


@pytest.mark.parametrize(
    ("overrides", "counts"),
    [
        (["TEST.NUM_ENSEMBLE_VIEWS", "5"], [5]),
        (["TEST.NUM_ENSEMBLE_VIEWS", "-1"], [1, 3, 5, 7, 10]),
        (["TEST.NUM_TEMPORAL_CLIPS", "[1, 4]"], [1, 4]),
    ],
)
def test_several_numbers_of_clips_are_tested_one_after_another(overrides, counts):
    plans = builders.test_plans(load_config(S, overrides))

    assert [plan.num_clips for plan in plans] == counts


def test_reversed_channels_reverse_the_statistics_and_not_the_frames():
    config = load_config("SSv2/MVITv2_L_40x3.yaml")

    mean, std = channel_statistics(config)

    assert mean == (0.406, 0.456, 0.485)
    assert std == (0.225, 0.224, 0.229)


def test_weight_decay_groups_have_the_published_sizes():
    config = load_config(S)
    with torch.device("meta"):
        model = mvit_from_lists(**builders.model_arguments(config))

    groups = builders.build_optimizer(config, model).param_groups

    assert [len(group["params"]) for group in groups] == [166, 231]
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]


def test_learning_rates_grow_with_the_nodes_only_where_the_config_says_so():
    one = builders.build_schedule(load_config(S))
    four = builders.build_schedule(load_config(S), num_nodes=4)
    fixed = builders.build_schedule(
        load_config(S, ["SOLVER.BASE_LR_SCALE_NUM_SHARDS", "False"]), num_nodes=4
    )

    for epoch in (0.0, 10.0, 30.0, 150.0):
        assert math.isclose(four(epoch), 4 * one(epoch), rel_tol=1e-12)
        assert fixed(epoch) == one(epoch)


STEPS = ["LR_POLICY", "steps_with_relative_lrs", "WARMUP_EPOCHS", "0"]
DURING_WAVE = ["COSINE_AFTER_WARMUP", "False"]


@pytest.mark.parametrize(
    ("overrides", "num_nodes", "num_steps", "expected"),
    [
        (["MAX_EPOCH", "10"], 1, 100, "is 3.397e-05, in epoch 10 of 10, 34 %.*inside the warm-up"),
        (["MAX_EPOCH", "29"], 1, 100, "inside the warm-up of 30 epochs"),  # 97 % of BASE_LR
        (["MAX_EPOCH", "10"], 4, 1, "is 0.0001228.*31 %.*BASE_LR .0.0004.*inside the warm-up"),
        (["MAX_EPOCH", "60", *DURING_WAVE], 1, 9, "50.* %.*has fallen.*COSINE_AFTER_WARMUP True"),
        (["MAX_EPOCH", "2", "WARMUP_EPOCHS", "0.5"], 1, 1, "in epoch 2.* has fallen"),
        (
            [*STEPS, "STEPS", "[0, 50]", "LRS", "[0.1, 1]", "MAX_EPOCH", "50"],
            1,
            9,
            "10 %.*SOLVER.LRS",
        ),
        ([*STEPS, "STEPS", "[0, 50]", "LRS", "[0.1, 1]", "MAX_EPOCH", "51"], 1, 9, None),
        (["WARMUP_START_LR", "0.01"], 1, 9, "is 0.01, in epoch 1 .* 10000 %.*starts above it"),
        (["WARMUP_START_LR", "0.01", "WARMUP_EPOCHS", "0"], 1, 9, None),
        (["MAX_EPOCH", "31"], 1, 100, None),
        (["MAX_EPOCH", "1", "WARMUP_EPOCHS", "0"], 1, 1, None),
        ([], 16, 940, None),
    ],
    ids=str,
)
def test_a_schedule_that_does_not_reach_its_rate_warns(
    overrides, num_nodes, num_steps, expected, caplog
):
    words = [f"SOLVER.{word}" if word.isupper() and "." not in word else word for word in overrides]

    builders.build_schedule(load_config(S, words), num_nodes, num_steps)

    assert len(caplog.messages) == (expected is not None)
    assert expected is None or re.search(expected, caplog.text)


def test_the_schedules_of_shipped_configs_reach_their_rates(caplog):
    for name in shipped_configs():
        config = load_config(name)
        if config.train.enable:
            builders.build_schedule(config, num_steps=1)

    assert not [text for text in caplog.messages if "highest learning rate" in text]


def test_the_published_rate_of_the_paper_is_that_of_16_nodes():
    lr_at = builders.build_schedule(load_config(S), num_nodes=16)

    assert math.isclose(lr_at(30), 1.6e-3, rel_tol=1e-12)  # for 512 clips, 16 nodes x 16 x 2
    assert math.isclose(lr_at(0), 1.6e-5, rel_tol=1e-12)
    assert math.isclose(lr_at(200), 1.6e-5, rel_tol=1e-12)


def test_groups_are_the_same_when_blocks_are_compiled():
    config = load_config(S, ["SOLVER.LAYER_DECAY", "0.75"])
    with torch.device("meta"):
        model = mvit_from_lists(**builders.model_arguments(config))
    plain = builders.build_optimizer(config, model).param_groups

    model.blocks = torch.nn.ModuleList(torch.compile(block) for block in model.blocks)
    compiled = builders.build_optimizer(config, model).param_groups

    assert any("_orig_mod" in name for name, _ in model.named_parameters())
    for one, other in zip(plain, compiled, strict=True):
        assert all(a is b for a, b in zip(one["params"], other["params"], strict=True))
        assert (one["lr"], one["weight_decay"], one["layer_decay"]) == (
            other["lr"],
            other["weight_decay"],
            other["layer_decay"],
        )


def test_frozen_parts_are_named_in_the_config():
    config = load_config(S, ["TRAIN.FREEZE", "['patch_embed.*', 'blocks.[0-3].*']"])
    with torch.device("meta"):
        model = mvit_from_lists(**builders.model_arguments(config))

    frozen = builders.freeze_parameters(config, model)

    names = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == names
    assert {name.split(".")[0] for name in names} == {"patch_embed", "blocks"}
    assert {name.split(".")[1] for name in names if name[0] == "b"} == set("0123")
    num_trained = sum(
        len(g["params"]) for g in builders.build_optimizer(config, model).param_groups
    )
    assert num_trained == len(list(model.parameters())) - len(frozen)


def test_a_flip_is_refused_where_it_changes_the_class():
    config = load_config("SSv2/MVITv2_S_16x4.yaml", ["DATA.RANDOM_FLIP", "True"])

    with pytest.raises(ConfigError, match=r"DATA\.RANDOM_FLIP"):
        builders.build_train_loader(config, videos=[])


def test_every_shipped_recipe_has_an_objective_and_a_schedule():
    for name in shipped_configs():
        if name.endswith("recipe.yaml"):
            continue
        config = load_config(name)
        assert builders.build_schedule(config)(0.0) > 0
        assert builders.build_objective(config).loss is not None


def test_training_inputs_are_normalised_and_targets_mixed():
    config = load_config(S, ["MODEL.NUM_CLASSES", "7", "AUG.RE_PROB", "0"])
    pixels = torch.full((2, 2, 3, 4, 16, 16), 128, dtype=torch.uint8)
    batch = ClipBatch(pixels, torch.tensor([1, 4]), ("a", "b"), torch.tensor([[0, 0], [0, 1]]))

    inputs, targets = builders.build_objective(config).prepare(batch, generator(0, 0, 0, 0))

    expected = (128 / 255 - 0.45) / 0.225
    torch.testing.assert_close(inputs, torch.full((4, 3, 4, 16, 16), expected))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
    assert targets.shape == (4, 7)


def test_views_of_a_video_follow_one_another_and_share_its_label():
    config = load_config(S, ["AUG.RE_PROB", "0", "MIXUP.ENABLE", "False"])
    pixels = torch.arange(6, dtype=torch.uint8).view(3, 2, 1, 1, 1, 1).expand(3, 2, 3, 1, 2, 2)
    batch = ClipBatch(pixels, torch.tensor([7, 8, 9]), tuple("abc"), torch.tensor([[0, 0], [1, 0]]))

    inputs, labels = builders.build_objective(config).prepare(batch, generator(0, 0, 0, 0))

    assert labels.tolist() == [7, 7, 8, 8, 9, 9]
    expected = [(value / 255 - 0.45) / 0.225 for value in range(6)]
    assert inputs[:, 0, 0, 0, 0].tolist() == pytest.approx(expected, rel=1e-6)


def test_labels_are_smoothed_where_nothing_is_mixed():
    config = load_config(S, ["AUG.RE_PROB", "0", "MIXUP.PROB", "0", "MODEL.NUM_CLASSES", "4"])
    pixels = torch.zeros(2, 1, 3, 1, 2, 2, dtype=torch.uint8)
    batch = ClipBatch(pixels, torch.tensor([0, 2]), ("a", "b"), torch.tensor([[0, 0]]))

    _, targets = builders.build_objective(config).prepare(batch, generator(0, 0, 0, 0))

    first, second = targets.tolist()
    assert first == pytest.approx([0.925, 0.025, 0.025, 0.025])
    assert second == pytest.approx([0.025, 0.025, 0.925, 0.025])


@pytest.mark.parametrize("case", sorted(GOLDEN["cases"]))
def test_pyslowfasts_keys_build_pyslowfasts_model(case):
    keys = {**GOLDEN["base"], **GOLDEN["cases"][case]["overrides"]}
    words = [word for key, value in keys.items() for word in (key, str(value))]
    config = load_config(None, words)

    model = builders.build_model(config)

    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == GOLDEN["cases"][case]["state_dict_shapes"]
    assert list(shapes) == list(GOLDEN["cases"][case]["state_dict_shapes"])
    assert model.input_spec["num_frames"] == keys["DATA.NUM_FRAMES"]


def test_validation_sees_the_middle_of_the_video(tiny_config, motion_data):
    config = load_config(tiny_config, ["DATA.USE_OFFSET_SAMPLING", "False"])
    videos = builders.build_videos(config, "val")
    batch = next(builders.build_val_loader(config, videos).epoch(0))
    middle = builders.view_plan(config, num_clips=3, num_crops=1)
    offset = load_config(tiny_config, ["DATA.USE_OFFSET_SAMPLING", "True"])

    frames = builders.frames_seen(offset, videos[0], middle)  # of the second clip of three

    for shown, frame in zip(batch.pixels[0, 0].unbind(1), frames, strict=True):
        assert (shown.permute(1, 2, 0).numpy() == frame).all()
