"""torchvision's models with our blocks: the same numbers, names, hooks and replaced layers."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18
from torchvision.models.video import mvit

import slowfast_mvit as sm
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.fast.block import FastBlock

INPUT_SIZE = (4, 64, 64)


def small(name):
    """A model of torchvision at a small input size, with tables that count."""
    torch.manual_seed(0)
    original = mvit._mvit

    def build(block_setting, stochastic_depth_prob, weights, progress, **settings):
        settings |= {"temporal_size": INPUT_SIZE[0], "spatial_size": INPUT_SIZE[1:]}
        settings = {"rel_pos_embed": False, "proj_after_attn": False, **settings}
        return mvit.MViT(block_setting=block_setting, dropout=0.0, **settings)

    mvit._mvit = build
    try:
        return getattr(mvit, name)()
    finally:
        mvit._mvit = original


def pixels(batch_size=2):
    return torch.randn(batch_size, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def calls(monkeypatch):
    """The calls of our blocks."""
    counted = []
    forward = FastBlock.forward
    monkeypatch.setattr(
        FastBlock, "forward", lambda self, *args: counted.append(self) or forward(self, *args)
    )
    return counted


@pytest.mark.parametrize("name", ["mvit_v2_s", "mvit_v1_b"])
def test_logits_gradients_and_names_stay(name, calls):
    theirs = small(name).double()
    ours = sm.accelerate(copy.deepcopy(theirs))

    for model in (theirs, ours):
        F.cross_entropy(model(pixels().double()), torch.tensor([3, 4])).backward()

    assert len(calls) == len(ours.blocks)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for (parameter_name, expected), actual in zip(
        theirs.named_parameters(), ours.parameters(), strict=True
    ):
        torch.testing.assert_close(
            actual.grad, expected.grad, rtol=1e-8, atol=1e-10, msg=parameter_name
        )
    with torch.inference_mode():
        torch.testing.assert_close(
            ours.float().eval()(pixels()), theirs.float().eval()(pixels()), atol=1e-5, rtol=0
        )


def test_copies_saved_weights_and_training_work():
    theirs = small("mvit_v2_s")
    ours = copy.deepcopy(sm.accelerate(copy.deepcopy(theirs)))
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    buffer.seek(0)
    ours = torch.load(buffer, weights_only=False)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (theirs, ours)]
    for model, optimizer in zip((theirs, ours), optimizers, strict=True):
        model(pixels()).sum().backward()
        optimizer.step()
    other = small("mvit_v2_s")

    torch.testing.assert_close(ours(pixels()), theirs(pixels()), atol=1e-4, rtol=1e-3)
    ours.load_state_dict(other.state_dict(), assign=True)
    torch.testing.assert_close(ours(pixels()), other(pixels()), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "layer", ["", "attn", "attn.qkv", "attn.pool_q.pool", "mlp", "mlp.0", "norm1"]
)
def test_a_hook_fires_and_the_result_stays(layer):
    ours = sm.accelerate(small("mvit_v2_s").eval())
    expected, seen = ours(pixels()), []
    ours.blocks[1].get_submodule(layer).register_forward_hook(lambda *args: seen.append(args[2]))

    actual = ours(pixels())

    assert len(seen) == 1
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


class Doubled(nn.Module):
    """An adapter round a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *args):
        out = self.layer(*args)
        return (2 * out[0], *out[1:]) if isinstance(out, tuple) else 2 * out


@pytest.mark.parametrize("layer", ["attn.qkv", "attn.project.0", "mlp.3", "attn", "mlp"])
def test_a_replaced_layer_is_used(layer):
    theirs = small("mvit_v2_s").eval()
    ours = sm.accelerate(copy.deepcopy(theirs))
    for model in (theirs, ours):
        parent, _, name = layer.rpartition(".")
        owner = model.blocks[2].get_submodule(parent)
        setattr(owner, name, Doubled(getattr(owner, name)))

    torch.testing.assert_close(ours(pixels()), theirs(pixels()), atol=1e-5, rtol=0)


def test_stochastic_depth_has_the_rate_of_the_block(calls):
    theirs = small("mvit_v2_s").train()
    ours = sm.accelerate(copy.deepcopy(theirs))
    for block in (*theirs.blocks, *ours.blocks):
        block.stochastic_depth.p = 1 - 1e-12  # drops every branch

    torch.testing.assert_close(ours(pixels()), theirs(pixels()), atol=1e-5, rtol=0)
    assert len(calls) == len(ours.blocks)


@pytest.mark.parametrize("build", [resnet18, lambda: sm.create_model("mvitv2_s_16x4")])
def test_other_models_are_refused(build):
    with pytest.raises(ConfigError, match="accelerate takes torchvision's"):
        sm.accelerate(build())
