"""``torch.compile`` sees all of the model: one graph, few compilations, the same numbers.

``fullgraph=True`` refuses a graph break. The backends are those that compile nothing: "eager" runs
what was traced, "aot_eager" traces the backward pass and the recomputation as well.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from exactness import allowed
from reference_models import fill
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.fast import create_model

# A block as the first of MViTv2, and one that begins a stage: wider, with pooled queries.
SMALL = {
    "input_size": (4, 48, 48),
    "num_classes": 5,
    "embed_dim": 8,
    "depth": 2,
    "dim_mul": [[1, 2.0]],
    "head_mul": [[1, 2.0]],
    "pool_q_stride": [[0, 1, 1, 1], [1, 1, 2, 2]],
    "pool_kv_stride_adaptive": [1, 4, 4],
    "pool_kvq_kernel": [3, 3, 3],
}


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()


def small(**options):
    torch.manual_seed(0)
    return fill(mvit_from_lists(**SMALL, **options))


def compiled(model: nn.Module, backend: str = "eager"):
    """The model, compiled without graph breaks, and what counts the compilations."""
    counter = CompileCounterWithBackend(backend)
    return torch.compile(model, backend=counter, fullgraph=True), counter


def clips(num_clips, size=(4, 48, 48)):
    return torch.randn(num_clips, 3, *size, generator=torch.Generator().manual_seed(num_clips))


def loss_of(model, pixels, seed=1, dtype=torch.float32):
    torch.manual_seed(seed)  # of dropout and drop path
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        logits = model(pixels)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, torch.arange(len(pixels)))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.nightly
def test_a_training_step_of_s_is_one_graph():
    model = create_model("mvitv2_s_16x4", num_classes=5, input_size=(2, 32, 32))
    call, counter = compiled(model)

    for seed in (1, 2):
        loss_of(call, clips(2, (2, 32, 32)), seed=seed).backward()

    assert counter.frame_count == 1
    assert all(p.grad is not None for p in model.parameters())


def test_one_more_compilation_does_for_all_other_batches():
    model, plain_model = small(), small(attention="plain")
    double = small(attention="plain").double()
    call, counter = compiled(model)

    counts = []
    for num_clips in (2, 3, 4, 5):
        pixels = clips(num_clips)
        actual = gradients(model, loss_of(call, pixels))
        plain = gradients(plain_model, loss_of(plain_model, pixels))
        exact = gradients(double, loss_of(double, pixels.double()))
        for name, gradient in exact.items():
            error, plain_error = ((one[name] - gradient).norm() for one in (actual, plain))
            assert error <= allowed(plain_error), name
        counts.append(counter.frame_count)

    assert counts == [1, 2, 2, 2]


def test_training_and_evaluation_in_turns_are_compiled_once_each():
    model = small(drop_path=0.5, dropout=0.1)
    call, counter = compiled(model)

    for seed in range(3):
        loss_of(call, clips(2), seed=seed).backward()
        with torch.inference_mode():
            call.eval()(clips(2))
        call.train()

    assert counter.frame_count == 2


@pytest.mark.parametrize(
    ("kept", "dtype", "tolerance"),
    [
        (False, torch.float32, 1e-5),
        # The patches are multiplied in bfloat16 here, in float32 elsewhere on some CPUs.
        ("selective", torch.bfloat16, 1e-2),
        pytest.param(True, torch.float32, 1e-5, marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_a_training_step_has_the_same_numbers_and_masks(kept, dtype, tolerance):
    model = small(drop_path=0.5, activation_checkpointing=kept)
    expected_loss = loss_of(model, clips(2), dtype=dtype)
    expected = gradients(model, expected_loss)
    call, counter = compiled(model, "aot_eager")

    for seed in (3, 1):  # what was traced draws other masks with another seed
        loss = loss_of(call, clips(2), seed=seed, dtype=dtype)
        actual = gradients(model, loss)

    torch.testing.assert_close(loss, expected_loss)
    for name, gradient in expected.items():
        assert (actual[name] - gradient).norm() <= 1e-6 + tolerance * gradient.norm(), name
    assert counter.frame_count == 1
