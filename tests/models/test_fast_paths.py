"""Every fast path of the default model at once, against the plain model in float64."""

import pytest
import torch
import torch.nn.functional as F
from exactness import allowed, needs_bfloat16_attention
from reference_models import SMALL_MODELS, clip, fill, from_keys

from slowfast_mvit.fast import plan
from slowfast_mvit.fast.cpu import casting, native, pooled_attention

CASES = SMALL_MODELS["cases"]


@pytest.fixture(autouse=True)
def small_heads_too(monkeypatch):
    """The models are too small for attention in blocks to pay."""
    monkeypatch.setattr(plan, "MIN_SCORES", 0)


def answers(case, attention, *, double=False, autocast=False, seed=None):
    """Logits and gradients of one of the small models, with its weights or random ones."""
    keys = {**SMALL_MODELS["base"], **CASES[case]["overrides"]}
    torch.manual_seed(seed or 0)
    model = from_keys(keys, attention=attention)
    model = fill(model) if seed is None else model
    side = keys["DATA.TRAIN_CROP_SIZE"]
    is_image = keys.get("MVIT.PATCH_2D", False)
    pixels = clip(2, 3, *(() if is_image else (keys["DATA.NUM_FRAMES"],)), side, side).float()
    if double:
        model, pixels = model.double(), pixels.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(pixels)
        F.cross_entropy(logits, torch.tensor([1, 2])).backward()
    gradients = {name: p.grad.double() for name, p in model.named_parameters()}
    return logits.detach().double(), gradients


def errors(actual, expected):
    """Root mean square distance of the logits, and of all gradients together."""
    (logits, gradients), (expected_logits, expected_gradients) = actual, expected
    squares = [(gradients[name] - one).square().sum() for name, one in expected_gradients.items()]
    return (logits - expected_logits).square().mean().sqrt(), torch.stack(squares).sum().sqrt()


@pytest.mark.parametrize("case", CASES)
def test_float32_is_as_near_to_float64_as_the_plain_model(case):
    """In the median of three models: in one, a tie of a max pooling may round to another token."""
    found = []
    for seed in (None, 0, 1):
        exact = answers(case, "plain", double=True, seed=seed)
        found.append([errors(answers(case, form, seed=seed), exact) for form in ("fast", "plain")])

    fast, plain = torch.tensor(found).median(dim=0).values
    assert (fast <= allowed(plain)).all(), (fast, plain)


@pytest.mark.parametrize("autocast", [False, True])
def test_what_is_projected_again_need_not_be_kept(autocast, monkeypatch):
    # Where only PyTorch has bfloat16 instructions, its attention is taken, for which qkv is kept.
    monkeypatch.setattr(casting, "HAS_BF16_INSTRUCTIONS", False)

    def answers_and_shapes():
        shapes = set()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda kept: shapes.add(tuple(kept.shape)) or kept, lambda kept: kept
        ):
            return answers("v2_base", "fast", autocast=autocast), shapes

    (_, again), few = answers_and_shapes()
    monkeypatch.setattr(pooled_attention, "PROJECTED_AGAIN_TO_WIDTH", 0)
    (_, kept), many = answers_and_shapes()

    assert all(torch.equal(again[name], gradient) for name, gradient in kept.items())
    assert {shape[2] for shape in many - few} == {3}  # (B, L, 3, N, D)


@pytest.mark.parametrize(
    ("in_torch", "in_kernels"),
    [
        (False, False),
        pytest.param(True, False, marks=needs_bfloat16_attention),
        pytest.param(
            True,
            True,
            marks=pytest.mark.skipif(
                not native.multiplies_bfloat16(), reason="this CPU has no bfloat16 products"
            ),
        ),
    ],
)
def test_bfloat16_is_as_near_to_float64_as_the_plain_model(in_torch, in_kernels, monkeypatch):
    """Over models with random weights: a single one may round luckily."""
    monkeypatch.setattr(casting, "HAS_BF16_INSTRUCTIONS", in_torch)
    monkeypatch.setattr(native, "multiplies_bfloat16", lambda: in_kernels)
    ratios = []
    for seed in range(12):
        exact = answers("v2_base", "plain", double=True, seed=seed)
        plain = errors(answers("v2_base", "plain", autocast=True, seed=seed), exact)
        fast = errors(answers("v2_base", "fast", autocast=True, seed=seed), exact)
        ratios.append([one / other for one, other in zip(fast, plain, strict=True)])

    of_logits, of_gradients = torch.tensor(ratios).log().mean(dim=0).exp()
    assert of_logits <= 1.1
    assert of_gradients <= 1.1


class Doubled(torch.nn.Linear):
    """A linear layer that somebody has changed, for adapters or quantisation."""

    def forward(self, x):
        return 2 * super().forward(x)


class ScaledNorm(torch.nn.LayerNorm):
    def forward(self, x):
        return 3 * super().forward(x)


def model_and_clip():
    keys = {**SMALL_MODELS["base"], **CASES["v2_base"]["overrides"]}
    side = keys["DATA.TRAIN_CROP_SIZE"]
    models = [fill(from_keys(keys, attention=attention)) for attention in ("fast", "plain")]
    return models, clip(1, 3, keys["DATA.NUM_FRAMES"], side, side).float()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("attn.qkv", Doubled),
        ("mlp.fc1", Doubled),
        ("attn.norm_k", ScaledNorm),
        ("norm1", ScaledNorm),
    ],
)
def test_layers_that_somebody_replaced_are_called(name, changed):
    models, pixels = model_and_clip()

    for model in models:
        model.blocks[1].get_submodule(name).__class__ = changed

    torch.testing.assert_close(models[0](pixels), models[1](pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["attn", "attn.qkv", "attn.proj", "mlp", "mlp.fc2", "norm2"])
def test_hooks_are_called(name):
    models, pixels = model_and_clip()
    seen = [[], []]

    for model, found in zip(models, seen, strict=True):
        module = model.blocks[1].get_submodule(name)
        module.register_forward_hook(lambda module, given, out, found=found: found.append(out))
        model(pixels)

    (fast,), (plain,) = seen
    fast, plain = (out[0] if isinstance(out, tuple) else out for out in (fast, plain))
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


def test_gradients_of_a_batch_whose_branches_are_dropped_are_zeros_and_not_none():
    keys = {**SMALL_MODELS["base"], **CASES["v2_base"]["overrides"]}
    model = fill(from_keys(keys, attention="fast")).train()
    _, pixels = model_and_clip()
    for block in model.blocks[1:]:
        block.drop_path.rate = 1.0 - 1e-9

    model(pixels).sum().backward()

    for name, parameter in model.blocks[1:].named_parameters():
        assert parameter.grad is not None, name
    assert model.blocks[1].attn.proj.weight.grad.count_nonzero() == 0
    assert model.blocks[0].attn.proj.weight.grad.count_nonzero() > 0
