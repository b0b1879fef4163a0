"""Identify the architecture of weights by their names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit.errors import WeightsError, in_one_message
from slowfast_mvit.models import mvit_from_lists
from slowfast_mvit.models.variants import SIZES, VARIANTS, variant_arguments
from slowfast_mvit.weights.architecture import Anatomy, anatomy_of

_EXAMPLES = 3  # names shown of those that do not fit


def matching_variant(state: Mapping[str, Tensor], *, ignoring: tuple[str, ...] = ()) -> str | None:
    """The published model whose parameters have these names and shapes, at any input size.

    Args:
        state: in our names, with a head of any number of classes or without one.
        ignoring: beginnings of names that do not count, such as "norm.", which detectors and
            pre-training by masks do not have.
    """
    anatomy = anatomy_of(state)
    for name, variant in VARIANTS.items():
        size = SIZES[variant.size]
        if (sum(size.stages), size.embed_dim) == (anatomy.depth, anatomy.widths[0]):
            own = state_on_meta(sized_arguments(variant_arguments(name), anatomy))
            counted = {n: value for n, value in own.items() if not n.startswith(ignoring)}
            if not misfits(state, counted):
                return name
    return None


def exact_state(
    state: Mapping[str, Tensor], arguments: Mapping[str, Any], where: str
) -> dict[str, Tensor]:
    """The same values in the names, the order and the shapes of the model; a head may be lacking.

    Args:
        state: in our names; kernels may lack a time axis of one.
        arguments: of ``mvit_from_lists``.
        where: the file, for the message.

    Raises:
        WeightsError: if they are not exactly the parameters of this model.
    """
    own = state_on_meta(arguments)
    problems = misfits(state, own)
    if problems:
        more = len(problems) - _EXAMPLES
        told = [*problems[:_EXAMPLES], *([f"and {more} more"] if more > 0 else [])]
        raise WeightsError(in_one_message(f"{where}: not the weights of its config's model", told))
    return {name: state[name].reshape(value.shape) for name, value in own.items() if name in state}


def misfits(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """List missing, surplus and differently shaped parameters; axes of one do not count."""
    lacking = [f"{name}: not in the file" for name in own if name not in state]
    if "head.projection.weight" not in state:
        lacking = [text for text in lacking if not text.startswith("head.")]
    found = {name: (tuple(value.shape), own.get(name)) for name, value in state.items()}
    return [
        *lacking,
        *(f"{name}: not in the model" for name, (_, mine) in found.items() if mine is None),
        *(
            f"{name}: {shape} in the file, {tuple(mine.shape)} in the model"
            for name, (shape, mine) in found.items()
            if mine is not None and _without_ones(shape) != _without_ones(tuple(mine.shape))
        ),
    ]


def sized_arguments(arguments: Mapping[str, Any], anatomy: Anatomy) -> dict[str, Any]:
    """Return a variant's arguments for the input size and the classes that the weights show."""
    t, h, w = (
        shown or published
        for shown, published in zip(anatomy.input_size(), arguments["input_size"], strict=True)
    )
    num_classes = anatomy.num_classes or arguments["num_classes"]
    return {**arguments, "input_size": (t, h, w), "num_classes": num_classes}


def state_on_meta(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict of a model without its values."""
    with torch.device("meta"):  # shapes are wanted, and L has 218 million values
        return mvit_from_lists(**arguments).state_dict()


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)
