"""Whole models and single attentions against torchvision's, with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from renaming import TORCHVISION, from_torchvision, renamed
from torchvision.models.video import mvit

from slowfast_mvit.fast import create_model
from slowfast_mvit.models import BlockSpec
from slowfast_mvit.models.attention import MultiScaleAttention

MODELS = {"mvit_v2_s": "mvitv2_s_16x4", "mvit_v1_b": "mvitv1_b_16x4"}
INPUT_SIZE = (8, 128, 128)  # whole grids in every stage, at a ninth of the cost of the full size


def torchvision_model(name, monkeypatch):
    """torchvision's builder with another input size, which it does not offer."""

    def build(block_setting, stochastic_depth_prob, weights, progress, **settings):
        settings |= {"temporal_size": INPUT_SIZE[0], "spatial_size": INPUT_SIZE[1:]}
        settings = {"rel_pos_embed": False, "proj_after_attn": False, **settings}
        return mvit.MViT(block_setting=block_setting, dropout=0.0, **settings)

    monkeypatch.setattr(mvit, "_mvit", build)
    return getattr(mvit, name)()


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("mvit_v2_s", "folded"),
        pytest.param("mvit_v1_b", "plain", marks=pytest.mark.nightly),
        pytest.param("mvit_v2_s", "plain", marks=pytest.mark.nightly),
        pytest.param("mvit_v1_b", "folded", marks=pytest.mark.nightly),
    ],
)
def test_logits_and_gradients_are_those_of_torchvision(name, attention, monkeypatch):
    torch.manual_seed(0)
    theirs = torchvision_model(name, monkeypatch)
    ours = create_model(
        MODELS[name], input_size=INPUT_SIZE, attention=attention, drop_path=0.0, head_dropout=0.0
    )
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    pixels, labels = torch.randn(1, 3, *INPUT_SIZE), torch.tensor([3])

    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs(pixels), rtol=0, atol=1e-5)
    # Gradients in float64: in float32 two tokens of a max pooling may be so close that rounding
    # decides which of them gets the whole gradient.
    theirs, ours, pixels = theirs.double(), ours.double(), pixels.double()
    F.cross_entropy(theirs(pixels), labels).backward()
    F.cross_entropy(ours(pixels), labels).backward()

    their_gradients = from_torchvision({n: p.grad for n, p in theirs.named_parameters()})
    for parameter_name, parameter in ours.named_parameters():
        gradient = their_gradients[parameter_name]
        atol = 1e-5 * gradient.abs().max().item() + 1e-6
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=atol, msg=parameter_name)


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_gives_the_logits_of_torchvision(name, monkeypatch):
    torch.manual_seed(0)
    theirs = torchvision_model(name, monkeypatch).eval()
    ours = create_model(MODELS[name], input_size=INPUT_SIZE).eval()
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    pixels = torch.randn(1, 3, *INPUT_SIZE)

    with torch.inference_mode():
        expected, actual = theirs(pixels), ours(pixels)

    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["folded", "plain"])
@pytest.mark.parametrize("run_thw", [(4, 8, 8), (2, 16, 8)], ids=["trained grid", "another grid"])
@pytest.mark.parametrize("stride_q", [(1, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("stride_kv", [(1, 1, 1), (1, 4, 4)])
def test_one_attention_is_that_of_torchvision(stride_kv, stride_q, run_thw, attention):
    torch.manual_seed(0)
    theirs = mvit.MultiscaleAttention(
        [4, 8, 8],
        32,
        64,
        2,
        kernel_q=[3, 3, 3],
        kernel_kv=[3, 3, 3],
        stride_q=list(stride_q),
        stride_kv=list(stride_kv),
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        dropout=0.0,
        norm_layer=lambda dim: torch.nn.LayerNorm(dim, eps=1e-6),
    )
    spec = BlockSpec(
        dim=32,
        dim_att=64,
        dim_out=64,
        num_heads=2,
        input_thw=(4, 8, 8),
        stride_q=stride_q,
        stride_kv=stride_kv,
    )
    ours = MultiScaleAttention(spec, attention=attention)
    rules = [*TORCHVISION, (r"^project\.0", "proj")]
    rules += [(r"^pool_([qkv])\.norm_act\.0", r"norm_\1"), (r"^pool_([qkv])\.pool", r"pool_\1")]
    ours.load_state_dict(renamed(theirs.state_dict(), rules))
    tokens = torch.randn(2, 1 + math.prod(run_thw), 32)

    expected, expected_thw = theirs(tokens, run_thw)
    actual, actual_thw = ours(tokens, run_thw)

    assert actual_thw == expected_thw
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)
