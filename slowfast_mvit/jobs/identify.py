"""Which model weights are of: told by a config, by the file itself, or by the shapes in it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit.builders.model import input_spec, model_arguments
from slowfast_mvit.config import Config, load_config_text
from slowfast_mvit.errors import ConfigError, WeightsError, in_one_message
from slowfast_mvit.models import mvit_from_lists
from slowfast_mvit.models.variants import SIZES, VARIANTS, variant_arguments
from slowfast_mvit.weights.architecture import Anatomy, anatomy_of
from slowfast_mvit.weights.files import WeightsFile

logger = logging.getLogger(__name__)

_EXAMPLES = 3  # names told of those that do not fit


@dataclass(frozen=True)
class Description:
    """A model, as far as it is known.

    Attributes:
        arguments: of ``mvit_from_lists``.
        variant: a published model that has these shapes, or None.
        input_spec: how pixels are made for it, or None where nothing tells.
    """

    arguments: Mapping[str, Any]
    variant: str | None = None
    input_spec: Mapping[str, Any] | None = None


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
            own = _state_on_meta(_sized(variant_arguments(name), anatomy))
            counted = {n: value for n, value in own.items() if not n.startswith(ignoring)}
            if not misfits(state, counted):
                return name
    return None


def describe(
    file: WeightsFile, state: Mapping[str, Tensor], config: Config | None = None
) -> Description | None:
    """The model that weights are of, or None where nothing tells.

    Args:
        file: what was read.
        state: its state dict in our names.
        config: the config it was trained with, if it is known; counts before what the file says.

    Raises:
        ConfigError: the config in the file cannot be used, and the shapes tell no published model.
    """
    spec = file.extra.get("input_spec")
    variant = matching_variant(state)
    if config is None and "model" in file.extra:
        return Description(file.extra["model"], variant, spec)
    if config is None and file.cfg_text:
        config = _config_inside(file, state, variant)
    if config is not None:
        return Description(model_arguments(config), variant, spec or input_spec(config))
    if variant is not None:
        return Description(_sized(variant_arguments(variant), anatomy_of(state)), variant, spec)
    return None


def _config_inside(
    file: WeightsFile, state: Mapping[str, Tensor], variant: str | None
) -> Config | None:
    """The config in a checkpoint; None, with a warning, where its shapes tell what it does not.

    facebookresearch/mvit writes configs with keys of PySlowFast's names for another model.
    """
    try:
        config = load_config_text(file.cfg_text or "", source=f"the config in {file.path}")
        problems = misfits(state, _state_on_meta(model_arguments(config)))
    except ConfigError as error:
        if variant is None:
            raise
        problems = str(error).splitlines()
    if problems and variant is not None:
        logger.warning(
            "%s: the config in it is not used, since it does not describe these weights (%s); "
            "by their shapes they are %s",
            file.path,
            problems[0],
            variant,
        )
        return None
    return config


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
    own = _state_on_meta(arguments)
    problems = misfits(state, own)
    if problems:
        more = len(problems) - _EXAMPLES
        told = [*problems[:_EXAMPLES], *([f"and {more} more"] if more > 0 else [])]
        raise WeightsError(in_one_message(f"{where}: not the weights of its config's model", told))
    return {name: state[name].reshape(value.shape) for name, value in own.items() if name in state}


def misfits(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """What a model lacks, has too much of, or has in another shape; axes of one do not count."""
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


def _sized(arguments: Mapping[str, Any], anatomy: Anatomy) -> dict[str, Any]:
    """A variant's arguments for the input size and the classes that the weights show."""
    t, h, w = (
        shown or published
        for shown, published in zip(anatomy.input_size(), arguments["input_size"], strict=True)
    )
    num_classes = anatomy.num_classes or arguments["num_classes"]
    return {**arguments, "input_size": (t, h, w), "num_classes": num_classes}


def _state_on_meta(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    with torch.device("meta"):  # shapes are wanted, and L has 218 million values
        return mvit_from_lists(**arguments).state_dict()


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)
