"""The feature pyramid against what detectron2 computed with the same weights."""

from __future__ import annotations

import pytest
import torch
from reference_detectors import (
    CONFIGS,
    DETECTION,
    assert_summary,
    backbone_of,
    filled,
    grad_norms_differ,
    probe_loss,
)
from reference_models import clip

from slowfast_mvit.detection import FPN
from slowfast_mvit.detection.layers import ChannelNorm
from slowfast_mvit.fast import create_model
from slowfast_mvit.models.flops import count_flops
from slowfast_mvit.weights import load_weights

GOLDEN = DETECTION["fpn"]
NORMS = {"": None, "LN": ChannelNorm}


def without_memory(size, **options):
    """A pyramid on the meta device: shapes without values."""
    with torch.device("meta"):
        return FPN(create_model(f"detection_{size}", attention="plain"), **options).eval()


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_maps_and_gradients_are_those_of_detectron2(case):
    expected = GOLDEN["cases"][case]
    backbone = backbone_of(GOLDEN["base"] | expected["overrides"])
    model = FPN(backbone, out_channels=expected["out_channels"], norm=NORMS[expected["norm"]])
    state = filled(expected["state_dict_shapes"])
    load_weights(model.double().bottom_up, state)
    of_pyramid = {name: value for name, value in state.items() if name.startswith("fpn_")}
    left = model.load_state_dict(of_pyramid, strict=False)
    pixels = clip(*expected["input_shape"]).requires_grad_()

    maps = model(pixels)
    loss = probe_loss(maps)
    loss.backward()

    assert not left.unexpected_keys
    assert list(maps) == list(expected["outputs"]) == list(model.strides)
    for name, one in expected["outputs"].items():
        assert_summary(maps[name], one)
    assert loss.item() == pytest.approx(expected["probe_loss"], rel=1e-9)
    assert grad_norms_differ(model, expected["grad_norms"]) == []
    assert pixels.grad.norm().item() == pytest.approx(expected["input_grad_norm"], rel=1e-9)


@pytest.mark.parametrize("config", CONFIGS["state_dicts"])
def test_names_and_shapes_are_those_of_detectron2(config):
    expected = {
        name.removeprefix("backbone."): shape
        for name, shape in CONFIGS["state_dicts"][config].items()
        if name.startswith("backbone.")
    }
    size = config.split("mvitv2_")[1][0]
    norm = ChannelNorm if "ViTDet" in config else None

    model = without_memory(size, norm=norm)

    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    for name in [name for name in shapes if ".pool_" in name]:
        shapes[name].remove(1)  # ours have a time axis
    assert shapes == expected
    assert sum(p.numel() for p in model.parameters()) == CONFIGS["configs"][config]["backbone"]


@pytest.mark.parametrize(("size_px", "gflops"), [((800, 1088), 134.7), ((512, 512), 40.7)])
def test_flops_of_t_are_those_of_detectron2(size_px, gflops):
    assert count_flops(without_memory("t"), (1, *size_px)) / 1e9 == pytest.approx(gflops, rel=0.01)


def test_images_of_any_size_have_five_maps():
    model = FPN(backbone_of(GOLDEN["base"]), out_channels=8).eval()

    with torch.no_grad():
        maps = model(torch.randn(1, 3, 75, 101))

    sizes = [tuple(one.shape[2:]) for one in maps.values()]
    assert sizes == [(19, 26), (10, 13), (5, 7), (3, 4), (2, 2)]
    assert model.strides == {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
