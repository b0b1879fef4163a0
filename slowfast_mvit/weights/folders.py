"""Write weights: as a checkpoint, as safetensors, or as a folder that is a complete model.

A folder, as a hub repository keeps a model, has
    model.safetensors   parameter name -> tensor, PySlowFast's names
    config.json         variant      a published model with these shapes, or null
                        num_classes  K
                        model        arguments of ``slowfast_mvit.builders.lists.mvit_from_lists``
                        input_spec   how pixels are made for it, with the class names; or null
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit.errors import ConfigError, WeightsError
from slowfast_mvit.storage import save_torch, write_atomically, write_text_atomically
from slowfast_mvit.weights.files import CONFIG_IN_FOLDER, OUR_KEY, WEIGHTS_IN_FOLDER

TORCH_SUFFIXES = (".pyth", ".pth", ".pt")
SAFETENSORS_SUFFIX = ".safetensors"


def kind_of_output(path: str | Path) -> str:
    """Return what to write, by the end of the name: "torch", "safetensors" or "folder".

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
    """Write what PySlowFast reads: ``model_state``, and ``cfg`` where it is known.

    Without an epoch: PySlowFast would ask for the optimizer that belongs to it.
    """
    content: dict[str, Any] = {"model_state": whole(state)}
    if cfg_text is not None:
        content["cfg"] = cfg_text
    save_torch(path, {**content, OUR_KEY: dict(extra or {})})


def write_state(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict alone, as torchvision and timm take it."""
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
        raise WeightsError(
            f"{path}: writing it needs a package that is not installed. "
            "Run: pip install 'slowfast_mvit[safetensors]'"
        ) from error
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
        config: plain values, see the top of this file.
    """
    text = json.dumps({"library_name": OUR_KEY, **config}, indent=2) + "\n"
    write_safetensors(Path(folder) / WEIGHTS_IN_FOLDER, state, ours=ours)
    write_text_atomically(Path(folder) / CONFIG_IN_FOLDER, text)


def whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory and have no gaps: a view would be written with all it views."""
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
