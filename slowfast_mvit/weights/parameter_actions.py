"""Choose the action for one parameter of a model, given the file's tensor of its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slowfast_mvit.models.tables import THW
from slowfast_mvit.weights import inflate as sizes
from slowfast_mvit.weights.names import why_absent
from slowfast_mvit.weights.trained_grids import KnownGrid, grid_of_joint, plane_of

HEADS = ("auto", "keep", "new")

# What an image model cannot have; a video model starts these from zero or from its own values.
_OF_TIME = re.compile(r".*\.rel_pos_t|pos_embed_temporal")
_OF_CLASS_TOKEN = ("cls_token", "pos_embed_class")

_UNKNOWN = "and nothing tells which: load a checkpoint that holds its config"

_KERNEL = re.compile(r"patch_embed\.proj\.weight|blocks\.\d+\.attn\.pool_[qkv]\.weight")
_TABLE = re.compile(r"blocks\.\d+\.attn\.rel_pos_[thw]")


@dataclass(frozen=True)
class Action:
    """The action for one parameter of the model.

    Attributes:
        group: the list of ``LoadReport`` it belongs to.
        value: what fills it; None leaves the model's own values.
        detail: the same in words, where there is more to say than the group does.
    """

    group: str
    value: Tensor | None = None
    detail: str = ""


@dataclass(frozen=True)
class LoadContext:
    """The load context: what decides an action besides a parameter's name and shape.

    Attributes:
        source: whose names the file has: a key of ``SOURCES``.
        inflate: what makes a convolution over time of one without.
        zero_time: temporal tables that an image does not have become zero.
        head: one of ``HEADS``.
        from_image: an image's weights for a video model.
        grid: the model's token grid (T, H, W).
        known_grid: the file's, as far as it is known (see ``trained_grids.py``).
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


def decide(name: str, value: Tensor | None, own: Tensor, context: LoadContext) -> Action:
    """Return what becomes of one parameter.

    Args:
        name: our name.
        value: what the file has under it, if anything.
        own: the model's own values.
    """
    if name.startswith("head."):
        return _decide_head(value, own, context)
    if value is None:
        return _decide_absent(name, own, context)
    if not value.is_floating_point():
        return Action("missing", detail=f"{value.dtype} in the file")
    if name in _ABSOLUTE and value.ndim == 3 and value.shape[-1] == own.shape[-1]:
        return _ABSOLUTE[name](value, own, context)
    if value.shape == own.shape:
        return Action("loaded", value)
    change = f"{tuple(value.shape)} -> {tuple(own.shape)}"
    group, fitted = _fit(name, value, own.shape, context)
    if fitted is None:
        return Action("missing", detail=f"{change} cannot be made to fit")
    return Action(group, fitted, "" if group == "loaded" else change)


def why_of_no_image(name: str) -> str | None:
    """Return why a video model's parameter has no place in an image model, or None if it has."""
    return "an image has no time" if _OF_TIME.fullmatch(name) else None


def _decide_head(value: Tensor | None, own: Tensor, context: LoadContext) -> Action:
    if context.head == "new":
        return Action("initialised", detail="a new head")
    if value is not None and value.shape == own.shape:
        return Action("loaded", value)
    detail = "the file has no head"
    if value is not None:
        detail = f"{len(own)} classes, {len(value)} in the file"
        if value.shape[1:] != own.shape[1:]:
            detail = f"{tuple(own.shape)}, {tuple(value.shape)} in the file"
    return Action("missing" if context.head == "keep" else "initialised", detail=detail)


def _decide_absent(name: str, own: Tensor, context: LoadContext) -> Action:
    reason = why_absent(context.source, name)
    if reason is not None:
        return Action("initialised", detail=reason)
    if context.from_image and _OF_TIME.fullmatch(name):
        if context.zero_time:
            return Action("initialised", torch.zeros_like(own), "zero: an image has no time")
        return Action("initialised", detail="an image has no time")
    if context.from_image and name in _OF_CLASS_TOKEN:
        return Action("initialised", detail="the image model has no class token")
    return Action("missing", detail="not in the file")


def _fit(
    name: str, value: Tensor, shape: torch.Size, context: LoadContext
) -> tuple[str, Tensor | None]:
    """Bring a value into the model's shape: the report's list for it, and the value or None."""
    if _KERNEL.fullmatch(name):
        fitted = sizes.fit_kernel(value, shape, context.inflate)
        if fitted is None or fitted.numel() == value.numel():
            return "loaded", fitted
        return ("inflated" if fitted.numel() > value.numel() else "resized"), fitted
    if value.ndim != len(shape) or value.shape[-1] != shape[-1]:
        return "missing", None
    if _TABLE.fullmatch(name):
        return "resized", sizes.resize_table(value, shape[0])
    if name == "pos_embed_temporal":
        return "resized", sizes.resample_temporal(value, shape[1])
    return "missing", None


def _decide_spatial(value: Tensor, own: Tensor, context: LoadContext) -> Action:
    """Positions in space, (1, H*W, C)."""
    trained, wanted = plane_of(value.shape[1], context.known_grid), context.grid[1:]
    if trained == wanted or (trained is None and value.shape == own.shape):
        return Action("loaded", value)
    if trained is None:
        return Action("missing", detail=f"{value.shape[1]} places are no square, {_UNKNOWN}")
    resampled = sizes.resample_spatial(value, trained, wanted)
    return Action("resized", resampled, f"{_times(trained)} -> {_times(wanted)} places")


def _decide_joint(value: Tensor, own: Tensor, context: LoadContext) -> Action:
    """Positions over space and time together, (1, P + T*H*W, C): the class token's row stays."""
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
