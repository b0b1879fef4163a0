"""Files of other origins: every name has a place, and equal weights give equal outputs."""

import pytest
import torch
from small_networks import (
    IMAGE,
    V1,
    assert_equal_states,
    image,
    named,
    names_and_shapes,
    on_meta,
    scrambled,
    small,
)
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import nn

from slowfast_mvit.errors import WeightsError
from slowfast_mvit.fast import create_model
from slowfast_mvit.weights import load_weights
from slowfast_mvit.weights.names import to_ours, to_torchvision


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# pytorchvideo


def pytorchvideo(name: str, **changes) -> nn.Module:
    """The builder and the options of a model of pytorchvideo's hub."""
    pytest.importorskip("pytorchvideo")
    from pytorchvideo.models.hub import vision_transformers as hub
    from pytorchvideo.models.vision_transformers import create_multiscale_vision_transformers

    options = {
        "mvit_base_16x4": hub.mvit_video_base_config,
        "mvit_base_32x3": hub.mvit_video_base_32x3_config,
        "mvit_base_16": hub.mvit_image_base_16_config,
    }
    model = create_multiscale_vision_transformers(**(options[name] | changes)).eval()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # ours and PySlowFast's; pytorchvideo has 1e-5 after pooling
    return model


SMALL_PYTORCHVIDEO = {
    "spatial_size": 64,
    "depth": 3,
    "patch_embed_dim": 16,
    "embed_dim_mul": [[1, 2.0]],
    "atten_head_mul": [[1, 2.0]],
    "pool_q_stride_size": [[1, 1, 2, 2]],
    "pool_kv_stride_adaptive": [1, 4, 4],
    "head_num_classes": 5,
}


@pytest.mark.parametrize(
    ("hub_name", "size"), [("mvit_base_16x4", (16, 224, 224)), ("mvit_base_32x3", (32, 224, 224))]
)
def test_every_name_of_pytorchvideos_hub_models_has_a_place(hub_name, size):
    theirs = {k: v.to("meta") for k, v in pytorchvideo(hub_name).state_dict().items()}
    with torch.device("meta"):
        ours = create_model("mvitv1_b_16x4", input_size=size)

    report = load_weights(ours, {"model_state": theirs}, head="keep")

    assert report.source == "pytorchvideo"
    assert set(report.loaded) == set(ours.state_dict())
    assert not report.dropped and not report.unexpected


@pytest.mark.parametrize("sep_pos_embed", [True, False], ids=["separate", "joint"])
def test_pytorchvideo_weights_give_equal_logits(sep_pos_embed):
    options = SMALL_PYTORCHVIDEO | {"temporal_size": 4, "sep_pos_embed": sep_pos_embed}
    theirs = scrambled(pytorchvideo("mvit_base_16x4", **options).double())
    positions = {"abs_pos": "separate" if sep_pos_embed else "joint", "rel_pos_temporal": False}
    ours = small(**V1, **positions)
    clip = torch.randn(2, 3, 4, 64, 64, dtype=torch.float64)

    # PySlowFast keeps the model of pytorchvideo in an attribute ``model``.
    load_weights(ours, {f"model.{k}": v for k, v in theirs.state_dict().items()}, head="keep")

    with torch.no_grad():
        torch.testing.assert_close(ours(clip), theirs(clip), rtol=0, atol=1e-10)


def test_pytorchvideos_image_model_gives_equal_logits_and_goes_into_a_video_model():
    theirs = scrambled(pytorchvideo("mvit_base_16", **SMALL_PYTORCHVIDEO).double())
    v1 = {**V1, "abs_pos": "separate", "rel_pos_temporal": False}
    still, moving = small(**IMAGE, **v1), small(**v1)
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)

    load_weights(still, theirs.state_dict(), head="keep")
    report = load_weights(moving, theirs.state_dict())

    with torch.no_grad():
        expected = theirs(pixels)
        torch.testing.assert_close(still(pixels), expected, rtol=0, atol=1e-10)
    assert report.resized == ("pos_embed_temporal",)
    assert len(report.inflated) == 1 + 2 * 3 + 1  # patches; keys and values; queries of block 1
    assert not report.missing and not report.unexpected


# timm


