"""A model as a backbone: timm's names for features, heads and parameter groups, with its values."""

from __future__ import annotations

import pytest
import timm
import torch
from reference_models import fill
from renaming import from_timm
from timm.optim import param_groups_layer_decay
from torch import nn

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.builders.named import create_model
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.models.variants import SIZES

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
CLIPS = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pair():
    """timm's tiny model and ours, with the same weights."""
    torch.manual_seed(0)
    theirs = timm.create_model("mvitv2_tiny", num_classes=7, img_size=64).eval()
    with torch.device("meta"):
        ours = create_model("mvitv2_t_in1k", num_classes=7, input_size=(1, 64, 64)).eval()
    ours.load_state_dict(from_timm(theirs.state_dict(), SIZES["T"].stages), assign=True)
    return theirs, ours


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


def video(**options):
    """A model for clips with a class token and two stages."""
    torch.manual_seed(0)
    lists = {"embed_dim": 16, "depth": 3, "dim_mul": [[1, 2.0]], "head_mul": [[1, 2.0]]}
    lists |= {"pool_q_stride": [[1, 1, 2, 2]], "pool_kv_stride_adaptive": [1, 2, 2]}
    lists |= {"pool_kvq_kernel": (3, 3, 3), "input_size": (4, 32, 32), "num_classes": 5}
    return fill(mvit_from_lists(**lists | options)).eval()


@torch.no_grad()
def test_features_and_head_are_those_of_timm(pair):
    theirs, ours = pair

    features = ours.forward_features(IMAGES)

    assert_close(features, theirs.forward_features(IMAGES))
    for pre_logits in (False, True):
        expected = theirs.forward_head(features, pre_logits=pre_logits)
        assert_close(ours.forward_head(features, pre_logits=pre_logits), expected)
    assert_close(ours(IMAGES), ours.forward_head(features))
    assert ours.num_features == theirs.num_features == ours.head_hidden_size
    assert ours.in_chans == theirs.in_chans


@torch.no_grad()
@pytest.mark.parametrize("indices", [None, 2, [0, -1], (1,)])
@pytest.mark.parametrize("options", [{}, {"norm": True}, {"stop_early": True}], ids=str)
def test_intermediates_are_those_of_timm(pair, indices, options):
    theirs, ours = pair

    for theirs_fmt, ours_fmt in (("NCHW", "NCHW"), ("NLC", "NLC")):
        expected, expected_outputs = theirs.forward_intermediates(
            IMAGES, indices, output_fmt=theirs_fmt, **options
        )
        actual, outputs = ours.forward_intermediates(
            IMAGES, indices, output_fmt=ours_fmt, **options
        )

        assert_close(actual, expected)
        assert len(outputs) == len(expected_outputs)
        for one, other in zip(outputs, expected_outputs, strict=True):
            assert_close(one, other)


@torch.no_grad()
def test_features_only_are_those_of_timm(pair):
    theirs, ours = pair
    extractor = create_model(
        "mvitv2_t_in1k", input_size=(1, 64, 64), features_only=True, out_indices=(0, 2)
    ).eval()
    extractor.model.load_state_dict(ours.state_dict(), strict=False)
    expected = theirs.forward_intermediates(IMAGES, (0, 2), intermediates_only=True)

    outputs = extractor(IMAGES)

    for one, other in zip(outputs, expected, strict=True):
        assert_close(one.squeeze(2), other)
    info = [theirs.feature_info[stage] for stage in (0, 2)]
    assert extractor.feature_info.channels() == [stage["num_chs"] for stage in info]
    assert extractor.feature_info.reduction() == [stage["reduction"] for stage in info]


def test_features_only_have_the_weights_of_a_file(pair, tmp_path):
    _, ours = pair
    torch.save(ours.state_dict(), tmp_path / "tiny.pth")

    extractor = create_model(
        "mvitv2_t_in1k", weights=tmp_path / "tiny.pth", features_only=True, input_size=(1, 64, 64)
    )

    weight = extractor.model.patch_embed.proj.weight
    assert torch.equal(weight, ours.patch_embed.proj.weight)
    assert len(extractor.feature_info) == 4


def test_every_parameter_of_an_extractor_gets_a_gradient():
    extractor = create_model(
        "mvitv2_s_16x4", input_size=(2, 32, 32), features_only=True, out_indices=[0, 1]
    )

    sum(one.sum() for one in extractor(torch.randn(1, 3, 2, 32, 32))).backward()

    assert [name for name, p in extractor.named_parameters() if p.grad is None] == []
    assert len(extractor.model.blocks) == 3


