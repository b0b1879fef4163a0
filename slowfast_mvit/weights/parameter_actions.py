"""Actions for the parameters of a model: load, resize, inflate or initialise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slowfast_mvit.models.tables import THW
from slowfast_mvit.weights import inflate as sizes
from slowfast_mvit.weights.architecture import KnownGrid, grid_of_joint, plane_of
from slowfast_mvit.weights.names import absence_reason

HEADS = ("auto", "keep", "new")

# Parameters without values in an image model; in a video model they are zero or initialised.
OF_TIME = re.compile(r".*\.rel_pos_t|pos_embed_temporal")
_OF_CLASS_TOKEN = ("cls_token", "pos_embed_class")

_UNKNOWN = "and the grid is unknown: load a checkpoint that contains its config"

_KERNEL = re.compile(r"patch_embed\.proj\.weight|blocks\.\d+\.attn\.pool_[qkv]\.weight")
_TABLE = re.compile(r"blocks\.\d+\.attn\.rel_pos_[thw]")


@dataclass(frozen=True)
class Action:
    """The action for one parameter of the model.

    Attributes:
        group: the list of ``LoadReport`` it belongs to.
        value: its new value; None keeps the model's.
        detail: the action as text, where it adds to the group.
    """

    group: str
    value: Tensor | None = None
    detail: str = ""


@dataclass(frozen=True)
class LoadContext:
    """The conditions of an action besides a parameter's name and shape.

    Attributes:
        source: of the file's names: a key of ``SOURCES``.
        inflate: inflation of a convolution over time.
        zero_time: temporal tables that an image does not have become zero.
        head: one of ``HEADS``.
        from_image: an image's weights for a video model.
        grid: the model's token grid (T, H, W).
        known_grid: the file's, as far as it is known (see ``architecture.py``).
        prefix: class tokens (0 or 1) of the file and of the model.
    """

    source: str
    inflate: sizes.Inflation
    zero_time: bool
    head: str
    from_image: bool
    grid: THW
    known_grid: KnownGrid
    prefix: tuple[int, int]


def decide(name: str, value: Tensor | None, model_value: Tensor, context: LoadContext) -> Action:
    """Choose the action for one parameter.

    Args:
        name: our name.
        value: the file's, if it has one.
        model_value: the model's.
        context: of the load.
    """
    shape = model_value.shape
    if name.startswith("head."):
        return _decide_head(value, model_value, context)
    if value is None:
        return _decide_absent(name, model_value, context)
    if not value.is_floating_point():
        return Action("missing", detail=f"{value.dtype} in the file")
    if name in _ABSOLUTE and value.ndim == 3 and value.shape[-1] == shape[-1]:
        return _ABSOLUTE[name](value, model_value, context)
    if value.shape == shape:
        return Action("loaded", value)
    change = f"{tuple(value.shape)} -> {tuple(shape)}"
    group, fitted = _fit(name, value, shape, context)
    if fitted is None:
        return Action("missing", detail=f"{change} cannot be made to fit")
    return Action(group, fitted, "" if group == "loaded" else change)


def _decide_head(value: Tensor | None, model_value: Tensor, context: LoadContext) -> Action:
    if context.head == "new":
        return Action("initialised", detail="a new head")
    if value is not None and value.shape == model_value.shape:
        return Action("loaded", value)
    if value is None:
        detail = "the file has no head"
    elif value.shape[1:] == model_value.shape[1:]:
        detail = f"{len(model_value)} classes, {len(value)} in the file"
    else:
        detail = f"{tuple(model_value.shape)}, {tuple(value.shape)} in the file"
    return Action("missing" if context.head == "keep" else "initialised", detail=detail)


def _decide_absent(name: str, model_value: Tensor, context: LoadContext) -> Action:
    reason = absence_reason(context.source, name)
    if reason is not None:
        return Action("initialised", detail=reason)
    if context.from_image and OF_TIME.fullmatch(name):
        if context.zero_time:
            return Action(
                "initialised", torch.zeros_like(model_value), "zero: an image has no time"
            )
        return Action("initialised", detail="an image has no time")
    if context.from_image and name in _OF_CLASS_TOKEN:
        return Action("initialised", detail="the image model has no class token")
    return Action("missing", detail="not in the file")


def _fit(
    name: str, value: Tensor, shape: torch.Size, context: LoadContext
) -> tuple[str, Tensor | None]:
    """Fit a value to the model's shape; returns the report's list, and the value or None."""
    if _KERNEL.fullmatch(name):
        of_channels = sizes.fit_channels(value, shape[1])
        fitted = sizes.fit_kernel(of_channels, shape, context.inflate)
        if fitted is None or fitted.numel() == value.numel():
            return "loaded", fitted
        if of_channels is not value:
            return "resized", fitted
        return ("inflated" if fitted.numel() > value.numel() else "resized"), fitted
    if value.ndim != len(shape) or value.shape[-1] != shape[-1]:
        return "missing", None
    if _TABLE.fullmatch(name):
        return "resized", sizes.resize_table(value, shape[0])
    if name == "pos_embed_temporal":
        return "resized", sizes.resample_temporal(value, shape[1])
    return "missing", None


def _decide_spatial(value: Tensor, model_value: Tensor, context: LoadContext) -> Action:
    """Resize positions in space, (1, H*W, C)."""
    trained, wanted = plane_of(value.shape[1], context.known_grid), context.grid[1:]
    if trained == wanted or (trained is None and value.shape == model_value.shape):
        return Action("loaded", value)
    if trained is None:
        return Action("missing", detail=f"{value.shape[1]} places are no square, {_UNKNOWN}")
    resampled = sizes.resample_spatial(value, trained, wanted)
    return Action("resized", resampled, f"{_times(trained)} -> {_times(wanted)} places")


def _decide_joint(value: Tensor, model_value: Tensor, context: LoadContext) -> Action:
    """Resize positions over space and time, (1, P + T*H*W, C), except the class token's row."""
    if context.source == "detectron2" and value.shape == model_value.shape:
        return Action("loaded", value)  # of an image, perhaps with a row of a class token
    in_file, in_model = context.prefix
    tokens = value[:, in_file:]
    trained = grid_of_joint(tokens.shape[1], context.known_grid, context.grid)
    if trained is None:
        return Action("missing", detail=f"{tokens.shape[1]} tokens may be many grids, {_UNKNOWN}")
    if trained == context.grid and in_file == in_model:
        return Action("loaded", value)
    resampled = sizes.resample_joint(tokens, trained, context.grid)
    # A class token that the file does not have starts at position zero.
    prefix = value[:, :in_file] if in_file else value.new_zeros(1, 1, value.shape[-1])
    joined = torch.cat([prefix, resampled], dim=1) if in_model else resampled
    return Action("resized", joined, f"{_times(trained)} -> {_times(context.grid)} tokens")


def _times(lengths: Sequence[int]) -> str:
    return " x ".join(map(str, lengths))


_ABSOLUTE = {"pos_embed_spatial": _decide_spatial, "pos_embed": _decide_joint}
