"""A fast block can be hooked, wrapped and changed like any ``nn.Module``."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize, prune

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.fast import plan
from slowfast_mvit.fast.block import FastBlock
from slowfast_mvit.models.attention import plain_attention

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


class Recorder(nn.Module):
    """A wrapper that an inspection tool puts around a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        self.shape = x.shape
        return self.layer(x)


ALL_TOKENS = 1 + 2 * 6 * 6  # the class token and the grid of the last block


@pytest.mark.parametrize(
    "name", ["norm", "blocks.2", *(f"blocks.2.{name}" for name in LAYERS if name != "proj")]
)
def test_a_hook_sees_all_tokens_of_the_last_block(name):
    fast, plain = models()
    shapes = []
    for model in (fast, plain):
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out: shapes.append((out[0] if isinstance(out, tuple) else out).shape)
        )

    assert_same_function(fast, plain)

    half = len(shapes) // 2
    assert shapes[:half] == shapes[half:]


@pytest.mark.parametrize("name", ["norm", "blocks.2.norm2", "blocks.2.mlp", "blocks.2.mlp.act"])
def test_a_replaced_layer_gets_all_tokens_of_the_last_block(name):
    both = models()
    for model in both:
        parent, _, last = name.rpartition(".")
        layer = model.get_submodule(name)
        setattr(model.get_submodule(parent), last, Recorder(layer))

    assert_same_function(*both)

    assert both[0].get_submodule(name).shape[:2] == (2, ALL_TOKENS)


def test_blocks_and_norm_called_one_by_one_give_all_tokens():
    fast, plain = models()

    tokens, thw = fast.embed(pixels())
    for block in fast.blocks:
        tokens, thw = block(tokens, thw)
    tokens = fast.norm(tokens)

    assert tokens.shape == (2, ALL_TOKENS, 32)
    torch.testing.assert_close(tokens, plain.forward_features(pixels()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast.forward_features(pixels()), tokens)
    torch.testing.assert_close(fast.forward_head(tokens), fast(pixels()))


@pytest.mark.parametrize("training", [False, True])
def test_the_last_block_computes_only_the_class_token_where_nothing_reads_the_others(
    training, monkeypatch
):
    fast, _ = models()
    fast.train(training)
    fast.blocks[FIRST_OF_A_STAGE].register_forward_hook(lambda *_: None)
    shapes, forward = [], FastBlock.forward

    def record(block, *inputs, **options):
        out = forward(block, *inputs, **options)
        shapes.append(tuple(out[0].shape))
        return out

    monkeypatch.setattr(FastBlock, "forward", record)

    fast(pixels()).sum().backward()

    assert shapes[LAST] == (2, 1, 32)
    assert all(parameter.grad is not None for parameter in fast.parameters())


def test_the_hooks_of_fsdp_read_no_tokens():
    fast, _ = models()
    expected = fast(pixels())
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        for part in (fast.blocks[LAST].mlp.fc1, fast.blocks[LAST], fast):
            fully_shard(part, mesh=init_device_mesh("cpu", (1,)))

        assert plan.class_token_is_enough(fast, FastBlock)
        torch.testing.assert_close(fast(pixels()), expected)
        fast.blocks[LAST].register_forward_hook(lambda *_: None)
        assert not plan.class_token_is_enough(fast, FastBlock)
    finally:
        distributed.destroy_process_group()


def test_a_replaced_forward_features_is_classified():
    fast, _ = models()
    features = torch.randn(2, ALL_TOKENS, 32)

    fast.forward_features = lambda _: features

    assert torch.equal(fast(pixels()), fast.forward_head(features))


def test_another_scaled_dot_product_is_used():
    both = models()
    untouched = both[0](pixels())
    for model in both:
        model.blocks[FIRST_OF_A_STAGE].attn.scaled_dot_product = lambda *inputs, **options: (
            plain_attention(*inputs, **options).relu()
        )

    assert not torch.allclose(both[0](pixels()), untouched, rtol=0, atol=5e-5)
    assert_same_function(*both)


def test_pruned_position_tables_stay_pruned():
    both = models()
    for model in both:
        prune.l1_unstructured(model.blocks[FIRST_OF_A_STAGE].attn, "rel_pos_h", amount=0.5)
        prune.random_unstructured(model.patch_embed.proj, "weight", amount=0.5)
        model.patch_embed.proj.weight_mask.copy_(both[0].patch_embed.proj.weight_mask)

    assert_same_function(*both)


def loss_of(model, parameters, clip):
    return torch.func.functional_call(model, parameters, (clip.unsqueeze(0),)).square().sum()


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch.func.vmap
def test_function_transforms_have_the_numbers_of_the_plain_model():
    results = []
    for model in models():
        parameters = {name: one.detach() for name, one in model.named_parameters()}
        per_clip = torch.func.vmap(
            torch.func.grad(functools.partial(loss_of, model)), in_dims=(None, 0)
        )(parameters, pixels())
        tangents = {name: torch.ones_like(one) for name, one in parameters.items()}
        forward = functools.partial(loss_of, model, clip=pixels()[0])
        with sdpa_kernel(SDPBackend.MATH):  # PyTorch's fused kernels have no forward mode
            _, derivative = torch.func.jvp(forward, (parameters,), (tangents,))
        ensemble = {name: torch.stack([one, 2 * one]) for name, one in parameters.items()}
        of_each = torch.func.vmap(functools.partial(loss_of, model), in_dims=(0, None))
        results.append(
            [per_clip["blocks.1.attn.qkv.weight"], derivative, of_each(ensemble, pixels()[0])]
        )

    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-3)


def test_pickles_and_copies_compute_the_same():
    fast, _ = models()

    for copied in (pickle.loads(pickle.dumps(fast)), copy.deepcopy(fast)):
        assert torch.equal(copied(pixels()), fast(pixels()))
