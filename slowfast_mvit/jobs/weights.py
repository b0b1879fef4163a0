"""``slowfast-mvit weights``: convert a weights file exactly, or describe its content."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slowfast_mvit import __version__
from slowfast_mvit.builders.lists import mvit_from_lists, variant_as_lists
from slowfast_mvit.builders.model import input_spec, model_arguments, model_of_folder
from slowfast_mvit.config import Config, load_config_text
from slowfast_mvit.errors import ConfigError, printable
from slowfast_mvit.storage.download import file_digest
from slowfast_mvit.weights.architecture import (
    anatomy_of,
    exact_state,
    fingerprint,
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
from slowfast_mvit.weights.fetch import local_weights
from slowfast_mvit.weights.files import (
    CONFIG_IN_FOLDER,
    WEIGHTS_IN_FOLDER,
    WeightsFile,
    file_of_folder,
    read_weights,
)
from slowfast_mvit.weights.names import state_in_our_names
from slowfast_mvit.weights.sources import SOURCES

logger = logging.getLogger(__name__)


class Description(NamedTuple):
    """The known properties of a model.

    Attributes:
        arguments: of ``mvit_from_lists``.
        variant: a published model that has these shapes, or None.
        input_spec: its preprocessing, or None if unknown.
    """

    arguments: Mapping[str, Any]
    variant: str | None = None
    input_spec: Mapping[str, Any] | None = None


class Converted(NamedTuple):
    """The result of a conversion.

    Attributes:
        kind: "torch", "safetensors" or "folder".
        source: the code base of the names in the file.
        num_tensors: written.
        description: the model, or None if it is unknown and only names were changed.
        left_out: names in the file that no MViT classifier has.
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

    Values and their precision do not change: nothing is resampled, inflated or initialised.

    Args:
        path: what ``load_weights`` reads.
        out: a ``.pyth``, ``.pth``, ``.pt`` or ``.safetensors`` file, or a folder.
        layout: "slowfast", "torchvision" or "timm"; a folder is always in the first.
        ema: take the moving average of the weights.
        config: the config the weights were trained with, where the file does not contain it.
        class_names: stored with the preprocessing, for predictions by name.
        overwrite: replace existing files.

    Raises:
        WeightsError: the file cannot be read, or that library has no such model.
        ConfigError: ``out`` exists already, the model of a folder is unknown, or the numbers of
            names and classes differ.
    """
    kind = kind_of_output(out)
    names = (WEIGHTS_IN_FOLDER, CONFIG_IN_FOLDER) if kind == "folder" else ("",)
    existing = [Path(out) / name for name in names if (Path(out) / name).exists()]
    if existing and not overwrite:
        raise ConfigError(f"{existing[0]}: exists already. Choose another name, or --overwrite it")
    if kind == "folder" and layout != "slowfast":
        raise ConfigError(f"{out}: a folder contains our layout. For {layout}, name a file")
    file = read_weights(path, ema=ema)
    state, source, left_out = state_in_our_names(file)
    description = describe(file, state, config)
    if class_names is not None:
        description = _named(description, class_names)
    if description is not None:
        state = exact_state(state, state_on_meta(description.arguments), file.path)
    translated = to_layout(state, layout, file.path)
    spec = None if description is None else description.input_spec
    if kind == "folder":
        write_folder(out, translated, ours=__version__, config=_content(out, description, state))
    elif kind == "safetensors":
        write_safetensors(out, translated, ours=__version__ if layout == "slowfast" else None)
    elif layout == "slowfast":
        cfg_text = file.cfg_text if config is None else config.to_yaml()
        extra = {} if spec is None else {"input_spec": dict(spec)}
        write_checkpoint(out, translated, cfg_text=cfg_text, extra=extra)
    else:
        write_state(out, translated)
    return Converted(kind, source, len(state), description, left_out)


def _named(description: Description | None, class_names: Sequence[str]) -> Description:
    if description is None or description.input_spec is None:
        raise ConfigError(
            "class names are stored with the preprocessing, which is unknown here. Name the config "
            "the weights were trained with (--cfg)"
        )
    num_classes = description.arguments["num_classes"]
    if len(class_names) != num_classes:
        raise ConfigError(
            f"there are {len(class_names)} class names, but the model has {num_classes} classes"
        )
    spec = {**description.input_spec, "class_names": list(class_names)}
    return description._replace(input_spec=spec)


def _content(
    out: str | Path, description: Description | None, state: Mapping[str, Tensor]
) -> dict[str, object]:
    """Return the content of a folder's config file."""
    if description is None:
        raise ConfigError(
            f"{out}: the model of the weights cannot be identified by their shapes, and a folder "
            "needs it. Name the config they were trained with (--cfg)"
        )
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


