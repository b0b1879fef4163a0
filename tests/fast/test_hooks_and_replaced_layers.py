"""A fast block can be hooked, wrapped and changed like any ``nn.Module``."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.fast import plan

LAYERS = [
    "norm1",
    "attn",
    "attn.qkv",
    "attn.pool_q",
    "attn.pool_k",
    "attn.pool_v",
    "attn.norm_q",
    "attn.norm_k",
    "attn.norm_v",
    "attn.proj",
    "attn.dropout",
    "proj",
    "drop_path",
    "norm2",
    "mlp",
    "mlp.fc1",
    "mlp.act",
    "mlp.fc2",
    "mlp.dropout",
]
FIRST_OF_A_STAGE, LAST = 1, 2
SMALL = {
    "input_size": (4, 48, 48),
    "num_classes": 5,
    "embed_dim": 16,
    "depth": 3,
    "dim_mul": [[1, 2.0]],
    "head_mul": [[1, 2.0]],
    "pool_q_stride": [[0, 1, 1, 1], [1, 1, 2, 2], [2, 1, 1, 1]],
    "pool_kv_stride_adaptive": [1, 4, 4],
    "pool_kvq_kernel": [3, 3, 3],
}


@pytest.fixture(autouse=True)
def small_heads_too(monkeypatch):
    """The clips are too small for attention in blocks to pay."""
    monkeypatch.setattr(plan, "MIN_SCORES", 0)


def models():
    """The fast and the plain model with the same weights, copied and moved as users do."""
    torch.manual_seed(0)
    fast, plain = (mvit_from_lists(**SMALL, attention=attention) for attention in ("fast", "plain"))
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    plain.load_state_dict(fast.state_dict())
    return [copy.deepcopy(model).to("cpu", torch.float32).eval() for model in (fast, plain)]


def pixels(seed=0):
    return torch.randn(2, 3, 4, 48, 48, generator=torch.Generator().manual_seed(seed))


def assert_same_function(*models):
    logits = [model(pixels()) for model in models]
    gradients = []
    for out, model in zip(logits, models, strict=True):
        of_each = torch.autograd.grad(out.square().sum(), list(model.parameters()))
        gradients.append(torch.cat([gradient.flatten() for gradient in of_each]))

    fast, plain = gradients
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)
    assert (fast - plain).norm() < 1e-4 * plain.norm()


@pytest.mark.parametrize(
    "kind",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_every_hook_on_every_layer_is_called_once_for_each_call(kind):
    fast, _ = models()
    blocks = {number: fast.blocks[number] for number in (FIRST_OF_A_STAGE, LAST)}
    layers = {
        (number, name): block.get_submodule(name)
        for number, block in blocks.items()
        for name in LAYERS
        if name != "proj" or hasattr(block, "proj")
    }

    for about, layer in layers.items():
        called = []
        handle = getattr(layer, kind)(lambda *_, called=called: called.append(1))
        fast(pixels()).sum().backward()
        handle.remove()
        expected = 2 if about[1] in ("drop_path", "mlp.dropout") else 1
        assert len(called) == expected, about


@pytest.mark.parametrize("name", LAYERS)
def test_a_hook_may_change_what_a_layer_gives(name):
    both = models()

    for model in both:
        layer = model.blocks[FIRST_OF_A_STAGE].get_submodule(name)
        layer.register_forward_hook(
            lambda _, __, out: (1.5 * out[0], *out[1:]) if isinstance(out, tuple) else 1.5 * out
        )

    assert_same_function(*both)


class LowRank(nn.Module):
    """An adapter around a linear layer, as libraries for fine-tuning make them."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        generator = torch.Generator().manual_seed(1)
        self.down = nn.Parameter(torch.randn(2, base.in_features, generator=generator))
        self.up = nn.Parameter(torch.randn(base.out_features, 2, generator=generator) * 0.05)

    def forward(self, x):
        return self.base(x) + x @ self.down.t() @ self.up.t()


class Rectified(nn.Module):
    """A wrapper that passes on whatever its layer takes."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *given):
        out = self.layer(*given)
        return (out[0].relu(), *out[1:]) if isinstance(out, tuple) else out.relu()


class Absolute(nn.Module):
    def forward(self, weight):
        return weight.abs()


def parametrized(layer):
    return parametrize.register_parametrization(layer, "weight", Absolute())


def pruned(layer):
    return prune.l1_unstructured(layer, "weight", amount=0.5)


def with_another_forward(layer):
    forward = layer.forward
    layer.forward = lambda *given: forward(*given).relu()
    return layer


CHANGES = {
    "qkv with an adapter": ("attn.qkv", LowRank),
    "attn.proj with an adapter": ("attn.proj", LowRank),
    "fc1 with an adapter": ("mlp.fc1", LowRank),
    "proj with an adapter": ("proj", LowRank),
    "no norm of keys": ("attn.norm_k", lambda layer: nn.Identity()),
    "no norm1": ("norm1", lambda layer: nn.Identity()),
    "no norm2": ("norm2", lambda layer: nn.Identity()),
    "no mlp": ("mlp", lambda layer: nn.Identity()),
    "ReLU": ("mlp.act", lambda layer: nn.ReLU()),
    "another GELU": ("mlp.act", lambda layer: nn.GELU(approximate="tanh")),
    "a wrapped pooling": ("attn.pool_k", Rectified),
    "a wrapped attention": ("attn", Rectified),
    "a wrapped drop path": ("drop_path", Rectified),
    "a parametrized pooling": ("attn.pool_q", parametrized),
    "a parametrized qkv": ("attn.qkv", parametrized),
    "a pruned fc2": ("mlp.fc2", pruned),
    "a pruned pooling": ("attn.pool_v", pruned),
    "another forward of qkv": ("attn.qkv", with_another_forward),
    "another forward of a norm": ("attn.norm_q", with_another_forward),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_put_in_the_place_of_a_layer_is_used(change, training):
    name, replace = CHANGES[change]
    both = models()
    fast, _ = both
    untouched = fast(pixels())

    for model in both:
        block = model.blocks[FIRST_OF_A_STAGE]
        parent, _, last = name.rpartition(".")
        setattr(block.get_submodule(parent), last, replace(block.get_submodule(name)))
        model.blocks[FIRST_OF_A_STAGE].train(training)

    assert not torch.allclose(fast(pixels()), untouched, rtol=0, atol=5e-5)
    assert_same_function(*both)


def test_hooks_for_all_modules_are_called_for_those_in_a_block():
    fast, _ = models()
    called = set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: called.add(module))
    try:
        fast(pixels())
    finally:
        handle.remove()

    assert called >= {module for name in LAYERS for module in [fast.blocks[1].get_submodule(name)]}


def test_one_line_of_the_log_says_why_blocks_run_plainly(caplog):
    fast, _ = models()
    plan._log.cache_clear()
    for block in fast.blocks[:3]:
        block.attn.register_forward_hook(lambda *_: None)

    with caplog.at_level("INFO", logger="slowfast_mvit"):
        fast(pixels())
        fast(pixels())

    assert [record.getMessage() for record in caplog.records] == [
        "a block runs in plain PyTorch: attn is hooked or replaced"
    ]
