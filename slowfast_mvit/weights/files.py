"""Read a weights file: the state dict in it, whatever wraps it, and what else stands beside it.

A file may be a checkpoint of a run, weights alone, or a folder with ``model.safetensors`` and
``config.json``, as a hub keeps models (``folders.py`` describes the second).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from slowfast_mvit.errors import ShardedCheckpointError, WeightsError
from slowfast_mvit.storage import local_copy, read_torch
from slowfast_mvit.storage.torch_files import describe_other_file, is_safetensors

# Where a file keeps its state dict: PySlowFast and this project, mmengine and Lightning, timm.
_STATE_KEYS = ("model_state", "state_dict", "model")
# Where it keeps the moving average of the weights: this project, timm.
_AVERAGE_KEYS = ("ema_state", "state_dict_ema")
# What stands only in files of this project, with plain values beside the weights.
OUR_KEY = "slowfast_mvit"

WEIGHTS_IN_FOLDER = "model.safetensors"
CONFIG_IN_FOLDER = "config.json"


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file.

    Attributes:
        path: the file, or "(a state dict)".
        state: name -> tensor, names as in the file.
        epoch: 0-based epoch, if the file is a training checkpoint with an optimizer's state.
        is_ours: written by this project.
        has_average: a moving average of the weights is in it, taken or not.
        cfg_text: the config it was trained with, as YAML, if it is in the file.
        extra: our plain values beside the weights: ``input_spec`` and, in a folder, what model it
            is.
    """

    path: str
    state: dict[str, Tensor]
    epoch: int | None = None
    is_ours: bool = False
    has_average: bool = False
    cfg_text: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def read_weights(
    path_or_state: str | Path | Mapping[str, Any], *, ema: bool = False
) -> WeightsFile:
    """Read a file, or take what was read from one.

    Args:
        path_or_state: a ``.pyth``, ``.pth``, ``.pt`` or ``.safetensors`` file, local or anything
            that iopath reaches; a folder with ``model.safetensors``; or a state dict; or the
            content of a checkpoint that holds one.
        ema: take the moving average of the weights instead of the weights.

    Raises:
        WeightsError: if the file cannot be read without running code from it, is damaged, or
            holds no state dict, or no moving average where one is wanted.
    """
    if isinstance(path_or_state, Mapping):
        return _unwrap("(a state dict)", path_or_state, ema)
    path = local_copy(path_or_state)
    if path.is_dir():
        return _read_folder(path, ema)
    if path.is_file() and (path.suffix == ".safetensors" or is_safetensors(path)):
        _refuse_average(str(path_or_state), ema)
        state, metadata = _read_safetensors(path)
        return WeightsFile(str(path_or_state), state, is_ours=OUR_KEY in metadata)
    if path.suffix == ".pkl" and path.is_file() and not zipfile.is_zipfile(path):
        raise WeightsError(
            f"{path}: Python pickles are not read, since they can run code. Files of this name "
            "come from Caffe2, which has no MViT, or from detectron2: load such a one where it was "
            "made and save its state dict with torch.save"
        )
    return _unwrap(str(path_or_state), read_torch(path), ema)


def _read_folder(folder: Path, ema: bool) -> WeightsFile:
    path = folder / WEIGHTS_IN_FOLDER
    if not path.is_file():
        if (folder / ".metadata").exists():
            raise ShardedCheckpointError(folder)
        raise WeightsError(
            f"{folder}: is a folder without {WEIGHTS_IN_FOLDER}. Give a file of weights"
        )
    _refuse_average(str(folder), ema)
    state, metadata = _read_safetensors(path)
    ours = OUR_KEY in metadata
    return WeightsFile(str(folder), state, is_ours=ours, extra=_read_config(folder) if ours else {})


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_IN_FOLDER
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: cannot be read ({error}). It says what model the weights are of: copy it "
            f"too, or give {WEIGHTS_IN_FOLDER} alone"
        ) from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("input_size"), list):
        raise WeightsError(
            f"{path}: does not say what model the weights are of: 'model' with its 'input_size' is "
            f"missing. Write the folder again, or give {WEIGHTS_IN_FOLDER} alone"
        )
    model["input_size"] = tuple(model["input_size"])  # JSON has none
    return dict(content)


def _unwrap(path: str, content: Any, ema: bool) -> WeightsFile:
    """Find the state dict in what a file held."""
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path}: expected a state dict or a checkpoint, found {_described(content)}. "
            "Save model.state_dict(), not the model"
        )
    averages = [key for key in _AVERAGE_KEYS if isinstance(content.get(key), Mapping)]
    if not averages:
        _refuse_average(path, ema)
    states = [key for key in _STATE_KEYS if isinstance(content.get(key), Mapping)]
    keys = averages if ema else states
    if not keys:
        return WeightsFile(path, _tensors(path, content))
    cfg_text = content.get("cfg")
    extra = content.get(OUR_KEY)
    return WeightsFile(
        path,
        _tensors(path, _innermost(content[keys[0]])),
        epoch=content.get("epoch") if "optimizer_state" in content else None,
        is_ours=OUR_KEY in content,
        has_average=bool(averages),
        cfg_text=cfg_text if isinstance(cfg_text, str) else None,
        extra=dict(extra) if isinstance(extra, Mapping) else {},
    )


def _innermost(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict of a checkpoint that was saved as the state dict of another."""
    inner = [content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)]
    return _innermost(inner[0]) if inner else content


def _refuse_average(path: str, ema: bool) -> None:
    if ema:
        raise WeightsError(
            f"{path}: holds no moving average ({', '.join(_AVERAGE_KEYS)}). Was it trained without "
            "TRAIN.EMA_DECAY? Then take its weights (for a test, TEST.WEIGHTS last)"
        )


def _tensors(path: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        found = f"{others[0]!r} ({_described(state[others[0]])})" if others else "nothing"
        raise WeightsError(
            f"{path}: no state dict in it. Looked for {', '.join(_STATE_KEYS)}, or tensors by "
            f"name; found {found}"
        )
    return dict(state)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by name, and the words beside them."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading it needs a package that is not installed. "
            "Run: pip install 'slowfast_mvit[safetensors]'"
        ) from error
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = describe_other_file(path) or f"{error}. Copy or download it again"
        if zipfile.is_zipfile(path):
            reason = "it is a file of torch.save. Name it .pth"
        raise WeightsError(
            f"{path}: not a readable safetensors file, or damaged: {reason}"
        ) from error


def _described(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
