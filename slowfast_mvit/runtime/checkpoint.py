"""Checkpoints that PySlowFast can read and write too: saving, finding the newest, going on from it.

A file ``OUTPUT_DIR/checkpoints/checkpoint_epoch_00003.pyth`` is a dict of
    epoch            0-based number of the last epoch that is finished, here 2
    model_state      parameter name -> tensor, without the prefixes of wrappers
    optimizer_state  as torch's ``state_dict()``
    cfg              the resolved config, a YAML string
    scaler_state     only in float16
    ema_state        only with a moving average: parameter name -> tensor
    slowfast_mvit    ours: plain values (step, seed, input_spec, ...); PySlowFast ignores it
A checkpoint inside an epoch is the same, with the steps that are done of the next one as ``step``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slowfast_mvit.errors import WeightsError, in_one_message
from slowfast_mvit.runtime.checkpoint_files import (
    Position,
    best_path,
    checkpoint_path,
    mid_epoch_path,
    newest_first,
    position_of,
    prune_mid_epoch,
    refuse_sharded,
)
from slowfast_mvit.runtime.distributed import on_main
from slowfast_mvit.runtime.parallel import bare_model, fill_module, fill_optimizer, plain_name
from slowfast_mvit.storage import read_torch, save_torch

logger = logging.getLogger(__name__)

OUR_KEY = "slowfast_mvit"
PLAIN = (str, int, float, bool, type(None))
# Keys of an optimizer's groups that the config does not set: a GPU has its step done in one kernel.
NO_SETTINGS = {"params", "lr", "fused"}
NUM_MISFITS_SHOWN = 4  # of the parameters of a checkpoint that is not this model's
# What each optimizer of torch remembers of a parameter, and so must find in a checkpoint.
REMEMBERED = {
    "SGD": {"momentum_buffer"},
    "Adam": {"step", "exp_avg", "exp_avg_sq"},
    "AdamW": {"step", "exp_avg", "exp_avg_sq"},
}


@dataclass(frozen=True)
class TrainingState:
    """The state of training when a checkpoint was written.

    Attributes:
        epoch: 0-based number of the last finished epoch.
        extra: our plain values; empty in PySlowFast's own files.
    """

    epoch: int
    extra: dict[str, Any]


def save_checkpoint(
    output_dir: str | Path,
    *,
    epoch: int,
    step: int = 0,
    model_state: Mapping[str, Tensor],
    optimizer_state: Mapping[str, Any],
    cfg_text: str,
    extra: Mapping[str, Any],
    scaler_state: Mapping[str, Any] | None = None,
    ema_state: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint so that a crash leaves either all of it or nothing.

    Args:
        output_dir: ``OUTPUT_DIR`` of the run.
        epoch: 0-based number of the last finished epoch; -1 inside the first.
        step: steps done of the next one; above 0 the file goes to ``mid_epoch``, where older ones
            are deleted.
        model_state: ``model.state_dict()``; prefixes of wrappers are taken off.
        optimizer_state: ``optimizer.state_dict()``.
        cfg_text: the resolved config as YAML.
        extra: plain values: numbers, strings, None, and lists, tuples and dicts of them.
        scaler_state: ``scaler.state_dict()`` of a float16 run.
        ema_state: ``state_dict()`` of the moving average, if there is one.

    Returns:
        The file written.

    Raises:
        TypeError: ``extra`` holds something else, which could not be read back safely.
    """
    require_plain(extra, OUR_KEY)
    content: dict[str, Any] = {
        "epoch": epoch,
        "model_state": _with_plain_names(model_state),
        "optimizer_state": dict(optimizer_state),
        "cfg": cfg_text,
        OUR_KEY: {**extra, "step": step},
    }
    if scaler_state is not None:
        content["scaler_state"] = dict(scaler_state)
    if ema_state is not None:
        content["ema_state"] = _with_plain_names(ema_state)
    if step == 0:
        return save_torch(checkpoint_path(output_dir, epoch), content)
    position = Position(epoch + 1, step)
    path = save_torch(mid_epoch_path(output_dir, position), content)
    prune_mid_epoch(output_dir, position)
    return path


