"""Every name of another library's model becomes the PySlowFast name of the same parameter."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torchvision.models.video import mvit_v1_b, mvit_v2_s

from slowfast_mvit.errors import WeightsError
from slowfast_mvit.weights.names import (
    check_unique,
    identify_source,
    rename,
    strip_wrappers,
    to_ours,
    to_torchvision,
    translate,
)
from slowfast_mvit.weights.sources import SOURCES

REFERENCE = Path(__file__).parents[1] / "reference" / "state_dicts"


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    content = json.loads((REFERENCE / f"{name}.json").read_text())
    return {key: tuple(shape) for key, shape in content.items()}


def published_state(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in published_shapes(name).items()}


def shapes(state):
    return {name: tuple(value.shape) for name, value in state.items()}


def on_meta(make, *args):
    with torch.device("meta"):
        return make(*args).state_dict()


@pytest.mark.parametrize(
    ("make", "published"),
    [(mvit_v2_s, "mvitv2_s_16x4"), (mvit_v1_b, "mvitv1_b_16x4_conv")],
    ids=["mvit_v2_s", "mvit_v1_b"],
)
def test_torchvision_names_and_shapes_become_those_of_pyslowfast(make, published):
    state = on_meta(make)

    ours, source = to_ours(state, "a file")

    assert source == "torchvision"
    assert shapes(ours) == published_shapes(published)


@pytest.mark.parametrize(
    ("make", "published"),
    [(mvit_v2_s, "mvitv2_s_16x4"), (mvit_v1_b, "mvitv1_b_16x4_conv")],
    ids=["mvit_v2_s", "mvit_v1_b"],
)
def test_our_names_go_back_to_torchvision(make, published):
    expected = on_meta(make)

    theirs = to_torchvision(published_state(published))

    assert shapes(theirs) == shapes(expected)


def test_timm_names_become_those_of_the_image_model():
    state = on_meta(timm.create_model, "mvitv2_small")

    ours, source = to_ours(state, "a file")

    # PySlowFast keeps a time axis of length one in the pooling of its image models.
    expected = {
        name: shape[:2] + shape[3:] if ".pool_" in name else shape
        for name, shape in published_shapes("mvitv2_s_imagenet_slowfast").items()
    }
    assert source == "timm"
    assert shapes(ours) == expected


def test_timm_blocks_are_counted_through_the_stages():
    # T has 1, 2, 5 and 2 blocks, so the first of the last stage is block 8.
    names = on_meta(timm.create_model, "mvitv2_tiny").keys()

    renamed = rename(names, SOURCES["timm"])

    assert renamed["stages.0.blocks.0.norm1.weight"] == "blocks.0.norm1.weight"
    assert renamed["stages.1.blocks.0.shortcut_proj_attn.bias"] == "blocks.1.proj.bias"
    assert renamed["stages.2.blocks.4.attn.proj.bias"] == "blocks.7.attn.proj.bias"
    assert renamed["stages.3.blocks.0.mlp.fc1.weight"] == "blocks.8.mlp.fc1.weight"
    assert renamed["head.fc.weight"] == "head.projection.weight"


@pytest.mark.parametrize(
    ("make", "sign"),
    [
        ("mvitv2_base_cls", "cls_token"),
        ("mvitv2_large", "stages.0.blocks.1.shortcut_proj_mlp.weight"),
    ],
)
def test_timm_models_with_a_class_token_and_growth_in_the_mlp_are_known(make, sign):
    names = on_meta(timm.create_model, make).keys()

    renamed = rename(names, SOURCES["timm"])

    assert sign in names
    assert identify_source(names, "a file") == ("timm", "")
    assert {"cls_token", "blocks.1.proj.weight"} & set(renamed.values())


@pytest.mark.parametrize("published", [path.stem for path in sorted(REFERENCE.glob("*.json"))])
def test_pyslowfast_names_stay(published):
    state = published_state(published)

    ours, source = to_ours(state, "a file")

    assert source == "slowfast"
    assert list(ours) == list(state)


def test_attention_that_pools_before_it_projects_is_refused():
    # MeMViT: q, k and v apart, and kernels as wide as a head of the tokens before the projection.
    state = {}
    for name, value in published_state("mvitv2_s_16x4").items():
        block = name.partition(".attn.")[0]
        if ".attn.qkv." in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                state[name.replace("qkv", letter)] = part
        elif ".attn.pool_" in name and f"{block}.proj.weight" in published_state("mvitv2_s_16x4"):
            state[name] = value[: len(value) // 2]
        else:
            state[name] = value

    with pytest.raises(WeightsError, match=r"pools before it projects \(MVIT.POOL_FIRST"):
        to_ours(state, "a file")


@pytest.mark.parametrize(
    "wrapped",
    [
        "module.blocks.0.norm1.weight",
        "_orig_mod.blocks.0.norm1.weight",
        "module._orig_mod.blocks.0.norm1.weight",
        "_orig_mod.module.blocks.0.norm1.weight",
        "model.blocks.0.norm1.weight",
        "blocks.0._orig_mod.norm1.weight",
        "blocks.0._checkpoint_wrapped_module.norm1.weight",
        "_fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module.norm1.weight",
        "blocks.0.norm1.weight",
    ],
)
def test_wrappers_leave_no_trace_in_a_name(wrapped):
    assert strip_wrappers(wrapped) == "blocks.0.norm1.weight"


def test_separate_queries_keys_and_values_become_one():
    state = published_state("mvitv2_s_16x4")
    for kind, rows in (("weight", (96, 96)), ("bias", (96,))):
        del state[f"blocks.0.attn.qkv.{kind}"]
        for number, letter in enumerate("qkv"):
            state[f"blocks.0.attn.{letter}.{kind}"] = torch.full(rows, float(number))

    ours, _ = to_ours(state, "a file")

    assert ours.keys() == published_shapes("mvitv2_s_16x4").keys()
    assert ours["blocks.0.attn.qkv.weight"].shape == (288, 96)
    assert ours["blocks.0.attn.qkv.bias"][::96].tolist() == [0.0, 1.0, 2.0]


def test_a_key_map_reads_both_ways():
    pair = ("blocks.#.attn.pool_?.pool.*", "blocks.#.attn.pool_?.*")

    there = translate("blocks.12.attn.pool_k.pool.weight", (pair,))
    back = translate(there, (pair[::-1],))

    assert there == "blocks.12.attn.pool_k.weight"
    assert back == "blocks.12.attn.pool_k.pool.weight"


def test_another_network_is_refused_with_its_first_names():
    state = {"conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(1)}

    with pytest.raises(
        WeightsError, match=r"resnet\.pth: these are not .* MViT.*conv1\.weight"
    ) as e:
        to_ours(state, "resnet.pth")

    assert all(source_map.title in str(e.value) for source_map in SOURCES.values())


def test_two_models_in_one_file_are_refused():
    names = {"module.norm.weight": "norm.weight", "model.norm.weight": "norm.weight"}

    with pytest.raises(WeightsError, match=r"module\.norm\.weight and model\.norm\.weight"):
        check_unique(names, "two.pth")
