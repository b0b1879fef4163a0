"""A whole model on a GPU, by the kernels and written out; needs a GPU, there is no stand-in."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F

from slowfast_mvit.fast import create_model

DEVICE = "cuda"


def small_model(**options):
    """MViTv2-S on 4 frames of 64 pixels, without dropout; the same weights each time."""
    torch.manual_seed(0)
    return create_model(
        "mvitv2_s_16x4",
        num_classes=7,
        input_size=(4, 64, 64),
        drop_path=0.0,
        head_dropout=0.0,
        **options,
    ).to(DEVICE)


def logits_and_gradients(model, clips, labels, precision=None):
    """Both in float64, whatever they were computed in."""
    autocast = torch.autocast(DEVICE, precision) if precision else contextlib.nullcontext()
    with autocast:
        logits = model(clips)
    F.cross_entropy(logits.double(), labels).backward()
    gradients = [parameter.grad.flatten().double() for parameter in model.parameters()]
    return logits.detach().double(), torch.cat(gradients)


def distances(results, exact):
    return [
        ((result - expected).norm() / expected.norm()).item()
        for result, expected in zip(results, exact, strict=True)
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_model_is_as_close_to_float64_as_when_it_is_written_out(precision):
    torch.manual_seed(1)
    clips = torch.randn(2, 3, 4, 64, 64, device=DEVICE)
    labels = torch.tensor([1, 5], device=DEVICE)

    ours = logits_and_gradients(small_model(), clips, labels, precision)

    plain = logits_and_gradients(small_model(attention="plain"), clips, labels, precision)
    exact_model = small_model(attention="plain").double()
    exact = logits_and_gradients(exact_model, clips.double(), labels)
    of_ours, of_plain = distances(ours, exact), distances(plain, exact)
    for our_distance, their_distance in zip(of_ours, of_plain, strict=True):
        assert our_distance <= 1.2 * their_distance + 2e-6