@torch.no_grad()
@pytest.mark.parametrize("arguments", [(0,), (0, ""), (0, "avg"), (3,)], ids=str)
def test_another_head_is_set_as_in_timm(pair, arguments):
    theirs, ours = pair
    for model in pair:
        model.reset_classifier(*arguments)
    if arguments[0]:
        ours.get_classifier().load_state_dict(theirs.get_classifier().state_dict())

    assert_close(ours(IMAGES), theirs(IMAGES))
    assert ours.num_classes == arguments[0]


@torch.no_grad()
def test_a_model_of_no_classes_returns_features():
    features = create_model("mvitv2_s_16x4", input_size=(2, 32, 32), num_classes=0).eval()
    pixels = torch.randn(1, 3, 2, 32, 32)

    assert isinstance(features.get_classifier(), nn.Identity)
    assert features(pixels).shape == (1, 768)


@torch.no_grad()
def test_pooling_may_change_with_the_head():
    model = video().double()
    model.input_spec = {"num_frames": 4, "class_names": list("abcde")}
    pixels = CLIPS.double()
    tokens = model.forward_features(pixels)

    assert_close(model(pixels), model.head(tokens[:, 0]))
    model.reset_classifier(2, "avg")

    assert_close(model(pixels), model.head(tokens[:, 1:].mean(dim=1)))
    assert model.head.projection.weight.dtype == torch.float64
    assert not model.head.training
    assert model.input_spec == {"num_frames": 4, "class_names": None}
    with pytest.raises(ConfigError, match=r"one of \('avg', ''\), got 'token'"):
        video(cls_token=False).reset_classifier(2, "token")


@torch.no_grad()
@pytest.mark.parametrize("mean_pooling", [False, True])
def test_intermediates_of_clips_are_grids(mean_pooling):
    model = video(mean_pooling=mean_pooling)

    features, (first, last) = model.forward_intermediates(CLIPS)

    assert first.shape == (2, 16, 2, 8, 8)
    assert last.shape == (2, 32, 2, 4, 4)
    assert_close(features, model.forward_features(CLIPS))
    tokens, thw = model.run_blocks(CLIPS)
    assert_close(last, tokens[:, 1:].transpose(1, 2).reshape(2, 32, *thw))
    assert model.feature_info.reduction() == [4, 8]
    with pytest.raises(ConfigError, match=r"'NCHW'\. Choose from: NCTHW"):
        model.forward_intermediates(CLIPS, output_fmt="NCHW")


@pytest.mark.parametrize("indices", [3, 0, -1, [2], [-3], []])
def test_stages_that_do_not_exist_are_refused(indices):
    with pytest.raises(ConfigError, match="stages are numbered 0 to 1, or -2 to -1, got"):
        video().forward_intermediates(CLIPS, indices)


@pytest.mark.parametrize("kept", [True, "selective"])
def test_checkpointing_may_be_set_later(kept):
    pixels = torch.randn(1, 3, 4, 32, 32)
    model, plain = video().train(), video().train()
    model.set_grad_checkpointing(kept)

    for one in (model, plain):
        one(pixels).sum().backward()

    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
    model.set_grad_checkpointing(False)
    assert all(block.tokenwise_in_training for block in model.blocks)


def test_parameter_groups_of_timm_find_blocks_and_what_is_not_decayed(pair):
    theirs, ours = pair
    expected = {n.rpartition(".")[2] for n in theirs.no_weight_decay()}

    groups = param_groups_layer_decay(
        ours, no_weight_decay_list=ours.no_weight_decay(), layer_decay=0.5
    )

    assert {name.rpartition(".")[2] for name in ours.no_weight_decay()} == expected
    number_of = {id(p): n for n, p in ours.named_parameters()}
    scales = {number_of[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    assert scales.keys() == dict(ours.named_parameters()).keys()
    of_blocks = [scales[f"blocks.{number}.attn.qkv.weight"] for number in range(10)]
    assert of_blocks == [0.5 ** (10 - number) for number in range(10)]
    assert scales["patch_embed.proj.weight"] == of_blocks[0] / 2
    assert scales["norm.weight"] == of_blocks[-1]
    assert scales["head.projection.weight"] == 1


def test_pixels_may_have_other_channels():
    model = create_model("mvitv2_s_16x4", input_size=(2, 32, 32), in_chans=1, num_classes=2)

    assert model(torch.randn(1, 1, 2, 32, 32)).shape == (1, 2)
    with pytest.raises(ValueError, match=r"shape \(B, 1, T, H, W\), got \(1, 3, 2, 32, 32\)"):
        model(torch.randn(1, 3, 2, 32, 32))