def save_best(
    output_dir: str | Path,
    *,
    epoch: int,
    model_state: Mapping[str, Tensor],
    cfg_text: str,
    extra: Mapping[str, Any],
) -> Path:
    """Write the weights that have validated best so far; a run cannot go on from them.

    Args:
        epoch: 0-based epoch after which they were validated.
        (the rest): see ``save_checkpoint``.
    """
    require_plain(extra, OUR_KEY)
    content = {
        "epoch": epoch,
        "model_state": _with_plain_names(model_state),
        "cfg": cfg_text,
        OUR_KEY: dict(extra),
    }
    return save_torch(best_path(output_dir), content)


def latest_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest readable checkpoint of a run, or None where there is none yet.

    A damaged file is named in a warning and the one before it is taken.

    Raises:
        WeightsError: there are checkpoints and none can be read; a new run would overwrite them.
        ShardedCheckpointError: a sharded checkpoint of an earlier version is newer.
    """
    candidates = newest_first(output_dir)
    for path in candidates:
        try:
            _read(path)
        except WeightsError as error:
            logger.warning("Checkpoint rejected, trying the one before: %s", error)
        else:
            refuse_sharded(output_dir, position_of(path))
            return path
    refuse_sharded(output_dir, None)
    if candidates:
        raise WeightsError(
            f"{output_dir}: none of the {len(candidates)} checkpoints can be read. Move them away, "
            "or set TRAIN.AUTO_RESUME False, to start from the beginning"
        )
    return None


def training_epoch(path: str | Path) -> int | None:
    """The last epoch (0-based) of the run that wrote this file, or None where no run can go on.

    None is for a file of weights alone, and for one that is no checkpoint of ours or PySlowFast's:
    loading its weights says what it is.
    """
    try:
        return int(_read(path)["epoch"])
    except WeightsError:
        return None


def load_training_state(
    path: str | Path,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler | None = None,
    *,
    ema: nn.Module | None = None,
) -> TrainingState:
    """Put a run back to where a checkpoint was written, in place.

    All processes call it together; only the main one reads the file. The optimizer keeps its own
    settings (weight decay, betas, ...): the config of today counts.

    Args:
        path: a checkpoint of ours or of PySlowFast.
        scaler: of a float16 run; it starts afresh, with a warning, where the file has no state
            for it.
        ema: the moving average of the weights; the same.

    Raises:
        WeightsError: the file cannot be read, or does not fit the model or the optimizer.
    """
    content: dict[str, Any] = {}  # of the file, in the main process

    def read() -> dict[str, Any]:
        content.update(_read(path))
        _require_fit(path, content, model, optimizer, ema)
        return {key: content[key] for key in ("epoch", OUR_KEY, "scaler_state") if key in content}

    plain = on_main(read)
    fill_module(model, content.get("model_state", {}))
    fill_optimizer(model, optimizer, content.get("optimizer_state", {}))
    if scaler is not None and scaler.is_enabled():
        if "scaler_state" in plain:
            scaler.load_state_dict(plain["scaler_state"])
        else:
            logger.warning("%s: no state of a float16 loss scaler; it starts afresh", path)
    if ema is not None:
        fill_module(ema, content.get("ema_state", content.get("model_state", {})))
    return TrainingState(epoch=int(plain["epoch"]), extra=dict(plain.get(OUR_KEY, {})))


def _with_plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {plain_name(name): tensor for name, tensor in state.items()}


def _read(path: str | Path) -> dict[str, Any]:
    content = read_torch(path)
    if not isinstance(content, dict) or not {"epoch", "model_state"} <= content.keys():
        raise WeightsError(
            f"{path}: no training checkpoint, it lacks 'epoch' or 'model_state'. "
            "Weights alone can be given as TRAIN.CHECKPOINT_FILE_PATH with CHECKPOINT_EPOCH_RESET"
        )
    return content


def _require_fit(
    path: str | Path,
    content: dict[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    ema: nn.Module | None,
) -> None:
    """Compare a file with the run before anything is loaded; its tensors get plain names."""
    for key, module in (("model_state", model), ("ema_state", ema)):
        if key in content and module is not None:
            content[key] = _with_plain_names(content[key])
            _require_same_tensors(path, content[key], module)
    if ema is not None and "ema_state" not in content:
        logger.warning("%s: no moving average; it starts afresh from the weights", path)
    _require_optimizer(path, content.get("optimizer_state"), optimizer)


def _require_same_tensors(path: str | Path, saved: Mapping[str, Tensor], module: nn.Module) -> None:
    own = _with_plain_names(bare_model(module).state_dict())
    problems = [
        *(f"missing: {name}" for name in own if name not in saved),
        *(f"unexpected: {name}" for name in saved if name not in own),
        *(
            f"size mismatch for {name}: {_shape(saved[name])}, this model's is {_shape(tensor)}"
            for name, tensor in own.items()
            if name in saved and _shape(saved[name]) != _shape(tensor)
        ),
    ]
    if problems:
        more = len(problems) - NUM_MISFITS_SHOWN
        shown = problems[:NUM_MISFITS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise WeightsError(
            f"{path}: does not fit this model, no run can go on from it\n"
            + "\n".join(f"  {line}" for line in shown)
            + "\nThe file keeps the config that it was trained with (slowfast-mvit weights inspect "
            "shows what it holds). For another model choose another OUTPUT_DIR"
        )


def _shape(value: object) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _require_optimizer(
    path: str | Path, saved: Mapping[str, Any] | None, optimizer: Optimizer
) -> None:
    if not saved or not {"state", "param_groups"} <= saved.keys():
        raise WeightsError(
            f"{path}: holds no optimizer state, so no run can go on from it. To start from its "
            "weights, set TRAIN.CHECKPOINT_EPOCH_RESET True"
        )
    own = optimizer.param_groups
    sizes = [len(group["params"]) for group in own]
    found = [len(group["params"]) for group in saved["param_groups"]]
    if sizes != found:
        raise WeightsError(
            f"{path}: its optimizer has parameter groups of {found} tensors, this run's has "
            f"{sizes}. Was TRAIN.FREEZE, SOLVER.ZERO_WD_1D_PARAM, SOLVER.LAYER_DECAY or "
            "MVIT.ZERO_DECAY_POS_CLS changed?"
        )
    problems = _misfits(saved["state"], optimizer)
    if problems:
        raise WeightsError(in_one_message(f"{path}: optimizer state does not fit", problems))
    _tell_changed_settings(path, saved["param_groups"], own)


def _misfits(state: Mapping[int, Mapping[str, Any]], optimizer: Optimizer) -> list[str]:
    """Return what is wrong with the state of the first parameter that does not fit, if any."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    required = REMEMBERED.get(type(optimizer).__name__, set())
    for index, remembered in state.items():
        missing = required - remembered.keys()
        if missing:
            return [
                f"written by another method: no {', '.join(sorted(missing))}, which "
                f"{type(optimizer).__name__} needs (SOLVER.OPTIMIZING_METHOD)"
            ]
        shapes = {tuple(t.shape) for t in remembered.values() if isinstance(t, Tensor) and t.ndim}
        if shapes - {tuple(parameters[index].shape)}:
            return [
                f"parameter {index}: shape {sorted(shapes)}, "
                f"this model's is {tuple(parameters[index].shape)}"
            ]
    return []


def _tell_changed_settings(
    path: str | Path, saved: list[dict[str, Any]], own: list[dict[str, Any]]
) -> None:
    """Say once which optimizer settings the config has changed since the checkpoint."""
    changed = {
        f"{name} {before[name]!r} -> {now[name]!r}"
        for before, now in zip(saved, own, strict=True)
        for name in now
        if name not in NO_SETTINGS and name in before and before[name] != now[name]
    }
    if changed:
        logger.warning(
            "%s: optimizer settings changed since, the new ones are used: %s",
            path,
            "; ".join(sorted(changed)),
        )


def require_plain(value: object, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            require_plain(key, where)
            require_plain(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            require_plain(item, where)
    elif type(value) not in PLAIN:
        raise TypeError(f"{where} must hold plain values only, got {type(value).__name__}")
