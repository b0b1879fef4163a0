"""``slowfast-mvit weights convert``: weights from one kind of file into another, exactly."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit import __version__
from slowfast_mvit.builders.lists import mvit_from_lists, variant_as_lists
from slowfast_mvit.builders.model import input_spec, model_arguments
from slowfast_mvit.config import Config, load_config_text
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.weights.architecture import (
    anatomy_of,
    exact_state,
    matching_variant,
    misfits,
    sizes_shown,
)
from slowfast_mvit.weights.exports import (
    kind_of_output,
    to_layout,
    write_checkpoint,
    write_folder,
    write_safetensors,
    write_state,
)
from slowfast_mvit.weights.files import (
    CONFIG_IN_FOLDER,
    WEIGHTS_IN_FOLDER,
    WeightsFile,
    read_weights,
)
from slowfast_mvit.weights.names import state_in_our_names

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Attributes:
        kind: "torch", "safetensors" or "folder".
        source: whose names the file had.
        num_tensors: written.
        description: the model, or None where nothing told it and only names were changed.
        left_out: names in the file that no MViT for recognition has.
    """

    kind: str
    source: str
    num_tensors: int
    description: Description | None
    left_out: tuple[str, ...]


def convert(
    path: str | Path,
    out: str | Path,
    *,
    layout: str = "slowfast",
    ema: bool = False,
    config: Config | None = None,
    class_names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Converted:
    """Read weights from anywhere and write them for PySlowFast, a hub, torchvision or timm.

    Values and their precision stay as they are: nothing is resampled, inflated or begun anew.

    Args:
        path: what ``load_weights`` reads.
        out: a ``.pyth``, ``.pth``, ``.pt`` or ``.safetensors`` file, or a folder.
        layout: "slowfast", "torchvision" or "timm"; a folder is always in the first.
        ema: take the moving average of the weights.
        config: the config the weights were trained with, where the file does not hold it.
        class_names: kept with how pixels are made, for predictions by name.
        overwrite: write over what is there.

    Raises:
        WeightsError: the file cannot be read, or that library has no such model.
        ConfigError: ``out`` is there already, what model it is must be told for a folder, or there
            are not as many names as classes.
    """
    kind = kind_of_output(out)
    _require_free(Path(out), kind, overwrite)
    if kind == "folder" and layout != "slowfast":
        raise ConfigError(f"{out}: a folder holds our layout. For {layout}, name a file")
    file = read_weights(path, ema=ema)
    state, source, left_out = state_in_our_names(file)
    description = describe(file, state, config)
    if class_names is not None:
        description = _named(description, class_names)
    if description is not None:
        state = exact_state(state, state_on_meta(description.arguments), file.path)
    translated = to_layout(state, layout, file.path)
    cfg_text = file.cfg_text if config is None else config.to_yaml()
    _write(out, kind, translated, layout, description, cfg_text)
    return Converted(kind, source, len(state), description, left_out)


def _named(description: Description | None, class_names: Sequence[str]) -> Description:
    if description is None or description.input_spec is None:
        raise ConfigError(
            "class names go with how pixels are made, which nothing tells here. Name the config "
            "the weights were trained with (--cfg)"
        )
    num_classes = description.arguments["num_classes"]
    if len(class_names) != num_classes:
        raise ConfigError(
            f"there are {len(class_names)} class names, but the model has {num_classes} classes"
        )
    spec = {**description.input_spec, "class_names": list(class_names)}
    return replace(description, input_spec=spec)


def _write(
    out: str | Path,
    kind: str,
    state: dict[str, Tensor],
    layout: str,
    description: Description | None,
    cfg_text: str | None,
) -> None:
    ours = layout == "slowfast"
    spec = None if description is None else description.input_spec
    if kind == "folder":
        if description is None:
            raise ConfigError(
                f"{out}: what model the weights are of cannot be told from their shapes, and a "
                "folder has to say it. Name the config they were trained with (--cfg)"
            )
        write_folder(out, state, ours=__version__, config=_content(description, state))
    elif kind == "safetensors":
        write_safetensors(out, state, ours=__version__ if ours else None)
    elif ours:
        extra = {} if spec is None else {"input_spec": dict(spec)}
        write_checkpoint(out, state, cfg_text=cfg_text, extra=extra)
    else:
        write_state(out, state)


def _content(description: Description, state: dict[str, Tensor]) -> dict[str, object]:
    head = state.get("head.projection.weight")
    if head is None:
        raise ConfigError(
            "a folder is a complete model, and these weights have no head. Write them to a file"
        )
    return {
        "variant": description.variant,
        "num_classes": len(head),
        "model": dict(description.arguments),
        "input_spec": description.input_spec,
    }


def _require_free(out: Path, kind: str, overwrite: bool) -> None:
    names = (WEIGHTS_IN_FOLDER, CONFIG_IN_FOLDER) if kind == "folder" else ("",)
    there = [out / name for name in names if (out / name).exists()]
    if there and not overwrite:
        raise ConfigError(f"{there[0]}: is there already. Choose another name, or --overwrite it")


def describe(
    file: WeightsFile, state: Mapping[str, Tensor], config: Config | None = None
) -> Description | None:
    """Identify the model of weights; None where neither config nor shapes are enough.

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
        arguments = variant_as_lists(variant)
        size, num_classes = sizes_shown(
            anatomy_of(state), arguments["input_size"], arguments["num_classes"]
        )
        arguments |= {"input_size": size, "num_classes": num_classes}
        return Description(arguments, variant, spec)
    return None


def _config_inside(
    file: WeightsFile, state: Mapping[str, Tensor], variant: str | None
) -> Config | None:
    """The config in a checkpoint; None, with a warning, where only the shapes identify the model.

    facebookresearch/mvit writes configs with keys of PySlowFast's names for another model.
    """
    try:
        config = load_config_text(file.cfg_text or "", source=f"the config in {file.path}")
        problems = misfits(state, state_on_meta(model_arguments(config)))
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


def state_on_meta(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict of a model, of shapes alone; ``arguments`` of ``mvit_from_lists``."""
    with torch.device("meta"):
        return mvit_from_lists(**arguments).state_dict()