@pytest.mark.parametrize("expand_attn", [True, False], ids=["grows in attention", "in the MLP"])
@pytest.mark.parametrize("cls_token", [True, False], ids=["class token", "no class token"])
def test_timm_weights_give_equal_logits_however_channels_grow(cls_token, expand_attn):
    config = MultiScaleVitCfg(
        depths=(1, 2),
        embed_dim=16,
        num_heads=1,
        mlp_ratio=4.0,
        stride_q=((1, 1), (2, 2)),
        stride_kv=None,
        stride_kv_adaptive=(4, 4),
        use_cls_token=cls_token,
        expand_attn=expand_attn,
    )
    theirs = scrambled(MultiScaleVit(config, img_size=64, num_classes=5).double().eval())
    ours = image(
        cls_token=cls_token,
        residual_cls_token=True,
        dim_mul_in_att=expand_attn,
        pool_q_stride=[[0, 1, 1, 1], [1, 1, 2, 2], [2, 1, 1, 1]],
    )
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)

    load_weights(ours, theirs.state_dict(), head="keep")

    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs(pixels), rtol=0, atol=1e-10)


# torchvision


def test_a_linear_layer_in_place_of_torchvisions_head_is_the_head():
    state = on_meta(names_and_shapes("mvitv2_s_16x4.json"))
    theirs = to_torchvision(state)
    for kind in ("weight", "bias"):
        theirs[f"head.{kind}"] = theirs.pop(f"head.1.{kind}")

    ours, source = to_ours(theirs, "a file")

    assert source == "torchvision"
    assert ours.keys() == state.keys()


# mmaction2


@pytest.mark.parametrize("whole", [True, False], ids=["recogniser", "backbone alone"])
def test_every_name_of_mmaction2s_small_model_has_a_place(whole):
    shapes = names_and_shapes("elsewhere/mmaction2_mvit_small.json")
    expected = names_and_shapes("mvitv2_s_16x4.json")
    if not whole:
        shapes = {
            name.removeprefix("backbone."): shape
            for name, shape in shapes.items()
            if name.startswith("backbone.")
        }
        expected = {k: v for k, v in expected.items() if not k.startswith("head.")}

    ours, source = to_ours(on_meta(shapes), "a file")

    assert source == "mmaction2"
    assert {name: tuple(value.shape) for name, value in ours.items()} == expected


MMACTION2 = (
    (r"^head\.projection", "cls_head.fc_cls"),
    (r"^norm\.", "norm1."),  # of two stages
    (r"^patch_embed\.proj", "patch_embed.projection"),
    (r"^(?!cls_head)", "backbone."),
)


def test_mmaction2s_values_arrive_where_they_belong(tmp_path):
    source, ours = scrambled(small()), small()
    path = tmp_path / "mvit.pth"
    torch.save({"meta": {"epoch": 100}, "state_dict": named(source.state_dict(), *MMACTION2)}, path)

    report = load_weights(ours, path, head="keep")

    assert report.source == "mmaction2"
    assert set(report.loaded) == set(ours.state_dict())
    assert_equal_states(source, ours)


def test_mmpretrains_image_model_is_read_by_the_same_map():
    source, ours = scrambled(image()), image()
    head = (r"^cls_head\.fc_cls", "head.fc")
    names = (*MMACTION2, head, (r"^backbone\.head", "head"))

    report = load_weights(ours, named(source.state_dict(), *names), head="keep")

    assert report.source == "mmaction2"
    assert_equal_states(source, ours)


def test_the_norm_of_a_pre_training_in_three_stages_is_the_last():
    # mmselfsup's MaskFeat does not pool at its last growth of the width, and counts stages by that.
    names = (*MMACTION2, (r"^backbone\.norm1", "backbone.norm0"))
    state = named(scrambled(small()).state_dict(), *names)
    state |= {"backbone.mask_token": torch.zeros(1, 1, 16), "neck.fc.weight": torch.zeros(3)}

    report = load_weights(small(), state)

    assert "norm.weight" in report.loaded
    assert set(report.dropped) == {"mask_token", "neck.fc.weight"}


def test_norms_between_the_stages_are_reported_as_a_difference():
    state = named(scrambled(small()).state_dict(), *MMACTION2)
    state["backbone.norm0.weight"] = torch.ones(16)

    report = load_weights(small(), state)

    assert report.unexpected == ("norm0.weight",)
    assert "norm0.weight (it normalises between the stages, too)" in report.table()


def test_mmaction2s_unused_class_token_is_left_out():
    state = named(scrambled(small(cls_token=False)).state_dict(), *MMACTION2)
    state["backbone.cls_token"] = torch.zeros(1, 1, 16)

    report = load_weights(small(cls_token=False), state)

    assert report.dropped == ("cls_token",)
    assert "without a class token" in report.table()


