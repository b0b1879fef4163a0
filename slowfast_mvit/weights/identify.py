"""Identify the architecture of weights by their names and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from slowfast_mvit.errors import WeightsError, in_one_message
from slowfast_mvit.models import MViT
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
            own = _published_state(name, anatomy)
            counted = {n: value for n, value in own.items() if not n.startswith(ignoring)}
            if not misfits(state, counted):
                return name
    return None


def sizes_shown(
    anatomy: Anatomy, input_size: Sequence[int], num_classes: int
) -> tuple[tuple[int, ...], int]:
    """Return the input size and the classes that weights show, else those that were published."""
    shown = anatomy.input_size()
    size = tuple(found or published for found, published in zip(shown, input_size, strict=True))
    return size, anatomy.num_classes or num_classes


def exact_state(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Return the values in the names, the order and the shapes of a model.

    Args:
        state: in our names; kernels may lack a time axis of one, and the head may be missing.
        own: the state dict of the model; its values are not read.
        where: the file, for the message.

    Raises:
        WeightsError: if they are not exactly the parameters of this model.
    """
    problems = misfits(state, own)
    if problems:
        headline = f"{where}: not the weights of its config's model"
        raise WeightsError(in_one_message(headline, problems, limit=_EXAMPLES))
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


def _published_state(name: str, anatomy: Anatomy) -> dict[str, Tensor]:
    variant = VARIANTS[name]
    input_size, num_classes = sizes_shown(anatomy, variant.input_size, variant.num_classes)
    with torch.device("meta"):  # only the shapes are needed, and L has 218 million values
        model = MViT(**variant_arguments(name, num_classes=num_classes, input_size=input_size))
    return model.state_dict()


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)
