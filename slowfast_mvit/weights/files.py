"""Read a weights file: the state dict in it, inside any wrapping, and the data next to it.

A file may be a checkpoint of a run, weights alone, or a folder with ``model.safetensors`` and
``config.json``, as in a hub (see ``exports.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit.errors import ShardedCheckpointError, WeightsError
from slowfast_mvit.storage import read_torch
from slowfast_mvit.storage.archives import is_zip
from slowfast_mvit.storage.torch_files import describe_other_file, is_safetensors
from slowfast_mvit.weights.fetch import local_weights
from slowfast_mvit.weights.input_specs import checked_input_spec
from slowfast_mvit.weights.zoo import PublishedWeights, published_file

# Keys of the state dict of a file: PySlowFast and this project, mmengine and Lightning, timm,
# DeepSpeed.
_STATE_KEYS = ("model_state", "state_dict", "model", "module")
# Keys of the moving average of the weights: this project, timm, torchvision, mmengine.
_AVERAGE_KEYS = ("ema_state", "state_dict_ema", "model_ema", "ema_state_dict")
# A key that only files of this project have, with plain values in addition to the weights.
OUR_KEY = "slowfast_mvit"

_MAX_NESTING = 8  # state dicts in state dicts
_MAX_SHARING = 4  # times that one value of a file may be used; tied weights use it twice

WEIGHTS_IN_FOLDER = "model.safetensors"
# Other files of weights that a folder of a hub may have in place of it, in this order.
_INDEX_IN_FOLDER = "model.safetensors.index.json"
_BIN_IN_FOLDER = "pytorch_model.bin"
CONFIG_IN_FOLDER = "config.json"

NO_SAFETENSORS = (
    "needs a package that is not installed. Run: pip install 'slowfast_mvit[safetensors]'"
)


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file.

    Attributes:
        path: the file, or "(a state dict)".
        state: name -> tensor, with the file's names.
        epoch: 0-based epoch, if the file is a training checkpoint with an optimizer's state.
        is_ours: written by this project.
        has_average: a moving average of the weights is in it, loaded or not.
        cfg_text: the config it was trained with, as YAML, if it is in the file.
        extra: our plain values in addition to the weights: ``input_spec`` and, in a folder, the
            description of the model.
        published: its row in the zoo, if it was named by it or is called as the published file.
    """

    path: str
    state: dict[str, Tensor]
    epoch: int | None = None
    is_ours: bool = False
    has_average: bool = False
    cfg_text: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    published: PublishedWeights | None = None

    def trained_frames(self) -> int | None:
        """Return the frames of the clips that a checkpoint was trained on, if it records them."""
        spec = self.extra.get("input_spec")
        if spec:
            return int(spec["num_frames"])
        match = re.search(r"\bNUM_FRAMES:\s*(\d+)", self.cfg_text or "")
        return int(match[1]) if match else None


def read_weights(
    path_or_state: str | Path | Mapping[str, Any] | WeightsFile, *, ema: bool = False
) -> WeightsFile:
    """Read a file, or the content of one.

    Args:
        path_or_state: a ``.pyth``, ``.pth``, ``.pt`` or ``.safetensors`` file, a folder with
            ``model.safetensors``, or the name or address of one (see ``local_weights``); or a state
            dict; or the content of a checkpoint that contains one. A file that was read already is
            returned unchanged.
        ema: load the moving average of the weights instead of the weights.

    Raises:
        WeightsError: if the file cannot be read without running code from it, is damaged, or
            contains no state dict, or no moving average where one is requested.
    """
    if isinstance(path_or_state, WeightsFile):
        return path_or_state
    if isinstance(path_or_state, Mapping):
        return _unwrap("(a state dict)", path_or_state, ema)
    name = str(path_or_state)
    path, published = local_weights(path_or_state)
    return _with_published(_read(name, path, ema), published or published_file(path))


def _with_published(file: WeightsFile, published: PublishedWeights | None) -> WeightsFile:
    """Add the preprocessing of published weights, which their files do not contain."""
    if published is None or file.is_ours:
        return file
    extra = {**file.extra, "input_spec": published.input_spec()}
    return replace(file, published=published, extra=extra)


def _read(name: str, path: Path, ema: bool) -> WeightsFile:
    file = file_of_folder(path) if path.is_dir() else path
    if file.name.endswith(".index.json") and file.is_file():
        _require_no_ema(name, ema)
        return WeightsFile(name, _read_shards(file))
    if file.is_file() and (file.suffix == ".safetensors" or is_safetensors(file)):
        _require_no_ema(name, ema)
        state, metadata = _read_safetensors(file)
        ours = OUR_KEY in metadata
        extra = _read_config(path) if ours and path.is_dir() else {}
        return WeightsFile(name, state, is_ours=ours, extra=_checked(extra, name))
    if path.suffix == ".pkl" and path.is_file() and not is_zip(path):
        raise WeightsError(
            f"{path}: Python pickles are not read, since they can run code. Files of this name "
            "come from Caffe2, which has no MViT, or from detectron2: load such a file with "
            "detectron2 and save its state dict with torch.save"
        )
    weights = _unwrap(name, read_torch(file), ema)
    _require_whole(weights)
    return weights


