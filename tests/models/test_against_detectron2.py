"""The backbone of detectors against what detectron2 computed with the same weights."""

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

from slowfast_mvit.builders.named import create_model
from slowfast_mvit.errors import ConfigError, WeightsError
from slowfast_mvit.models import BACKBONES, Backbone, list_models
from slowfast_mvit.models.flops import count_flops
from slowfast_mvit.models.variants import BACKBONE_IMAGE, SIZES, detection_specs
from slowfast_mvit.weights import load_weights

GOLDEN = DETECTION["backbone"]


def keys_of(case):
    return GOLDEN["base"] | GOLDEN["cases"][case]["overrides"]


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_maps_and_gradients_are_those_of_detectron2(case):
    expected = GOLDEN["cases"][case]
    model = backbone_of(keys_of(case)).double()
    report = load_weights(model, filled(expected["state_dict_shapes"]))
    pixels = clip(*expected["input_shape"]).requires_grad_()

    maps = model(pixels)
    loss = probe_loss(maps)
    loss.backward()

    assert (report.missing, report.unexpected) == ((), ())
    assert sum(p.numel() for p in model.parameters()) == expected["n_params"]
    assert list(maps) == list(expected["outputs"])
    for name, one in expected["outputs"].items():
        assert_summary(maps[name], one)
    assert loss.item() == pytest.approx(expected["probe_loss"], rel=1e-9)
    assert grad_norms_differ(model, expected["grad_norms"]) == []
    assert pixels.grad.norm().item() == pytest.approx(expected["input_grad_norm"], rel=1e-9)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, marks=pytest.mark.nightly) if "ViTDet" in config else config
        for config in CONFIGS["configs"]
        if "b_3x" not in config  # as b_in21k_3x
    ],
)
def test_blocks_are_those_of_the_published_detectors(config):
    expected = CONFIGS["configs"][config]
    size = config.split("mvitv2_")[1][0]
    specs = detection_specs(size.upper(), drop_path=BACKBONES[f"detection_{size}"].drop_path)

    with torch.device("meta"):
        backbone = Backbone(specs, input_size=(1, 224, 224))

    blocks = [
        {
            "block": number,
            "window": block.spec.window,
            "q_stride": block.spec.stride_q[1],
            "kv_stride": block.spec.stride_kv[1],
            "table": list(block.attn.rel_pos_h.shape),
            "heads": block.spec.num_heads,
        }
        for number, block in enumerate(backbone.blocks)
    ]
    assert blocks == expected["blocks"]
    assert specs[-1].drop_path == expected["drop_path_rate"]
    assert sum(p.numel() for p in backbone.parameters()) == expected["bottom_up"]


@pytest.mark.parametrize(
    "name",
    [
        name if name == "detection_t" else pytest.param(name, marks=pytest.mark.nightly)
        for name in BACKBONES
    ],
)
def test_parameters_and_flops_are_those_of_the_registry(name):
    with torch.device("meta"):
        model = create_model(name, attention="plain").eval()

    assert sum(p.numel() for p in model.parameters()) == BACKBONES[name].num_params
    gflops = count_flops(model, BACKBONE_IMAGE) / 1e9
    assert gflops == pytest.approx(BACKBONES[name].gflops, abs=1e-4)
    assert name in list_models()


def test_a_backbone_begins_with_the_weights_of_an_image_classifier(tmp_path):
    classifier = create_model("mvitv2_t_in1k")
    torch.save({"model_state": classifier.state_dict()}, tmp_path / "tiny.pyth")

    backbone = create_model("detection_t", weights=tmp_path / "tiny.pyth")

    trunk = {n: p for n, p in classifier.state_dict().items() if n.startswith(("patch", "blocks"))}
    state = backbone.state_dict()
    assert all(torch.equal(state[name], value) for name, value in trunk.items())
    fresh = {name for name in state if name not in trunk}
    assert fresh == {f"scale{k}_norm.{kind}" for k in range(2, 6) for kind in ("weight", "bias")}
    assert all((state[n] == (1 if n.endswith("weight") else 0)).all() for n in fresh)


def test_first_values_are_those_of_detectron2():
    backbone = create_model("detection_t")

    for name, parameter in backbone.named_parameters():
        if (name.endswith("bias") and "patch_embed" not in name) or "rel_pos" in name:
            assert not parameter.any(), name
        if "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
    pool = backbone.blocks[0].attn.pool_q.weight  # uniform in +-1/3, as PyTorch's convolutions
    assert 0.3 < pool.abs().max() <= 1 / 3


def test_a_layout_that_widens_in_the_mlp_exists_and_takes_no_weights_of_the_other():
    specs = {
        by: detection_specs("T", dim_mul_in_att=by == "attention") for by in ("MLP", "attention")
    }
    with torch.device("meta"):
        models = {by: Backbone(one, input_size=(1, 224, 224)) for by, one in specs.items()}

    assert models["MLP"].feature_info.channels() == [192, 384, 768, 768]
    with pytest.raises(WeightsError, match=r"its channels grow in the MLP"):
        load_weights(models["attention"], models["MLP"].state_dict())


def test_a_backbone_has_no_classes():
    with pytest.raises(ConfigError, match=r"without a head.*Image classifiers.*mvitv2_b_in1k"):
        create_model("detection_b", num_classes=80)
    with torch.device("meta"), pytest.raises(ConfigError, match="leave out features_only"):
        create_model("detection_t", features_only=True)


def test_stages_are_chosen_by_number():
    with torch.device("meta"):
        backbone = Backbone(detection_specs("T"), input_size=(1, 224, 224), out_indices=2)

    assert list(backbone(torch.empty(1, 3, 64, 96, device="meta"))) == ["scale4", "scale5"]
    assert backbone.out_info["scale5"]["reduction"] == 32
    assert not hasattr(backbone, "scale2_norm")
    assert sum(SIZES["T"].stages) == len(backbone.blocks)
