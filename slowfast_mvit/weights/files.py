"""Read a weights file: the state dict in it, whatever wraps it, and the epoch of a checkpoint."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from slowfast_mvit.errors import WeightsError
from slowfast_mvit.storage import local_copy, read_torch

# Where a file keeps its state dict: PySlowFast and this project, mmengine and Lightning, timm.
_STATE_KEYS = ("model_state", "state_dict", "model")


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds.

    Attributes:
        path: the file, or "(a state dict)".
        state: name -> tensor, names as in the file.
        epoch: 0-based epoch, if the file is a training checkpoint with an optimizer's state.
    """

    path: str
    state: dict[str, Tensor]
    epoch: int | None


def read_weights(path_or_state: str | Path | Mapping[str, Any]) -> WeightsFile:
    """Read a file, or take what was read from one.

    Args:
        path_or_state: a ``.pyth``, ``.pth``, ``.pt`` or ``.safetensors`` file, local or anything
            that iopath reaches; or a state dict; or the content of a checkpoint that holds one.

    Raises:
        WeightsError: if the file cannot be read without running code from it, is damaged, or
            holds no state dict.
    """
    if isinstance(path_or_state, Mapping):
        return _unwrap("(a state dict)", path_or_state)
    path = local_copy(path_or_state)
    if path.suffix == ".safetensors":
        return WeightsFile(str(path_or_state), _read_safetensors(path), None)
    if path.suffix == ".pkl" and path.is_file() and not zipfile.is_zipfile(path):
        raise WeightsError(
            f"{path}: Python pickles are not read, since they can run code. Files of this name "
            "come from Caffe2, which has no MViT, or from detectron2: load such a one where it was "
            "made and save its state dict with torch.save"
        )
    return _unwrap(str(path_or_state), read_torch(path))


def _unwrap(path: str, content: Any) -> WeightsFile:
    """Find the state dict in what a file held."""
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path}: expected a state dict or a checkpoint, found {_described(content)}. "
            "Save model.state_dict(), not the model"
        )
    for key in _STATE_KEYS:
        if isinstance(content.get(key), Mapping):
            epoch = content.get("epoch") if "optimizer_state" in content else None
            return WeightsFile(path, _tensors(path, content[key]), epoch)
    return WeightsFile(path, _tensors(path, content), None)


def _tensors(path: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        found = f"{others[0]!r} ({_described(state[others[0]])})" if others else "nothing"
        raise WeightsError(
            f"{path}: no state dict in it. Looked for {', '.join(_STATE_KEYS)}, or tensors by "
            f"name; found {found}"
        )
    return dict(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file. Give the path of a weights file")
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading it needs a package that is not installed. "
            "Run: pip install 'slowfast_mvit[safetensors]'"
        ) from error
    try:
        tensors: dict[str, Tensor] = load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a readable safetensors file, or damaged ({error}). "
            "Copy or download it again"
        ) from error
    return tensors


def _described(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
