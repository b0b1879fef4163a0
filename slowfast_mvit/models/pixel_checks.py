"""Checks of the pixels that a model is called with: kind, shape, dtype and device.

Only properties are read, no value, so nothing waits for a device, and the graphs of torch.compile
and torch.export contain nothing of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slowfast_mvit.errors import PixelsError

# Other kinds of input, by the name of their type -> the remedy.
_KINDS = {
    "list": "PySlowFast passes a list of pathways, and an MViT has one: pass inputs[0]. Clips of "
    "one size become a batch by torch.stack(clips)",
    "ndarray": "torch.from_numpy makes a tensor of it",
    "Proxy": "torch.fx.symbolic_trace cannot trace a model whose token grid depends on the pixels: "
    "use torch.export.export",
}
_KINDS["tuple"] = _KINDS["list"]

# (number of axes, axis of the channels) of another layout -> its name, and the remedy.
_CLIPS = {
    (4, 0): ("one clip, without the batch axis", "pixels.unsqueeze(0)"),
    (4, 1): ("frames (T, C, H, W)", "pixels.transpose(0, 1).unsqueeze(0)"),
    (4, 3): ("frames (T, H, W, C)", "pixels.permute(3, 0, 1, 2).unsqueeze(0)"),
    (5, 2): ("frames before channels, (B, T, C, H, W)", "pixels.transpose(1, 2)"),
    (5, 4): ("channels last, (B, T, H, W, C)", "pixels.permute(0, 4, 1, 2, 3)"),
    (6, 2): ("several views of each video, (B, V, C, T, H, W)", "pixels.flatten(0, 1)"),
}
_IMAGES = {
    (3, 0): ("one image, without the batch axis", "pixels.unsqueeze(0)"),
    (3, 2): ("one image, channels last", "pixels.permute(2, 0, 1).unsqueeze(0)"),
    (4, 3): ("channels last, (B, H, W, C)", "pixels.permute(0, 3, 1, 2)"),
    (5, 1): ("clips, and the model takes images", "pixels.transpose(1, 2).flatten(0, 1)"),
}


def check_pixels(pixels: Any, layer: nn.Module, *, channels: int, for_images: bool) -> None:
    """Check that pixels are a batch that this model can take.

    Args:
        pixels: the input of the model.
        layer: the first convolution, or whatever replaces it.
        channels: C, of the pixels.
        for_images: the model takes (B, C, H, W) or (B, C, 1, H, W), not (B, C, T, H, W).

    Raises:
        PixelsError: with the properties of the input, those that are needed, and the remedy.
    """
    if not isinstance(pixels, Tensor):
        kind = type(pixels).__name__
        remedy = f". {_KINDS[kind]}" if kind in _KINDS else ""
        wanted = _wanted(channels, for_images)
        raise PixelsError(f"pixels must be a tensor {wanted}, got a {kind}{remedy}")
    _check_shape(tuple(pixels.shape), channels, for_images)
    if not pixels.is_floating_point():
        raise PixelsError(
            f"pixels must be normalised floating-point values, got {pixels.dtype}. Of uint8 frames "
            "slowfast_mvit.data.views.pixels.normalise(pixels, mean, std) makes them; mean and std "
            "are in model.input_spec, or 0.45 and 0.225 for models of PySlowFast"
        )
    # A hook may move or cast the weights of the layer before they are used.
    if isinstance(layer, (nn.Conv2d, nn.Conv3d)) and not layer._forward_pre_hooks:
        _check_weight(pixels, layer.weight)


def _wanted(channels: int, for_images: bool) -> str:
    c = channels
    return f"(B, {c}, H, W) or (B, {c}, 1, H, W)" if for_images else f"(B, {c}, T, H, W)"


def _check_shape(shape: tuple[int, ...], channels: int, for_images: bool) -> None:
    fits = shape[1:2] == (channels,) and (
        len(shape) == 5
        if not for_images
        else len(shape) == 4 or (len(shape) == 5 and shape[2] == 1)
    )
    if fits and 0 not in shape[2:]:
        return
    message = f"pixels must have shape {_wanted(channels, for_images)}, got {shape}"
    if fits:
        raise PixelsError(f"{message}, which has no pixels")
    for (axes, axis), (layout, remedy) in (_IMAGES if for_images else _CLIPS).items():
        if len(shape) == axes and shape[axis] == channels:
            raise PixelsError(f"{message}. If these are {layout}: {remedy}")
    raise PixelsError(message)


def _check_weight(pixels: Tensor, weight: Tensor) -> None:
    if weight.is_meta and not pixels.is_meta:
        raise PixelsError(
            "the model is on the meta device and has no values. Allocate them with "
            f"model.to_empty(device={str(pixels.device)!r}), then load weights into all of them"
        )
    if pixels.device != weight.device:
        raise PixelsError(
            f"pixels are on {pixels.device} and the model on {weight.device}. Move the pixels, "
            f"pixels.to({str(weight.device)!r}), or the model"
        )
    dtypes = {pixels.dtype, weight.dtype}
    if len(dtypes) > 1 and (
        torch.float64 in dtypes or not torch.is_autocast_enabled(pixels.device.type)
    ):
        raise PixelsError(
            f"pixels are {pixels.dtype} and the weights of the model {weight.dtype}. Convert the "
            f"pixels, pixels.to({weight.dtype}), or the model, or run it under torch.autocast"
        )