# detectron2


DETECTOR = (
    "backbone.fpn_lateral2.weight",
    "backbone.fpn_output5.bias",
    "proposal_generator.rpn_head.conv.weight",
    "roi_heads.box_head.0.fc1.weight",
    "roi_heads.mask_head.mask_fcn1.weight",
    "pixel_mean",
)


@pytest.mark.parametrize("parts", [DETECTOR, ()], ids=["detector", "backbone alone"])
def test_a_detection_backbone_fills_an_image_model_but_for_norm_and_head(parts):
    state = on_meta(names_and_shapes("elsewhere/detectron2_mvitv2_s.json"))
    if not parts:
        state = {name.removeprefix("backbone.bottom_up."): v for name, v in state.items()}
    state |= {name: torch.empty(1, device="meta") for name in parts}
    with torch.device("meta"):
        ours = create_model("mvitv2_s_in1k")

    report = load_weights(ours, {"model": state, "iteration": 67499})

    head = ("head.projection.weight", "head.projection.bias")
    assert report.source == "detectron2"
    assert report.initialised == ("norm.weight", "norm.bias", *head)
    assert set(report.loaded) == set(ours.state_dict()) - set(report.initialised)
    norms = {f"scale{scale}_norm.{kind}" for scale in (2, 3, 4, 5) for kind in ("weight", "bias")}
    assert set(report.dropped) == norms | set(parts)
    assert not report.missing and not report.unexpected
    assert "a detection backbone ends in a norm for each feature map" in report.table()


def test_a_detection_backbone_goes_into_a_video_model():
    state = scrambled(image()).state_dict()
    del state["norm.weight"], state["norm.bias"]
    state["scale5_norm.weight"] = torch.ones(32)

    report = load_weights(small(), state)

    assert {"norm.weight", "norm.bias", "cls_token"} <= set(report.initialised)
    assert not report.missing and not report.unexpected


# PySlowFast's other trainings


def test_a_pre_training_by_masks_fills_all_but_norm_and_head():
    source, ours = scrambled(small(dim_mul_in_att=False)), small(dim_mul_in_att=False)
    state = {k: v for k, v in source.state_dict().items() if not k.startswith(("norm.", "head."))}
    state |= {
        "mask_token": torch.zeros(1, 1, 16),
        "pred_head.projections.0.weight": torch.zeros(108, 32),
        "hogs.0.weight_x": torch.zeros(3, 1, 3, 3),
    }

    report = load_weights(ours, {"model_state": state, "epoch": 299, "cfg": "MASK: {}"})

    assert report.source == "maskfeat"
    assert set(report.dropped) == {
        "mask_token",
        "pred_head.projections.0.weight",
        "hogs.0.weight_x",
    }
    new = {"norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"}
    assert set(report.initialised) == new
    assert not report.missing and not report.unexpected


def test_of_a_contrastive_pre_training_the_trained_network_is_taken():
    source, ours = scrambled(small()), small()
    state = {f"backbone.{name}": value for name, value in source.state_dict().items()}
    state |= {f"backbone_hist.{name}": 0 * value for name, value in source.state_dict().items()}
    state["queue_x"] = torch.zeros(8, 2)

    report = load_weights(ours, state, head="keep")

    assert_equal_states(source, ours)
    assert "queue_x" in report.dropped and "backbone_hist.norm.weight" in report.dropped
    assert not report.unexpected


def test_a_network_without_any_pooling_is_known_by_its_head():
    # PySlowFast's ViTs are MViTs that pool nothing.
    plain = {"pool_q_stride": [], "pool_kv_stride_adaptive": None, "pool_kvq_kernel": None}
    source, ours = scrambled(small(**plain)), small(**plain)

    report = load_weights(ours, source.state_dict(), head="keep")

    assert report.source == "slowfast"
    assert_equal_states(source, ours)


def test_a_head_of_several_parts_is_left_out():
    state = scrambled(small()).state_dict()
    for part, classes in (("verb", 97), ("noun", 300)):
        state[f"head.projection_{part}.weight"] = torch.zeros(classes, 32)
    del state["head.projection.weight"], state["head.projection.bias"]

    report = load_weights(small(), state)

    assert set(report.dropped) == {"head.projection_verb.weight", "head.projection_noun.weight"}
    with pytest.raises(WeightsError, match="the file has no head"):
        load_weights(small(), state, head="keep")