def describe(
    file: WeightsFile, state: Mapping[str, Tensor], config: Config | None = None
) -> Description | None:
    """Identify the model of weights; None where neither config nor shapes are enough.

    Args:
        file: from ``read_weights``.
        state: its state dict in our names.
        config: the config it was trained with, if known; takes precedence over the file.

    Raises:
        ConfigError: the config in the file cannot be used, and no published model has the shapes.
    """
    spec = file.extra.get("input_spec")
    variant = matching_variant(state)
    if config is None and "model" in file.extra:
        with torch.device("meta"):
            model_of_folder(file)
        return Description(file.extra["model"], variant, spec)
    problems: list[str] = []
    if config is None and file.cfg_text:
        try:
            config = load_config_text(file.cfg_text, source=f"the config in {file.path}")
            problems = misfits(state, state_on_meta(model_arguments(config)))
        except ConfigError as error:
            if variant is None:
                raise
            problems = str(error).splitlines()
    if problems and variant is not None:  # such as keys of PySlowFast for another model
        logger.warning(
            "%s: the config in it is not used, since it does not describe these weights (%s); "
            "by their shapes they are %s",
            file.path,
            problems[0],
            variant,
        )
    elif config is not None:
        return Description(model_arguments(config), variant, spec or input_spec(config))
    if variant is None:
        return None
    arguments = variant_as_lists(variant)
    size, num_classes = sizes_shown(
        anatomy_of(state), arguments["input_size"], arguments["num_classes"]
    )
    arguments |= {"input_size": size, "num_classes": num_classes}
    return Description(arguments, variant, spec)


def state_on_meta(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict of a model, of shapes alone; ``arguments`` of ``mvit_from_lists``."""
    with torch.device("meta"):
        return mvit_from_lists(**arguments).state_dict()


def inspect_job(path: str, as_json: bool) -> None:
    """Print a description of a weights file."""
    content = inspect(path)
    if as_json:
        print(json.dumps(content, indent=2))
        return
    print(printable(path))
    for name, text in _lines(content).items():
        print(f"  {name:<14}{printable(text)}")


def inspect(path: str) -> dict[str, Any]:
    """Describe a weights file in plain values.

    Args:
        path: what ``load_weights`` reads.

    Returns:
        ``file``, ``source``, ``model`` (by its shapes), ``inside`` (the other content of the
        file), ``num_tensors``, ``num_values``, ``dtypes``, ``left_out``, ``fingerprint`` (of names
        and shapes), ``sha256``.

    Raises:
        WeightsError: if it cannot be read, or is not of an MViT.
    """
    file = read_weights(path)
    state, source, left_out = state_in_our_names(file)
    anatomy, variant = anatomy_of(state), matching_variant(state)
    spec = file.extra.get("input_spec") or {}
    return {
        "file": path,
        "source": "ours" if file.is_ours else source,
        "source_title": "this project" if file.is_ours else SOURCES[source].title,
        "model": {
            "variant": variant,
            "backbone_of": None if variant else matching_variant(state, ignoring=("norm.",)),
            "kind": "video" if anatomy.is_video else "image",
            "input_size": anatomy.input_size(),
            **asdict(anatomy),
        },
        "inside": {
            "epoch": None if file.epoch is None else file.epoch + 1,
            "optimizer": file.epoch is not None,
            "moving_average": file.has_average,
            "config": file.cfg_text is not None,
            "class_names": len(spec.get("class_names") or ()),
        },
        "num_tensors": len(state),
        "num_values": sum(value.numel() for value in state.values()),
        "dtypes": sorted({str(value.dtype).removeprefix("torch.") for value in state.values()}),
        "left_out": list(left_out),
        "fingerprint": fingerprint(state),
        "sha256": _digest(path),
    }


def _lines(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the printed lines by their names."""
    model, inside = content["model"], content["inside"]
    heads = model["num_heads"] and f", {model['num_heads'][0]} to {model['num_heads'][1]} heads"
    first, last = model["widths"]
    backbone_of = model["backbone_of"]
    positions = {None: "", "joint": "absolute, joint", "separate": "absolute, separate"}
    relative = f"relative ({', '.join(model['rel_pos'])})" if model["rel_pos"] else ""
    epoch = f", epoch {inside['epoch']}" if inside["epoch"] else ""
    others = [
        name.replace("_", " ") for name in ("optimizer", "moving_average", "config") if inside[name]
    ]
    if inside["class_names"]:
        others.append(f"{inside['class_names']} class names")
    return {
        "source": content["source_title"],
        "model": model["variant"]
        or (backbone_of and f"the backbone of {backbone_of}")
        or "none of the published models",
        "blocks": f"{model['depth']}, {first} to {last} channels, growing in "
        f"{model['grows_in'] or 'none'}{heads or ''}",
        "input": f"{model['kind']}, {_size(model['input_size'], model['kind'])}",
        "classes": str(model["num_classes"] or "no head"),
        "class token": "yes" if model["cls_token"] else "no",
        "positions": " and ".join(filter(None, [positions[model["abs_pos"]], relative])) or "none",
        "values": f"{content['num_values']:,} in {content['num_tensors']} tensors, "
        f"{', '.join(content['dtypes'])}",
        "inside too": (", ".join(others) or "nothing") + epoch,
        **({"left out": ", ".join(content["left_out"][:3])} if content["left_out"] else {}),
        "fingerprint": content["fingerprint"],
        "sha256": content["sha256"],
    }


def _size(size: tuple[int | None, int | None, int | None], kind: str) -> str:
    frames, height, width = ("?" if length is None else str(length) for length in size)
    pixels = f"{height} x {width} px"
    return pixels if kind == "image" else f"{frames} frames of {pixels}"


def _digest(path: str) -> str:
    file, _ = local_weights(path)
    return file_digest(file_of_folder(file) if file.is_dir() else file)
