"""Write weights: our names or the layout of another library; a file, or a folder.

A folder, as a hub repository contains a model, has
    model.safetensors   parameter name -> tensor, PySlowFast's names
    config.json         variant      a published model with these shapes, or null
                        num_classes  K
                        model        arguments of ``slowfast_mvit.builders.lists.mvit_from_lists``
                        input_spec   preprocessing of its pixels, with the class names; or null
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit.errors import ConfigError, WeightsError, pick
from slowfast_mvit.storage import save_torch, write_atomically, write_text_atomically
from slowfast_mvit.weights.architecture import anatomy_of
from slowfast_mvit.weights.files import (
    CONFIG_IN_FOLDER,
    NO_SAFETENSORS,
    OUR_KEY,
    WEIGHTS_IN_FOLDER,
)
from slowfast_mvit.weights.names import to_torchvision

TORCH_SUFFIXES = (".pyth", ".pth", ".pt")
SAFETENSORS_SUFFIX = ".safetensors"

_GROWS = {"attention": "shortcut_proj_attn", "MLP": "shortcut_proj_mlp"}


def to_layout(state: Mapping[str, Tensor], layout: str, where: str) -> dict[str, Tensor]:
    """Return a model's state dict in the layout of a library.

    Args:
        state: in our names.
        layout: a key of ``LAYOUTS``.
        where: the file, for messages.

    Raises:
        ConfigError: if there is no such layout.
        WeightsError: if that library has no such model.
    """
    return pick(LAYOUTS, layout, "layout of weights")(state, where)


def to_timm(state: Mapping[str, Tensor], where: str = "(a state dict)") -> dict[str, Tensor]:
    """Return our state dict of an image model as timm's ``mvitv2_*`` load it, strictly.

    Blocks are numbered by stage, pooling kernels lose a time axis of one, and the name of the
    projection of a skip path shows where channels grow.

    Raises:
        WeightsError: if the model is for clips.
    """
    anatomy = anatomy_of(state)
    _require(not anatomy.is_video, where, "timm has MViTv2 for images only")
    starts = (0, *anatomy.stage_starts)

    def rename(name: str) -> str:
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if not match:
            return name.replace("head.projection.", "head.fc.")
        block, rest = int(match[1]), match[2]
        if rest.startswith("proj."):
            rest = f"{_GROWS[anatomy.grows_in]}.{rest.removeprefix('proj.')}"
        stage = bisect_right(starts, block) - 1
        return f"stages.{stage}.blocks.{block - starts[stage]}.{rest}"

    return {
        rename(name): value.squeeze(2) if value.ndim == 5 else value
        for name, value in state.items()
    }


def _to_torchvision(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    anatomy, reason = anatomy_of(state), "torchvision has MViT for clips with a class token only"
    _require(anatomy.is_video and anatomy.cls_token, where, reason)
    return to_torchvision(state)


def _require(fits: bool, where: str, reason: str) -> None:
    if not fits:
        raise WeightsError(f"{where}: cannot be written in that layout: {reason}")


LAYOUTS: dict[str, Callable[[Mapping[str, Tensor], str], dict[str, Tensor]]] = {
    "slowfast": lambda state, _: dict(state),
    "torchvision": _to_torchvision,
    "timm": to_timm,
}


def kind_of_output(path: str | Path) -> str:
    """Return the kind of output by the end of its name: "torch", "safetensors" or "folder".

    Raises:
        ConfigError: for another suffix.
    """
    suffix = Path(path).suffix
    if suffix in TORCH_SUFFIXES:
        return "torch"
    if suffix == SAFETENSORS_SUFFIX:
        return "safetensors"
    if not suffix or str(path).endswith("/") or Path(path).is_dir():
        return "folder"
    raise ConfigError(
        f"{path}: unknown kind of file. Write to a name with {', '.join(TORCH_SUFFIXES)} or "
        f"{SAFETENSORS_SUFFIX}, or to a folder"
    )


def write_checkpoint(
    path: str | Path,
    state: Mapping[str, Tensor],
    *,
    cfg_text: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint for PySlowFast: ``model_state``, and ``cfg`` if it is known.

    Without an epoch: PySlowFast would ask for the optimizer that belongs to it.
    """
    content: dict[str, Any] = {"model_state": whole(state)}
    if cfg_text is not None:
        content["cfg"] = cfg_text
    save_torch(path, {**content, OUR_KEY: dict(extra or {})})


def write_state(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict alone, as torchvision and timm load it."""
    save_torch(path, whole(state))


def write_safetensors(path: str | Path, state: Mapping[str, Tensor], *, ours: str | None) -> None:
    """Write a state dict as safetensors.

    Args:
        ours: version of this project, if the names are ours.

    Raises:
        WeightsError: if safetensors are not installed.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise WeightsError(f"{path}: writing it {NO_SAFETENSORS}") from error
    metadata = {"format": "pt"} | ({} if ours is None else {OUR_KEY: ours})
    content = save(whole(state), metadata=metadata)
    write_atomically(path, lambda file: file.write(content))


def write_folder(
    folder: str | Path, state: Mapping[str, Tensor], *, ours: str, config: Mapping[str, Any]
) -> None:
    """Write a complete model.

    Args:
        folder: made if it is not there.
        state: in our names.
        ours: version of this project.
        config: plain values, see the module's docstring.
    """
    text = json.dumps({"library_name": OUR_KEY, **config}, indent=2) + "\n"
    write_safetensors(Path(folder) / WEIGHTS_IN_FOLDER, state, ours=ours)
    write_text_atomically(Path(folder) / CONFIG_IN_FOLDER, text)


def whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies that share no memory: a view would be written with its base."""
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