def file_of_folder(folder: Path) -> Path:
    """Return the file of weights in a folder.

    Raises:
        WeightsError: there is none.
    """
    names = (WEIGHTS_IN_FOLDER, _INDEX_IN_FOLDER, _BIN_IN_FOLDER)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if (folder / ".metadata").exists():
        raise ShardedCheckpointError(folder)
    raise WeightsError(
        f"{folder}: is a folder without {' or '.join(names)}. Give a file of weights"
    )


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Read the safetensors files that an index next to them names.

    Raises:
        WeightsError: the index is damaged or names files elsewhere, or a tensor is missing.
    """
    try:
        file_of = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{index}: not an index of safetensors files ({error!r})") from error
    names = sorted({str(name) for name in file_of.values()})
    elsewhere = [name for name in names if not name.endswith(".safetensors") or "/" in name]
    if elsewhere:
        raise WeightsError(f"{index}: names {elsewhere[0]!r}, which is not a file next to it")
    absent = [name for name in names if not index.with_name(name).is_file()]
    if absent:
        raise WeightsError(f"{index}: its file {absent[0]} is not there. Download the folder again")
    state: dict[str, Tensor] = {}
    for name in names:
        state |= _read_safetensors(index.with_name(name))[0]
    missing = [name for name in file_of if name not in state]
    if missing:
        raise WeightsError(
            f"{index}: {len(missing)} tensors are not in its files, the first {missing[0]!r}. "
            "Download the folder again"
        )
    return state


def _checked(extra: Mapping[str, Any], where: str) -> dict[str, Any]:
    spec = checked_input_spec(extra.get("input_spec"), where)
    return {**extra, "input_spec": spec} if "input_spec" in extra else dict(extra)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_IN_FOLDER
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path}: cannot be read ({error}). It describes the model of the weights: copy it "
            f"too, or give {WEIGHTS_IN_FOLDER} alone"
        ) from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("input_size"), list):
        raise WeightsError(
            f"{path}: does not describe the model of the weights: 'model' with its 'input_size' is "
            f"missing. Write the folder again, or give {WEIGHTS_IN_FOLDER} alone"
        )
    model["input_size"] = tuple(model["input_size"])  # JSON has none
    return dict(content)


def _unwrap(path: str, content: Any, ema: bool) -> WeightsFile:
    """Find the state dict in the content of a file."""
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path}: expected a state dict or a checkpoint, got {_described(content)}. "
            "Save model.state_dict(), not the model"
        )
    averages = [key for key in _AVERAGE_KEYS if isinstance(content.get(key), Mapping)]
    if not averages:
        _require_no_ema(path, ema)
    states = [key for key in _STATE_KEYS if isinstance(content.get(key), Mapping)]
    keys = averages if ema else states
    if not keys:
        return WeightsFile(path, _tensors(path, content))
    cfg_text, extra, epoch = content.get("cfg"), content.get(OUR_KEY), content.get("epoch")
    if isinstance(extra, Mapping):  # the description of a model is in folders alone
        extra = {name: value for name, value in extra.items() if name != "model"}
    return WeightsFile(
        path,
        _tensors(path, _innermost(content[keys[0]])),
        epoch=epoch if "optimizer_state" in content and isinstance(epoch, int) else None,
        is_ours=OUR_KEY in content,
        has_average=bool(averages),
        cfg_text=cfg_text if isinstance(cfg_text, str) else None,
        extra=_checked(extra, path) if isinstance(extra, Mapping) else {},
    )


def _innermost(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict of a checkpoint that was saved as the state dict of another."""
    for _ in range(_MAX_NESTING):
        inner = [content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    return content


def _require_no_ema(path: str, ema: bool) -> None:
    if ema:
        raise WeightsError(
            f"{path}: has no moving average ({', '.join(_AVERAGE_KEYS)}). Was it trained without "
            "TRAIN.EMA_DECAY? Then load its weights (for a test, TEST.WEIGHTS last)"
        )


def _tensors(path: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    quantised = [
        name
        for name, value in state.items()
        if "_packed_params" in str(name) or (isinstance(value, Tensor) and value.is_quantized)
    ]
    if quantised:
        raise quantised_error(path, quantised[0])
    others = [
        name
        for name, value in state.items()
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_nested
    ]
    if others or not state:
        content = f"{others[0]!r} ({_described(state[others[0]])})" if others else "nothing"
        raise WeightsError(
            f"{path}: no state dict in it. Looked for {', '.join(_STATE_KEYS)}, or tensors by "
            f"name; found {content}"
        )
    strange = [name for name in state if not isinstance(name, str) or not name.isprintable()]
    if strange:
        raise WeightsError(f"{path}: {strange[0]!r} is not the name of a parameter. Damaged?")
    return dict(state)


def _require_whole(file: WeightsFile) -> None:
    """Refuse tensors that share their values: a small file of them asks for any memory.

    Raises:
        WeightsError: the tensors have several times the bytes of the file.
    """
    tensors = [value for value in file.state.values() if not value.is_meta]
    in_file = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    num_bytes = sum(value.numel() * value.itemsize for value in tensors)
    if num_bytes > _MAX_SHARING * sum(in_file.values()):
        raise WeightsError(
            f"{file.path}: its tensors have {num_bytes:,} bytes, and its file only "
            f"{sum(in_file.values()):,}: they are views of the same values. Save a whole state "
            "dict, {name: tensor.contiguous() for each}"
        )


def quantised_error(path: str, name: str) -> WeightsError:
    """Return the error for weights of whole numbers; ``name`` is the first of them."""
    return WeightsError(
        f"{path}: quantised ({name}). Models here compute with floating-point weights, and the "
        "rounding cannot be undone: give the weights from before (float32, bfloat16 or float16), "
        "and quantise the model that they are loaded into"
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors by name, and the metadata."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise WeightsError(f"{path}: reading it {NO_SAFETENSORS}") from error
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = describe_other_file(path) or f"{error}. Copy or download it again"
        if is_zip(path):
            reason = "it is a file of torch.save. Name it .pth"
        raise WeightsError(
            f"{path}: not a readable safetensors file, or damaged: {reason}"
        ) from error


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of layout {value.layout}"
    return "nothing" if value is None else f"a {type(value).__name__}"
