"""Requirements on every MViT: any option, size and precision, and both attentions."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from exactness import needs_bfloat16_attention
from reference_models import fill

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.errors import ConfigError

SMALL = {
    "input_size": (4, 64, 64),
    "num_classes": 5,
    "embed_dim": 8,
    "num_heads": 1,
    "depth": 3,
    "dim_mul": [[1, 2.0]],
    "head_mul": [[1, 2.0]],
    "pool_q_stride": [[0, 1, 1, 1], [1, 1, 2, 2], [2, 1, 1, 1]],
    "pool_kv_stride_adaptive": [1, 4, 4],
    "pool_kvq_kernel": [3, 3, 3],
}
# Each names only what differs from SMALL.
OPTIONS = {
    "as it is": {},
    "no class token": {"cls_token": False},
    "mean pooling": {"mean_pooling": True},
    "mean pooling, no class token": {"mean_pooling": True, "cls_token": False},
    "widens in the mlp": {"dim_mul_in_att": False},
    "odd grid": {"input_size": (6, 72, 72)},
    "odd grids all the way": {"input_size": (10, 60, 60), "cls_token": False},
    "not square": {"input_size": (4, 64, 96)},
    "stride in time": {"pool_q_stride": [[0, 1, 1, 1], [1, 2, 2, 2]]},
    "stride in time, widens in the mlp": {
        "pool_q_stride": [[1, 2, 2, 2]],
        "pool_kv_stride_adaptive": [2, 4, 4],
        "dim_mul_in_att": False,
    },
    "key strides block by block": {
        "pool_kv_stride_adaptive": None,
        "pool_kv_stride": [[0, 1, 4, 4], [2, 1, 2, 2]],
    },
    "rel pos in space": {"rel_pos_temporal": False},
    "rel pos in time": {"rel_pos_spatial": False},
    "rel pos starts at zero": {"rel_pos_zero_init": True},
    "no rel pos": {"rel_pos_spatial": False, "rel_pos_temporal": False},
    "joint positions": {"abs_pos": "joint"},
    "joint positions, no class token": {"abs_pos": "joint", "cls_token": False},
    "separate positions": {"abs_pos": "separate"},
    "separate positions, no class token": {"abs_pos": "separate", "cls_token": False},
    "norm_stem": {"norm_stem": True},
    "no residual pooling": {"residual_pooling": False},
    "no qkv bias": {"qkv_bias": False},
    "kernel one wider than the stride": {"pool_kvq_kernel": None},
    "several heads": {"num_heads": 2, "head_mul": [[2, 2.0]], "dim_mul": [[2, 1.5]]},
}


def small(**options):
    torch.manual_seed(0)
    return mvit_from_lists(**{**SMALL, **options})


def gradients(model, pixels):
    """Logits and the gradient of every parameter, of a loss that tells all classes apart."""
    logits = model(pixels)
    F.cross_entropy(logits, torch.arange(len(logits))).backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_folded_attention_is_plain_attention(options):
    plain = fill(small(**options, attention="plain").double())
    folded = fill(small(**options, attention="folded").double())
    pixels = torch.randn(2, 3, *{**SMALL, **options}["input_size"], dtype=torch.float64)

    expected, expected_gradients = gradients(plain, pixels)
    actual, actual_gradients = gradients(folded, pixels)

    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    for name, gradient in expected_gradients.items():
        assert gradient.isfinite().all(), name
        torch.testing.assert_close(
            actual_gradients[name], gradient, rtol=1e-8, atol=1e-10, msg=name
        )


@pytest.mark.parametrize("attention", ["fast", "folded", "plain"])
def test_a_batch_may_be_empty(attention):
    logits = small(attention=attention)(torch.zeros(0, 3, 4, 32, 32))

    assert logits.shape == (0, 5)


@pytest.mark.parametrize("abs_pos", [None, "separate", "joint"])
@pytest.mark.parametrize("size", [(8, 64, 64), (2, 48, 80), (1, 64, 64), (5, 65, 63), (4, 16, 16)])
def test_any_size_works_at_run_time(size, abs_pos):
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    plain = fill(small(abs_pos=abs_pos, attention="plain").double().eval())
    folded = fill(small(abs_pos=abs_pos).double().eval())

    with torch.inference_mode():
        expected, actual = plain(pixels), folded(pixels)

    assert actual.shape == (2, 5)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "attention", ["plain", pytest.param("folded", marks=needs_bfloat16_attention)]
)
def test_bfloat16_autocast_stays_near_float32(attention):
    model = fill(small(attention=attention))
    pixels = torch.randn(2, 3, 4, 64, 64)

    expected, _ = gradients(model, pixels)
    with torch.autocast("cpu", torch.bfloat16):
        actual, autocast_gradients = gradients(model, pixels)

    torch.testing.assert_close(actual.float(), expected, rtol=0.1, atol=0.1)
    assert all(gradient.isfinite().all() for gradient in autocast_gradients.values())


def test_training_works_after_inference_mode():
    model = fill(small(input_size=(4, 80, 80)))  # a size that no other test uses
    pixels = torch.randn(2, 3, 4, 80, 80)
    with torch.inference_mode():
        expected = model(pixels)

    actual, _ = gradients(model, pixels)

    torch.testing.assert_close(actual, expected)


def test_the_default_device_does_not_matter():
    model = fill(small(input_size=(4, 40, 40)).eval())  # a size that no other test uses
    pixels = torch.randn(1, 3, 4, 40, 40)

    with torch.device("meta"):
        actual = model(pixels)

    assert torch.equal(actual, model(pixels))


def test_a_copy_of_a_used_model_gives_the_same():
    model = fill(small().eval())
    pixels = torch.randn(1, 3, 4, 64, 64)
    expected = model(pixels)

    actual = copy.deepcopy(model)(pixels)

    assert torch.equal(actual, expected)


V1 = {"dim_mul_in_att": False, "residual_pooling": False, "abs_pos": "separate"}
V1 |= {"rel_pos_spatial": False, "rel_pos_temporal": False, "pool_kvq_kernel": None}


@pytest.mark.parametrize(
    ("options", "attention"),
    [
        ({}, "fast"),
        (V1, "plain"),
        *(
            pytest.param(options, attention, marks=pytest.mark.nightly)
            for options in ({}, {"cls_token": False}, {"mean_pooling": True}, V1)
            for attention in ("fast", "folded", "plain")
        ),
    ],
)
def test_an_exported_batch_may_have_any_size(options, attention):
    model = fill(small(input_size=(4, 32, 32), attention=attention, **options).eval())
    batch = torch.export.Dim("batch", min=1, max=64)

    exported = torch.export.export(
        model, (torch.randn(2, 3, 4, 32, 32),), dynamic_shapes=({0: batch},)
    )

    calls = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert {name for name in calls if "slowfast_mvit" in name} == set()  # no operator of ours
    for num_clips in (1, 2, 5):
        pixels = torch.randn(num_clips, 3, 4, 32, 32)
        torch.testing.assert_close(exported.module()(pixels), model(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.nightly
def test_compilation_needs_no_graph_break():
    model = fill(small(input_size=(4, 56, 56)).eval())
    pixels = torch.randn(1, 3, 4, 56, 56)

    compiled = torch.compile(model, backend="eager", fullgraph=True)

    torch.testing.assert_close(compiled(pixels), model(pixels))


def test_activation_checkpointing_changes_no_gradient():
    pixels = torch.randn(2, 3, 4, 64, 64)
    expected, expected_gradients = gradients(fill(small()), pixels)

    actual, actual_gradients = gradients(fill(small(activation_checkpointing=True)), pixels)

    assert torch.equal(actual, expected)
    assert all(torch.equal(actual_gradients[n], g) for n, g in expected_gradients.items())


def test_dropouts_and_drop_path_are_gone_in_evaluation():
    pixels = torch.randn(2, 3, 4, 64, 64)
    expected = fill(small())(pixels)
    model = fill(small(dropout=0.5, head_dropout=0.5, drop_path=0.5))

    trained, evaluated = model(pixels), model.eval()(pixels)

    assert not torch.allclose(trained, expected)
    assert torch.equal(evaluated, expected)


def test_a_detached_head_trains_nothing_below_it():
    model = small(detach_head=True)

    model(torch.randn(1, 3, 4, 64, 64)).sum().backward()

    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"head.projection.weight", "head.projection.bias"}


def test_first_values_are_those_of_the_published_models():
    model = small(abs_pos="separate", embed_dim=64, rel_pos_zero_init=True)
    values = model.state_dict()

    for name, value in values.items():
        if "rel_pos" in name:
            assert not value.any(), name
        elif name == "patch_embed.proj.bias":
            assert value.abs().max() <= (3 * 3 * 7 * 7) ** -0.5  # PyTorch's own bound
        elif "norm" in name and name.endswith("weight"):
            assert (value == 1).all(), name
        elif name.endswith("bias"):
            assert (value == 0.02).all(), name
        elif value.numel() > 1000:
            assert value.std().item() == pytest.approx(0.02, rel=0.1), name


def test_the_head_may_start_smaller():
    full, scaled = small(), small(head_init_scale=0.001)

    torch.testing.assert_close(scaled.head.projection.weight, 0.001 * full.head.projection.weight)
    torch.testing.assert_close(scaled.head.projection.bias, 0.001 * full.head.projection.bias)


def test_names_that_some_recipes_do_not_decay():
    assert small().no_weight_decay_names() == {"cls_token", "rel_pos_h", "rel_pos_w", "rel_pos_t"}
    assert small(
        abs_pos="separate", rel_pos_spatial=False, rel_pos_temporal=False
    ).no_weight_decay_names() == {
        "cls_token",
        "pos_embed_spatial",
        "pos_embed_temporal",
        "pos_embed_class",
    }


@pytest.mark.parametrize("shape", [(3, 4, 64, 64), (1, 1, 4, 64, 64), (1, 4, 3, 64, 64)])
def test_pixels_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"pixels must have shape \(B, 3, T, H, W\), got"):
        small()(torch.zeros(shape))


def test_an_image_model_takes_images_and_clips_of_one_frame():
    options = {
        "input_size": (1, 64, 64),
        "patch_kernel": (7, 7),
        "patch_stride": (4, 4),
        "patch_padding": (3, 3),
        "pool_kvq_kernel": (1, 3, 3),
        "rel_pos_temporal": False,
    }
    model = small(**options).eval()
    images = torch.randn(2, 3, 64, 64)

    assert torch.equal(model(images), model(images.unsqueeze(2)))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\) or \(B, 3, 1, H, W\), got \(2, 3, 4,"):
        model(torch.zeros(2, 3, 4, 64, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"abs_pos": "joined"}, "no absolute positions named 'joined'"),
        ({"attention": "foldet"}, "no attention named 'foldet'. Did you mean 'folded'"),
        ({"patch_kernel": (7, 7)}, "patch kernel, stride and padding need three numbers each"),
    ],
)
def test_what_does_not_exist_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        small(**options)
