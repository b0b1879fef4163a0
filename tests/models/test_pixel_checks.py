"""Pixels that a model cannot take: the message has what was found, what is needed, and a remedy."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.data.views.pixels import normalise
from slowfast_mvit.errors import PixelsError, UserError

SMALL = {"num_classes": 5, "embed_dim": 8, "depth": 1, "pool_kvq_kernel": (3, 3, 3)}
IMAGE = {"patch_kernel": (7, 7), "patch_stride": (4, 4), "patch_padding": (3, 3)}
IMAGE |= {"pool_kvq_kernel": (1, 3, 3), "rel_pos_temporal": False}


def video_model(**options):
    return mvit_from_lists(**SMALL | {"input_size": (4, 32, 32)} | options).eval()


def image_model():
    return video_model(input_size=(1, 32, 32), **IMAGE)


CLIP = torch.randn(2, 3, 4, 32, 32)


def assert_refused(model, pixels, *parts):
    with pytest.raises(PixelsError) as refused:
        model(pixels)
    for part in parts:
        assert part in str(refused.value)
    assert isinstance(refused.value, UserError)


def with_remedy(message, pixels):
    """The pixels after the expression at the end of a message."""
    return eval(message.rpartition(": ")[2], {"pixels": pixels})  # noqa: S307


@pytest.mark.parametrize(
    ("layout", "found"),
    [
        (lambda clip: clip[0], "one clip"),
        (lambda clip: clip[0].transpose(0, 1), "(T, C, H, W)"),
        (lambda clip: clip[0].permute(1, 2, 3, 0), "(T, H, W, C)"),
        (lambda clip: clip.transpose(1, 2), "(B, T, C, H, W)"),
        (lambda clip: clip.permute(0, 2, 3, 4, 1), "(B, T, H, W, C)"),
        (lambda clip: clip.unflatten(0, (1, 2)), "(B, V, C, T, H, W)"),
    ],
)
def test_the_remedy_for_another_layout_of_clips_works(layout, found):
    model, pixels = video_model(), layout(CLIP)

    with pytest.raises(PixelsError) as refused:
        model(pixels)

    message = str(refused.value)
    assert f"shape (B, 3, T, H, W), got {tuple(pixels.shape)}. If these are " in message
    assert found in message
    remedied = with_remedy(message, pixels)
    assert torch.equal(remedied, CLIP[: len(remedied)])
    model(remedied)


@pytest.mark.parametrize(
    "layout",
    [
        lambda images: images[0],
        lambda images: images[0].permute(1, 2, 0),
        lambda images: images.permute(0, 2, 3, 1),
    ],
)
def test_the_remedy_for_another_layout_of_images_works(layout):
    pixels = layout(CLIP[:, :, 0])

    with pytest.raises(PixelsError) as refused:
        image_model()(pixels)

    remedied = with_remedy(str(refused.value), pixels)
    assert torch.equal(remedied, CLIP[: len(remedied), :, 0])


@pytest.mark.parametrize(
    "shape", [(1, 1, 4, 32, 32), (2, 4), (), (1, 3, 0, 32, 32), (1, 3, 4, 0, 0)]
)
def test_other_shapes_are_refused(shape):
    assert_refused(video_model(), torch.zeros(shape), f"(B, 3, T, H, W), got {shape}")


@pytest.mark.parametrize(
    ("pixels", "parts"),
    [
        ([CLIP], ("got a list", "inputs[0]")),
        ((CLIP[0], CLIP[1]), ("got a tuple", "torch.stack(clips)")),
        (CLIP.numpy(), ("got a ndarray", "torch.from_numpy")),
        ({"video": CLIP}, ("got a dict",)),
        (None, ("got a NoneType",)),
    ],
)
def test_other_kinds_are_refused(pixels, parts):
    assert_refused(video_model(), pixels, "tensor (B, 3, T, H, W)", *parts)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_pixels_that_are_not_floating_point_are_refused(dtype):
    assert_refused(video_model(), CLIP.to(dtype), f"got {dtype}", "normalise(pixels, mean, std)")


def test_the_remedy_for_bytes_works():
    pixels = torch.zeros(2, 3, 4, 32, 32, dtype=torch.uint8)

    assert len(video_model()(normalise(pixels, [0.45] * 3, [0.225] * 3))) == 2


@pytest.mark.parametrize(
    ("of_model", "of_pixels"),
    [
        ("float64", "float32"),
        ("float32", "float64"),
        ("float32", "float16"),
        ("bfloat16", "float32"),
    ],
)
def test_pixels_of_another_precision_are_refused(of_model, of_pixels):
    model = video_model().to(getattr(torch, of_model))
    pixels = CLIP.to(getattr(torch, of_pixels))

    assert_refused(
        model, pixels, f"torch.{of_pixels} and the weights of the model torch.{of_model}"
    )

    model(pixels.to(getattr(torch, of_model)))


def test_autocast_takes_pixels_of_every_precision_but_float64():
    model = video_model()

    with torch.autocast("cpu", torch.bfloat16):
        model(CLIP.bfloat16())
        assert_refused(model, CLIP.double(), "torch.float64")


def test_a_model_without_values_and_one_elsewhere_are_refused():
    with torch.device("meta"):
        empty = video_model()

    assert_refused(empty, CLIP, "meta device", "model.to_empty(device='cpu')")
    assert_refused(
        video_model(), CLIP.to("meta"), "on meta and the model on cpu", "pixels.to('cpu')"
    )
    assert empty(CLIP.to("meta")).shape == (2, 5)


def test_a_hook_may_cast_the_first_weights_before_their_use():
    model = video_model()
    model.patch_embed.proj.bfloat16()
    model.patch_embed.proj.register_forward_pre_hook(lambda layer, _: layer.float() and None)

    assert model(CLIP).dtype == torch.float32


class Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, pixels):
        return self.layer(pixels)


def test_a_wrapped_first_layer_takes_what_it_takes():
    model = video_model()
    expected = model(CLIP)

    model.patch_embed.proj = Wrapped(model.patch_embed.proj)

    assert torch.equal(model(CLIP), expected)


def test_symbolic_tracing_names_what_works_instead():
    with pytest.raises(PixelsError, match=re.escape("use torch.export.export")):
        torch.fx.symbolic_trace(video_model())
