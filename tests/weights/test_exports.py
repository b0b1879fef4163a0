"""Weights go out into timm and torchvision, which load them strictly, and come back bit by bit."""

import pytest
import timm
import torch
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import nn
from torchvision.models.video import mvit_v1_b, mvit_v2_s
from torchvision.models.video.mvit import MSBlockConfig
from torchvision.models.video.mvit import MViT as TorchvisionMViT

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.errors import ConfigError, WeightsError
from slowfast_mvit.fast import create_model
from slowfast_mvit.weights import load_weights
from slowfast_mvit.weights.exports import LAYOUTS, to_layout, to_timm


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def scrambled(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter) + 0.1)
    return model.double().eval()


def lists(num_frames):
    return {
        "num_classes": 5,
        "embed_dim": 16,
        "depth": 3,
        "dim_mul": [(1, 2)],
        "head_mul": [(1, 2)],
        "pool_q_stride": [(0, 1, 1, 1), (1, 1, 2, 2), (2, 1, 1, 1)],
        "pool_kv_stride_adaptive": (1, 4, 4),
        "pool_kvq_kernel": (num_frames, 3, 3),
    }


def small_image(**changes):
    patches = {"patch_kernel": (7, 7), "patch_stride": (4, 4), "patch_padding": (3, 3)}
    options = {"input_size": (1, 32, 32), "rel_pos_temporal": False, **patches, **lists(1)}
    return scrambled(mvit_from_lists(**(options | changes)))


def small_timm(*, expand_attn, cls_token):
    config = MultiScaleVitCfg(
        depths=(1, 2),
        embed_dim=16,
        num_heads=1,
        mlp_ratio=4.0,
        stride_q=((1, 1), (2, 2)),
        stride_kv=None,
        stride_kv_adaptive=(4, 4),
        expand_attn=expand_attn,
        use_cls_token=cls_token,
    )
    return MultiScaleVit(config, img_size=32, num_classes=5).double().eval()


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("in_attention", [True, False], ids=["in attention", "in the MLP"])
@pytest.mark.parametrize("cls_token", [True, False], ids=["class token", "no class token"])
def test_timm_loads_an_image_model_strictly_and_computes_the_same(in_attention, cls_token):
    ours = small_image(
        dim_mul_in_att=in_attention, cls_token=cls_token, residual_cls_token=cls_token
    )
    theirs = small_timm(expand_attn=in_attention, cls_token=cls_token)
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)

    theirs.load_state_dict(to_timm(ours.state_dict()), strict=True)

    torch.testing.assert_close(theirs(pixels), ours(pixels), rtol=0, atol=1e-12)


@pytest.mark.parametrize("in_attention", [True, False], ids=["in attention", "in the MLP"])
def test_weights_come_back_from_timm_bit_by_bit(in_attention):
    ours = small_image(dim_mul_in_att=in_attention)
    back = small_image(dim_mul_in_att=in_attention)
    theirs = small_timm(expand_attn=in_attention, cls_token=True)

    theirs.load_state_dict(to_timm(ours.state_dict()), strict=True)
    load_weights(back, theirs.state_dict(), head="keep")

    assert_same(back.state_dict(), ours.state_dict())
    assert_same(to_timm(back.state_dict()), theirs.state_dict())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("mvitv2_t_in1k", "mvitv2_tiny"),
        ("mvitv2_s_in1k", "mvitv2_small"),
        ("mvitv2_b_in1k", "mvitv2_base"),
        ("mvitv2_l_in1k", "mvitv2_large"),
        ("mvitv2_b_in21k", "mvitv2_base_cls"),
        ("mvitv2_l_in21k", "mvitv2_large_cls"),
    ],
)
def test_every_image_model_of_timm_gets_exactly_its_names_and_shapes(ours, theirs):
    with torch.device("meta"):
        expected = timm.create_model(theirs).state_dict()
        state = create_model(ours, num_classes=len(expected["head.fc.bias"])).state_dict()

    exported = to_timm(state)

    assert {name: value.shape for name, value in exported.items()} == {
        name: value.shape for name, value in expected.items()
    }


def small_torchvision():
    """Of the same three blocks."""
    blocks = [
        MSBlockConfig(heads, dim, dim_out, [3, 3, 3], [3, 3, 3], [1, q, q], [1, kv, kv])
        for heads, dim, dim_out, q, kv in ((1, 16, 16, 1, 4), (2, 16, 32, 2, 2), (2, 32, 32, 1, 2))
    ]
    model = TorchvisionMViT(
        (32, 32),
        8,
        blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        num_classes=5,
    )
    return model.double().eval()


def test_torchvision_loads_a_video_model_strictly_and_computes_the_same():
    ours = scrambled(mvit_from_lists(input_size=(8, 32, 32), **lists(3)))
    theirs = small_torchvision()
    clip = torch.randn(2, 3, 8, 32, 32, dtype=torch.float64)

    state = to_layout(ours.state_dict(), "torchvision", "a file")
    theirs.load_state_dict(state, strict=True)

    torch.testing.assert_close(theirs(clip), ours(clip), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "make"), [("mvitv2_s_16x4", mvit_v2_s), ("mvitv1_b_16x4", mvit_v1_b)]
)
def test_weights_come_back_from_torchvision_bit_by_bit(name, make):
    theirs, ours = make(), create_model(name)
    state = {key: value.clone() for key, value in theirs.state_dict().items()}

    load_weights(ours, state, head="keep")
    theirs.load_state_dict(to_layout(ours.state_dict(), "torchvision", "a file"), strict=True)

    assert_same(theirs.state_dict(), state)


@pytest.mark.parametrize(
    ("layout", "make", "reason"),
    [
        ("timm", lambda: mvit_from_lists(input_size=(8, 32, 32), **lists(3)), "for images only"),
        ("torchvision", small_image, "for clips with a class token only"),
    ],
)
def test_what_a_library_does_not_have_is_refused(layout, make, reason):
    with pytest.raises(WeightsError, match=rf"a\.pyth: cannot be written in that layout.*{reason}"):
        to_layout(make().state_dict(), layout, "a.pyth")


def test_a_layout_that_does_not_exist_is_an_error():
    with pytest.raises(ConfigError, match=r"no layout of weights named 'tim'.*Did you mean 'timm'"):
        to_layout({}, "tim", "a.pyth")
    assert set(LAYOUTS) == {"slowfast", "torchvision", "timm"}
