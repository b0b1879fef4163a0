"""Weights into whole models, small ones: equal outputs, and every parameter accounted for."""

import contextlib
import json

import pytest
import timm
import torch
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torchvision.models.video import mvit_v1_b, mvit_v2_s

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.errors import ConfigError, WeightsError
from slowfast_mvit.fast import create_model
from slowfast_mvit.weights import load_weights


def q_strides(depth: int, pooled: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    return [(i, 1, 2, 2) if i in pooled else (i, 1, 1, 1) for i in range(depth)]


def video(input_size=(8, 32, 32), **changes):
    """Three blocks, 16 then 32 channels."""
    options = {
        "input_size": input_size,
        "num_classes": 5,
        "embed_dim": 16,
        "depth": 3,
        "dim_mul": [(1, 2)],
        "head_mul": [(1, 2)],
        "pool_q_stride": q_strides(3, (1,)),
        "pool_kv_stride_adaptive": (1, 4, 4),
        "pool_kvq_kernel": (3, 3, 3),
    }
    return mvit_from_lists(**(options | changes)).double().eval()


def image(input_size=(1, 32, 32), **changes):
    """The image model of ``video``, in PySlowFast's layout: pooling kernels of one frame."""
    options = {
        "patch_kernel": (7, 7),
        "patch_stride": (4, 4),
        "patch_padding": (3, 3),
        "pool_kvq_kernel": (1, 3, 3),
        "cls_token": False,
        "rel_pos_temporal": False,
    }
    return video(input_size, **(options | changes))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def scrambled(model: nn.Module) -> nn.Module:
    """The model with values everywhere, so that no two parameters may be taken for each other."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter) + 0.1)
    return model


def copied_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def accounted(report) -> set[str]:
    groups = (report.loaded, report.resized, report.inflated, report.initialised, report.missing)
    names = [name for group in groups for name in group]
    assert len(names) == len(set(names))
    return set(names)


# From other libraries


@pytest.mark.nightly  # as test_against_torchvision.py does, with the head kept
@pytest.mark.parametrize(
    ("name", "make"),
    [("mvitv2_s_16x4", mvit_v2_s), ("mvitv1_b_16x4", mvit_v1_b)],
    ids=["mvit_v2_s", "mvit_v1_b"],
)
def test_torchvision_weights_give_equal_logits(name, make):
    theirs, ours = make().eval(), create_model(name).eval()
    pixels = torch.randn(1, 3, 16, 224, 224)

    report = load_weights(ours, theirs.state_dict(), head="keep")

    assert report.source == "torchvision"
    assert set(report.loaded) == set(ours.state_dict()) == accounted(report)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs(pixels), rtol=0, atol=1e-5)


def test_timm_tiny_gives_equal_logits():
    theirs = timm.create_model("mvitv2_tiny").eval()
    ours = create_model("mvitv2_t_in1k").eval()
    pixels = torch.randn(2, 3, 224, 224)

    report = load_weights(ours, theirs.state_dict(), head="keep")

    assert report.source == "timm"
    assert set(report.loaded) == set(ours.state_dict()) == accounted(report)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs(pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "make", "loaded", "inflated", "resized", "initialised"),
    [
        ("mvitv2_s_16x4", "mvitv2_small", 327, 49, 2, 16 + 1 + 2),
        ("mvitv2_b_32x3", "mvitv2_base", 487, 73, 2, 24 + 1 + 2),
        ("mvitv2_b_32x3", "mvitv2_base_cls", 488, 73, 2, 24 + 2),
        ("mvitv2_l_40x3", "mvitv2_large_cls", 874, 145, 2 * 48, 48 + 2),
    ],
)
def test_published_image_models_go_into_video_models(
    name, make, loaded, inflated, resized, initialised
):
    with torch.device("meta"):  # shapes decide, and L has 218 million values
        still, moving = timm.create_model(make), create_model(name, num_classes=7)

    report = load_weights(moving, still.state_dict())

    counts = [len(report.loaded), len(report.inflated), len(report.resized)]
    assert counts == [loaded, inflated, resized]
    assert len(report.initialised) == initialised
    assert len(report.dropped) == 2
    assert not report.missing and not report.unexpected


def test_the_imagenet_1k_l_is_refused_for_the_video_l():
    with torch.device("meta"):
        still, moving = timm.create_model("mvitv2_large"), create_model("mvitv2_l_40x3")

    with pytest.raises(WeightsError, match=r"mvitv2_large_cls") as e:
        load_weights(moving, still.state_dict())

    assert "in the MLP (blocks 1, 7, 43), the model's in attention (blocks 2, 8, 44)" in str(
        e.value
    )


# From images


def small_timm(**changes) -> nn.Module:
    options = {
        "depths": (1, 2),
        "embed_dim": 16,
        "num_heads": 1,
        "mlp_ratio": 4.0,
        "stride_q": ((1, 1), (2, 2)),
        "stride_kv": None,
        "stride_kv_adaptive": (4, 4),
    }
    config = MultiScaleVitCfg(**(options | changes))
    return scrambled(MultiScaleVit(config, img_size=32, num_classes=5).double().eval())


@pytest.mark.parametrize("make", [lambda: scrambled(image()), small_timm], ids=["mvit", "timm"])
def test_centre_inflation_gives_on_a_still_clip_what_the_image_model_gives(make):
    still, moving = make(), video(cls_token=False)
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)

    report = load_weights(moving, still.state_dict())

    clip = pixels.unsqueeze(2).expand(-1, -1, 8, -1, -1)
    torch.testing.assert_close(moving(clip), still(pixels), rtol=0, atol=1e-10)
    assert set(report.inflated) == {
        "patch_embed.proj.weight",
        *(f"blocks.{i}.attn.pool_{x}.weight" for i in range(3) for x in "qkv"),
    }
    assert set(report.initialised) == {f"blocks.{i}.attn.rel_pos_t" for i in range(3)}


def test_image_weights_with_a_time_axis_of_one_are_known_as_such():
    flat = {"patch_kernel": (1, 7, 7), "patch_stride": (1, 4, 4), "patch_padding": (0, 3, 3)}
    still, moving = scrambled(image(**flat)), video(cls_token=False)
    pixels = torch.randn(2, 3, 1, 32, 32, dtype=torch.float64)

    load_weights(moving, still.state_dict())

    clip = pixels.expand(-1, -1, 8, -1, -1)
    torch.testing.assert_close(moving(clip), still(pixels), rtol=0, atol=1e-10)


def test_centre_inflation_puts_the_filter_in_the_middle_and_time_to_zero():
    still, moving = scrambled(image()), video()

    load_weights(moving, still.state_dict())

    kernel = moving.patch_embed.proj.weight
    assert torch.equal(kernel[:, :, 1], still.patch_embed.proj.weight)
    assert kernel[:, :, [0, 2]].count_nonzero() == 0
    assert moving.blocks[1].attn.rel_pos_t.count_nonzero() == 0


@pytest.mark.parametrize(("inflate", "share"), [("mean", 1 / 3), ("repeat", 1)])
def test_the_other_inflations_leave_tables_of_time_as_they_were(inflate, share):
    still, moving = scrambled(image()), video()
    before = copied_state(moving)

    report = load_weights(moving, still.state_dict(), inflate=inflate)

    kernel = moving.blocks[0].attn.pool_k.weight
    torch.testing.assert_close(kernel[:, :, 2], share * still.blocks[0].attn.pool_k.weight[:, :, 0])
    name = "blocks.0.attn.rel_pos_t"
    assert torch.equal(moving.state_dict()[name], before[name])
    assert name in report.initialised


def test_what_an_image_cannot_have_is_reported_as_initialised_on_purpose():
    moving = video(pool_kv_stride_adaptive=(1, 8, 8), num_classes=7)

    report = load_weights(moving, image(input_size=(1, 64, 64)).state_dict())

    assert set(report.initialised) == {
        "cls_token",
        "head.projection.weight",
        "head.projection.bias",
        *(f"blocks.{i}.attn.rel_pos_t" for i in range(3)),
    }
    assert report.dropped == ("head.projection.weight", "head.projection.bias")
    assert report.details["head.projection.bias"] == "7 classes, 5 in the file"
    # The table covers 2 * 16 - 1 distances at 64 pixels, 2 * 8 - 1 at 32.
    assert report.details["blocks.0.attn.rel_pos_h"] == "(31, 16) -> (15, 16)"
    assert accounted(report) == set(moving.state_dict())
    assert not report.missing and not report.unexpected and report.filled > 0.98


@pytest.mark.parametrize("abs_pos", ["separate", "joint"])
def test_joint_positions_of_an_image_hold_for_every_frame(abs_pos):
    still = scrambled(image(abs_pos="joint", rel_pos_spatial=False))
    moving = video(abs_pos=abs_pos, rel_pos_spatial=False, rel_pos_temporal=False, cls_token=False)
    pixels = torch.randn(1, 3, 32, 32, dtype=torch.float64)

    report = load_weights(moving, still.state_dict())

    clip = pixels.unsqueeze(2).expand(-1, -1, 8, -1, -1)
    torch.testing.assert_close(moving(clip), still(pixels), rtol=0, atol=1e-10)
    assert not report.unexpected


def test_the_class_token_of_an_image_keeps_its_joint_position():
    still = scrambled(image(abs_pos="joint", cls_token=True))
    moving = video(abs_pos="separate")

    report = load_weights(moving, still.state_dict())

    assert torch.equal(moving.pos_embed_class, still.pos_embed[:, :1])
    assert torch.equal(moving.pos_embed_spatial, still.pos_embed[:, 1:])
    assert moving.pos_embed_temporal.count_nonzero() == 0
    assert "pos_embed_temporal" in report.initialised


# Other sizes


SIZES = [(8, 32, 32), (16, 32, 32), (8, 64, 64), (16, 64, 32)]


@pytest.mark.parametrize("abs_pos", [None, "separate", "joint"])
@pytest.mark.parametrize("input_size", SIZES, ids=str)
def test_loading_into_another_size_equals_running_at_that_size(abs_pos, input_size):
    trained = scrambled(video(abs_pos=abs_pos))
    other = video(input_size, abs_pos=abs_pos)
    pixels = torch.randn(1, 3, *input_size, dtype=torch.float64)

    report = load_weights(other, trained.state_dict(), head="keep")

    torch.testing.assert_close(other(pixels), trained(pixels), rtol=0, atol=1e-9)
    assert bool(report.resized) == (input_size != (8, 32, 32))
    assert report.filled == 1.0


@pytest.mark.parametrize("input_size", [(32, 224, 224), (16, 312, 312), (16, 224, 320)], ids=str)
def test_the_published_s_fits_other_sizes_and_classes_with_every_change_reported(input_size):
    with torch.device("meta"):  # shapes decide
        trained = create_model("mvitv2_s_16x4")
        other = create_model("mvitv2_s_16x4", input_size=input_size, num_classes=174)

    report = load_weights(other, trained.state_dict())

    changed = {"t": input_size[0] != 16, "h": input_size[1] != 224, "w": input_size[2] != 224}
    assert set(report.resized) == {
        f"blocks.{block}.attn.rel_pos_{axis}"
        for block in range(16)
        for axis in "thw"
        if changed[axis]
    }
    assert report.details["head.projection.bias"] == "174 classes, 400 in the file"
    assert len(report.initialised) == len(report.dropped) == 2
    assert report.filled == 1.0 and not report.missing and not report.unexpected


# Wrappers, checkpoints, precision


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["parallel", "compile"])
def test_wrapped_models_are_filled_from_files_of_wrapped_models(wrap):
    trained, wrapped = scrambled(video()), video()

    report = load_weights(wrap(wrapped), wrap(trained).state_dict(), head="keep")

    assert len(report.loaded) == len(trained.state_dict())
    assert_unchanged(wrapped, trained.state_dict())


def test_the_report_has_the_epoch_of_a_checkpoint(tmp_path):
    path = tmp_path / "checkpoint_epoch_00200.pyth"
    content = {"epoch": 199, "model_state": video().state_dict(), "optimizer_state": {}, "cfg": ""}
    torch.save(content, path)

    report = load_weights(video(), path)

    assert report.epoch == 199
    assert "a training checkpoint of epoch 200" in report.table()


def test_our_checkpoints_are_identified_and_their_moving_average_is_loaded_on_request():
    trained, averaged, model = scrambled(video()), scrambled(video()), video()
    content = {
        "epoch": 0,
        "model_state": trained.state_dict(),
        "ema_state": averaged.state_dict(),
        "slowfast_mvit": {"step": 0},
    }

    report = load_weights(model, content, ema=True)

    assert report.source == "ours"
    assert_unchanged(model, averaged.state_dict())


def test_half_precision_files_fill_a_model_in_its_own_precision():
    trained, model = scrambled(video()), video()

    load_weights(model, {name: value.half() for name, value in trained.state_dict().items()})

    assert model.norm.weight.dtype == torch.float64
    assert torch.equal(model.norm.weight, trained.norm.weight.half().double())


def test_name_patterns_are_cleared_before_the_file_is_identified():
    state = {f"encoder.{name}": value for name, value in scrambled(video()).state_dict().items()}

    report = load_weights(video(), state, clear_name_patterns=["encoder."])

    assert not report.missing and not report.unexpected


# Heads


def test_a_head_of_as_many_classes_is_taken_unless_a_new_one_is_asked_for():
    trained = scrambled(video())
    taking, renewing = video(), video()
    before = copied_state(renewing)

    taken = load_weights(taking, trained.state_dict())
    renewed = load_weights(renewing, trained.state_dict(), head="new")

    assert torch.equal(taking.head.projection.weight, trained.head.projection.weight)
    assert torch.equal(renewing.head.projection.weight, before["head.projection.weight"])
    assert not taken.dropped and len(renewed.dropped) == len(renewed.initialised) == 2


def test_a_backbone_without_a_head_fills_all_but_the_head():
    state = {k: v for k, v in scrambled(video()).state_dict().items() if not k.startswith("head.")}

    report = load_weights(video(), state)

    assert report.initialised == ("head.projection.weight", "head.projection.bias")
    assert report.filled == 1.0 and not report.missing


@pytest.mark.parametrize("num_classes", [5, 7])
def test_a_head_that_must_be_kept_and_is_not_there_is_an_error(num_classes):
    state = scrambled(video()).state_dict()
    if num_classes == 5:
        state = {k: v for k, v in state.items() if not k.startswith("head.")}
    model = video(num_classes=num_classes)
    before = copied_state(model)

    with pytest.raises(WeightsError, match=r"head\.projection\.weight: .*the file|7 classes, 5"):
        load_weights(model, state, head="keep")

    assert_unchanged(model, before)


# What does not fit


def test_a_file_of_another_model_changes_nothing_and_is_shown_as_a_table():
    wide = scrambled(video(embed_dim=32))
    model = video()
    before = copied_state(model)

    with pytest.raises(
        WeightsError, match=r"fills 0\.\d% .*90% are required\. Nothing was loaded"
    ) as e:
        load_weights(model, wide.state_dict())

    assert_unchanged(model, before)
    assert "3 blocks, 32 channels in the first; model: 3 blocks, 16 channels" in str(e.value)
    assert "blocks.0.attn.qkv.weight" not in str(e.value)  # a short table, not every name
    assert "patch_embed.proj.weight ((32, 3, 3, 7, 7) -> (16, 3, 3, 7, 7)" in str(e.value)


def test_a_deeper_file_leaves_its_last_blocks_and_says_so(caplog):
    deeper = scrambled(video(depth=4, pool_q_stride=q_strides(4, (1,))))

    report = load_weights(video(), deeper.state_dict())

    assert report.unexpected and all(name.startswith("blocks.3.") for name in report.unexpected)
    assert caplog.records[-1].levelname == "WARNING"
    assert "in the file, NOT used: blocks.3.norm1.weight ((32,))" in caplog.text


def test_a_lower_limit_loads_what_there_is():
    trained = scrambled(video())
    model = video(depth=6, pool_q_stride=q_strides(6, (1,)))

    with pytest.raises(WeightsError, match="does not fit this model"):
        load_weights(model, trained.state_dict())
    report = load_weights(model, trained.state_dict(), min_filled=0.3)

    assert 0.3 < report.filled < 0.9
    assert torch.equal(model.blocks[2].mlp.fc1.weight, trained.blocks[2].mlp.fc1.weight)
    assert set(report.missing) == {
        n for n in model.state_dict() if n[:9] in {f"blocks.{i}." for i in (3, 4, 5)}
    }
    assert report.details["blocks.3.norm1.bias"] == "not in the file"


def test_whole_numbers_are_no_weights():
    state = scrambled(video()).state_dict()
    state["norm.weight"] = state["norm.weight"].to(torch.int8)

    report = load_weights(video(), state)

    assert report.missing == ("norm.weight",)
    assert report.details["norm.weight"] == "torch.int8 in the file"


@pytest.mark.parametrize("in_attention", [True, False])
def test_growth_in_attention_and_in_the_mlp_do_not_mix(in_attention):
    model = video(dim_mul_in_att=in_attention)
    before = copied_state(model)

    with pytest.raises(WeightsError, match=r"blocks 0.*blocks 1|blocks 1.*blocks 0") as e:
        load_weights(model, video(dim_mul_in_att=not in_attention).state_dict())

    assert "mvitv2_large_cls" in str(e.value)
    assert_unchanged(model, before)


def test_timm_models_that_grow_in_the_mlp_are_refused_for_those_that_grow_in_attention():
    with pytest.raises(
        WeightsError, match=r"grow in the MLP \(blocks 0\), the model's in attention"
    ):
        load_weights(video(cls_token=False), small_timm(expand_attn=False).state_dict())


@pytest.mark.parametrize("wrong", [{"inflate": "centre"}, {"head": "old"}])
def test_a_choice_that_does_not_exist_is_an_error(wrong):
    with pytest.raises(ConfigError, match=r"center|auto, keep, new"):
        load_weights(video(), video().state_dict(), **wrong)


# The report


def test_the_report_goes_into_json_whole():
    report = load_weights(video(num_classes=7), image().state_dict())

    content = json.loads(json.dumps(report.as_dict()))

    assert content["inflated"] == list(report.inflated)
    assert content["details"]["patch_embed.proj.weight"] == "(16, 3, 7, 7) -> (16, 3, 3, 7, 7)"
    assert content["source"] == "slowfast"


def test_the_table_counts_each_group_and_shows_two_examples():
    report = load_weights(video(num_classes=7), image().state_dict())

    lines = report.table().splitlines()

    assert lines[0].startswith("(a state dict): slowfast; 99.")
    assert [line.split()[:2] for line in lines[1:]] == [
        ["loaded", str(len(report.loaded))],
        ["inflated", "10"],
        ["initialised", "6"],
        ["dropped", "2"],
    ]
    assert lines[2].endswith(", and 8 more")


def test_the_full_table_shows_every_name_that_is_not_simply_loaded():
    report = load_weights(video(num_classes=7), image().state_dict())

    full = report.full_table()

    assert all(f"{name} ({report.details[name]})" in full for name in report.inflated)
    assert len(full.splitlines()) == len(report.table().splitlines())


def test_a_model_on_the_meta_device_and_one_of_another_kind_are_refused():
    with torch.device("meta"):
        empty = video()

    with pytest.raises(WeightsError, match=r"cls_token has no.*to_empty\(device='cpu'\)"):
        load_weights(empty, video().state_dict())
    with pytest.raises(WeightsError, match="into an MViT, got a Linear"):
        load_weights(nn.Linear(2, 2), video().state_dict())


def test_a_sharded_model_is_refused_and_the_remedy_works():
    trained, sharded = scrambled(video()).float(), video().float()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(WeightsError, match=r"is sharded .*a DTensor.* before fully_shard\(\)"):
            load_weights(sharded, trained.state_dict())

        full = StateDictOptions(full_state_dict=True)
        set_model_state_dict(sharded, trained.state_dict(), options=full)

        for name, value in sharded.state_dict().items():
            assert torch.equal(value.full_tensor(), trained.state_dict()[name])
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_8_bits_are_widened(dtype):
    model, state = video(), {k: v.to(dtype) for k, v in scrambled(video()).state_dict().items()}

    load_weights(model, state, head="keep")

    assert_unchanged(model, {name: value.double() for name, value in state.items()})


@pytest.mark.filterwarnings("ignore:.*(quantize|TypedStorage).*:UserWarning")
@pytest.mark.parametrize("form", ["int8", "uint8", "bitsandbytes", "quantize_dynamic", "qint8"])
def test_quantised_weights_are_refused_with_the_reason(form, tmp_path):
    state = video().float().state_dict()
    if form in ("int8", "uint8"):
        state = {name: value.to(getattr(torch, form)) for name, value in state.items()}
    elif form == "bitsandbytes":
        large = {name for name, value in state.items() if value.ndim > 1}
        state = {n: value.to(torch.int8) if n in large else value for n, value in state.items()}
        state |= {f"{name}_format": torch.tensor(0, dtype=torch.uint8) for name in large}
    elif form == "qint8":
        state["norm.weight"] = torch.quantize_per_tensor(state["norm.weight"], 0.1, 0, torch.qint8)
    else:
        state["head.projection._packed_params._packed_params"] = (torch.ones(2), None)
    torch.save(state, tmp_path / "small.pth")

    with pytest.raises(
        WeightsError, match=r"small.pth: quantised \(.*give the weights from before"
    ):
        load_weights(video(), tmp_path / "small.pth")


@pytest.mark.parametrize("change", [torch.Tensor.cfloat, torch.Tensor.long])
def test_other_kinds_of_tensors_are_refused(change):
    state = {name: change(value) for name, value in video().state_dict().items()}

    with pytest.raises(WeightsError, match=r"cls_token \(torch\.\w+ in the file\)"):
        load_weights(video(), state)


def test_tensors_with_other_axes_are_refused_by_name():
    models = [video(abs_pos="joint"), video(abs_pos="separate")]
    for model in models:
        state = model.state_dict()
        for name in [name for name in state if "blocks.1" not in name and "blocks.2" not in name]:
            shape = state[name].shape
            for other in ((), (0,), (3,), (1, 2), (*shape, 1), (1, *shape), (0, *shape[1:])):
                with contextlib.suppress(WeightsError):
                    load_weights(model, state | {name: torch.zeros(other)})

    with pytest.raises(WeightsError, match=r"rel_pos_h: \(3,\); expected 2 axes, not empty"):
        load_weights(models[0], models[0].state_dict() | {"blocks.0.attn.rel_pos_h": torch.ones(3)})


def test_a_state_dict_without_values_is_refused():
    with torch.device("meta"):
        empty = video().state_dict()

    with pytest.raises(WeightsError, match="cls_token is on the meta device and has no values"):
        load_weights(video(), empty)


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (("attn.qkv.base_layer.weight", "attn.qkv.lora_A.default.weight"), r"merge_and_unload\(\)"),
        (("mlp.fc1.parametrizations.weight.original0",), "remove_parametrizations"),
        (("mlp.fc1.weight_orig", "mlp.fc1.weight_mask"), r"prune\.remove"),
    ],
)
def test_layers_that_were_changed_for_training_are_named_with_the_remedy(names, remedy):
    state = video().state_dict()
    for name in names:
        plain = "mlp.fc1.weight" if "fc1" in name else "attn.qkv.weight"
        value = state.pop(f"blocks.0.{plain}", torch.zeros(1))
        state[f"blocks.0.{name}"] = value

    with pytest.raises(WeightsError, match=remedy):
        load_weights(video(), state, min_filled=1.0)
