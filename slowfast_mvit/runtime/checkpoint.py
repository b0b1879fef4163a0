"""Checkpoints that PySlowFast can read and write too: save, find the most recent, resume from it.

    OUTPUT_DIR/checkpoints/checkpoint_epoch_00003.pyth        after epoch 3; never deleted
    OUTPUT_DIR/checkpoints/best.pyth                          the weights that validated best
    OUTPUT_DIR/mid_epoch/epoch_00004_step_00000250.pyth       inside epoch 4; the newest two stay

PySlowFast resumes from the last file in ``checkpoints`` whose name begins with "checkpoint", so no
other file there may. ``checkpoint_epoch_00003.pyth`` is a dict of

    epoch            0-based number of the last finished epoch, here 2
    model_state      parameter name -> tensor, without the prefixes of wrappers
    optimizer_state  as torch's ``state_dict()``
    cfg              the resolved config, a YAML string
    scaler_state     only in float16
    ema_state        only with a moving average: parameter name -> tensor
    slowfast_mvit    ours: plain values (step, seed, input_spec, ...); PySlowFast ignores it

A checkpoint inside an epoch is the same; ``step`` counts the finished steps of the next epoch.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slowfast_mvit.errors import ShardedCheckpointError, WeightsError, in_one_message
from slowfast_mvit.runtime.distributed import on_main
from slowfast_mvit.runtime.parallel import bare_model, fill_module, fill_optimizer, plain_name
from slowfast_mvit.storage import read_torch, save_torch

logger = logging.getLogger(__name__)

OUR_KEY = "slowfast_mvit"
NUM_MID_EPOCH = 2  # checkpoints inside epochs: the newest, and one to fall back on
PLAIN = (str, int, float, bool, type(None))
# Keys of an optimizer's groups that the config does not set: on a GPU the step is one fused kernel.
NO_SETTINGS = {"params", "lr", "fused"}
NUM_MISFITS_SHOWN = 4  # of the parameters of a checkpoint of another model
# The state of each parameter in torch's optimizers, which a checkpoint must contain.
PARAMETER_STATE = {
    "SGD": {"momentum_buffer"},
    "Adam": {"step", "exp_avg", "exp_avg_sq"},
    "AdamW": {"step", "exp_avg", "exp_avg_sq"},
}

_EPOCH = re.compile(r"checkpoint_epoch_(\d+)")
_STEP = re.compile(r"epoch_(\d+)_step_(\d+)")


class Position(NamedTuple):
    """The progress of a run: ``step`` steps of the 0-based ``epoch`` are finished."""

    epoch: int
    step: int = 0


# Names of files


def checkpoint_path(output_dir: str | Path, epoch: int, step: int = 0) -> Path:
    """Return the path of the checkpoint after the 0-based ``epoch`` and ``step`` steps more."""
    if step:
        name = f"epoch_{epoch + 2:05d}_step_{step:08d}.pyth"
        return Path(output_dir) / "mid_epoch" / name
    return Path(output_dir) / "checkpoints" / f"checkpoint_epoch_{epoch + 1:05d}.pyth"


def best_path(output_dir: str | Path) -> Path:
    """Return the path of the weights that validated best."""
    return Path(output_dir) / "checkpoints" / "best.pyth"


def newest_first(output_dir: str | Path) -> list[Path]:
    """Return every checkpoint that the run could resume from, the most recent first."""
    numbered = (Path(output_dir) / "checkpoints").glob("checkpoint*.pyth")
    paths = [*numbered, *_mid_epoch(output_dir)]
    return sorted(paths, key=lambda path: (position_of(path), path.name), reverse=True)


def position_of(path: str | Path) -> Position:
    """Return the progress of the run that wrote this file, by its name."""
    name = Path(path).name.removesuffix(".pyth")
    if match := _EPOCH.fullmatch(name):
        return Position(int(match[1]))
    if match := _STEP.fullmatch(name):
        return Position(int(match[1]) - 1, int(match[2]))
    return Position(0)  # files with other names come last


def _mid_epoch(output_dir: str | Path) -> list[Path]:
    paths = (Path(output_dir) / "mid_epoch").glob("*.pyth")
    return [path for path in paths if _STEP.fullmatch(path.stem)]


def remove_mid_epoch(output_dir: str | Path) -> None:
    """Delete all checkpoints inside epochs, once the last checkpoint of the run is written."""
    for path in _mid_epoch(output_dir):
        path.unlink(missing_ok=True)
    folder = Path(output_dir) / "mid_epoch"
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def remove_unfinished(output_dir: str | Path) -> None:
    """Delete files of a run that was killed while it wrote a checkpoint.

    Only for a run that starts: another one writing to the same folder would lose its file.
    """
    for folder in ("checkpoints", "mid_epoch"):
        for path in (Path(output_dir) / folder).glob(".tmp-*.pyth"):
            path.unlink(missing_ok=True)
            logger.info("removed an unfinished checkpoint, %s", path)


# Saving


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
        step: finished steps of the next one; above 0 the file goes to ``mid_epoch``, and all but
            the most recent two up to this position are deleted there.
        model_state: ``model.state_dict()``; prefixes of wrappers are taken off.
        optimizer_state: ``optimizer.state_dict()``.
        cfg_text: the resolved config as YAML.
        extra: plain values: numbers, strings, None, and lists, tuples and dicts of them.
        scaler_state: ``scaler.state_dict()`` of a float16 run.
        ema_state: ``state_dict()`` of the moving average, if there is one.

    Returns:
        The file written.

    Raises:
        TypeError: ``extra`` contains something else, which could not be read back safely.
    """
    _require_plain(extra, OUR_KEY)
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
    path = save_torch(checkpoint_path(output_dir, epoch, step), content)
    if step > 0:  # files of later positions belong to another run
        passed = [p for p in _mid_epoch(output_dir) if position_of(p) <= position_of(path)]
        for passed_path in sorted(passed, key=position_of)[:-NUM_MID_EPOCH]:
            passed_path.unlink(missing_ok=True)
    return path


def save_best(
    output_dir: str | Path,
    *,
    epoch: int,
    model_state: Mapping[str, Tensor],
    cfg_text: str,
    extra: Mapping[str, Any],
) -> Path:
    """Write the weights that have validated best so far; a run cannot resume from them.

    Args:
        epoch: 0-based epoch after which they were validated.
        (the rest): see ``save_checkpoint``.
    """
    _require_plain(extra, OUR_KEY)
    content = {
        "epoch": epoch,
        "model_state": _with_plain_names(model_state),
        "cfg": cfg_text,
        OUR_KEY: dict(extra),
    }
    return save_torch(best_path(output_dir), content)


def _with_plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {plain_name(name): tensor for name, tensor in state.items()}


def _require_plain(value: object, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_plain(key, where)
            _require_plain(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            _require_plain(item, where)
    elif type(value) not in PLAIN:
        raise TypeError(f"{where} must hold plain values only, got {type(value).__name__}")


# Finding


def latest_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the most recent readable checkpoint of a run, or None where there is none yet.

    Raises:
        WeightsError: there are checkpoints and none can be read; a new run would overwrite them.
        ShardedCheckpointError: a sharded checkpoint of an earlier version is newer.
    """
    candidates = newest_first(output_dir)
    for path in candidates:
        try:
            _read(path)
        except WeightsError as error:
            logger.warning(
                "skipping corrupt checkpoint, falling back to the previous one: %s", error
            )
        else:
            _refuse_sharded(output_dir, position_of(path))
            return path
    _refuse_sharded(output_dir, None)
    if candidates:
        raise WeightsError(
            f"{output_dir}: none of the {len(candidates)} checkpoints can be read. Move them away, "
            "or set TRAIN.AUTO_RESUME False, to start from the beginning"
        )
    return None


def _refuse_sharded(output_dir: str | Path, newest: Position | None) -> None:
    """Raise an error if a sharded checkpoint is newer than ``newest``, the newest readable one.

    Earlier versions wrote ``OUTPUT_DIR/sharded/epoch_00003_step_00250`` after 3 epochs and 250
    steps of the next one (``TRAIN.SHARDED_CHECKPOINTS``), its manifest last.
    """
    positions = {
        path.parent: Position(int(match[1]), int(match[2]))
        for path in (Path(output_dir) / "sharded").glob("*/manifest.json")
        if (match := _STEP.fullmatch(path.parent.name))
    }
    folder = max(positions, key=lambda folder: positions[folder], default=None)
    if folder is not None and (newest is None or positions[folder] > newest):
        raise ShardedCheckpointError(folder)


def training_epoch(path: str | Path) -> int | None:
    """Return the last epoch (0-based) of the run that wrote this file; None if none can resume.

    None is for a file of weights alone, and for one that is no checkpoint at all: loading its
    weights reports what it is.
    """
    try:
        return int(_read(path)["epoch"])
    except WeightsError:
        return None


def _read(path: str | Path) -> dict[str, Any]:
    content = read_torch(path)
    if not isinstance(content, dict) or not {"epoch", "model_state"} <= content.keys():
        raise WeightsError(
            f"{path}: no training checkpoint, it lacks 'epoch' or 'model_state'. "
            "Weights alone can be given as TRAIN.CHECKPOINT_FILE_PATH with CHECKPOINT_EPOCH_RESET"
        )
    return content


# Resuming


def load_training_state(
    path: str | Path,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler | None = None,
    *,
    ema: nn.Module | None = None,
) -> tuple[Position, dict[str, Any]]:
    """Restore the state of a run from a checkpoint, in place.

    All processes call it together; only the main one reads the file. The optimizer's settings
    (weight decay, betas, ...) stay as the present config has set them.

    Args:
        path: a checkpoint of ours or of PySlowFast.
        scaler: of a float16 run; starts over, with a warning, where the file has no state for it.
        ema: the moving average of the weights; the same.

    Returns:
        The position to resume from, and our plain values; none in PySlowFast's files.

    Raises:
        WeightsError: the file cannot be read, or does not fit the model or the optimizer.
    """
    content: dict[str, Any] = {}  # of the file, in the main process

    def read() -> dict[str, Any]:
        content.update(_read(path))
        for key, module in (("model_state", model), ("ema_state", ema)):
            if key in content and module is not None:
                content[key] = _with_plain_names(content[key])
                _require_same_tensors(path, content[key], module)
        if ema is not None and "ema_state" not in content:
            logger.warning("%s: no moving average; it starts over from the weights", path)
        _require_optimizer(path, content.get("optimizer_state"), optimizer)
        return {key: content[key] for key in ("epoch", OUR_KEY, "scaler_state") if key in content}

    plain = on_main(read)
    fill_module(model, content.get("model_state", {}))
    fill_optimizer(optimizer, content.get("optimizer_state", {}))
    if scaler is not None and scaler.is_enabled():
        if "scaler_state" in plain:
            scaler.load_state_dict(plain["scaler_state"])
        else:
            logger.warning("%s: no state of a float16 loss scaler; it starts over", path)
    if ema is not None:
        fill_module(ema, content.get("ema_state", content.get("model_state", {})))
    extra = dict(plain.get(OUR_KEY, {}))
    return Position(int(plain["epoch"]) + 1, int(extra.get("step", 0))), extra


def _require_same_tensors(path: str | Path, saved: Mapping[str, Tensor], module: nn.Module) -> None:
    state = _with_plain_names(bare_model(module).state_dict())
    expected = {name: _shape(tensor) for name, tensor in state.items()}
    shapes = {name: _shape(tensor) for name, tensor in saved.items()}
    problems = [
        *(f"missing: {name}" for name in expected if name not in shapes),
        *(f"unexpected: {name}" for name in shapes if name not in expected),
        *(
            f"size mismatch for {name}: {shapes[name]}, this model's is {shape}"
            for name, shape in expected.items()
            if name in shapes and shapes[name] != shape
        ),
    ]
    if problems:
        headline = f"{path}: does not fit this model, no run can resume from it"
        raise WeightsError(
            in_one_message(headline, problems, limit=NUM_MISFITS_SHOWN)
            + "\nThe file contains the config that it was trained with (slowfast-mvit weights "
            "inspect shows its content). For another model choose another OUTPUT_DIR"
        )


def _shape(value: object) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _require_optimizer(
    path: str | Path, saved: Mapping[str, Any] | None, optimizer: Optimizer
) -> None:
    if not saved or not {"state", "param_groups"} <= saved.keys():
        raise WeightsError(
            f"{path}: contains no optimizer state, so no run can resume from it. To start from its "
            "weights, set TRAIN.CHECKPOINT_EPOCH_RESET True"
        )
    sizes, sizes_saved = (
        [len(group["params"]) for group in groups]
        for groups in (optimizer.param_groups, saved["param_groups"])
    )
    if sizes != sizes_saved:
        raise WeightsError(
            f"{path}: its optimizer has parameter groups of {sizes_saved} tensors, this run's has "
            f"{sizes}. Was TRAIN.FREEZE, SOLVER.ZERO_WD_1D_PARAM, SOLVER.LAYER_DECAY or "
            "MVIT.ZERO_DECAY_POS_CLS changed?"
        )
    misfit = next(_misfits(saved["state"], optimizer), None)
    if misfit is not None:
        raise WeightsError(f"{path}: optimizer state does not fit: {misfit}")
    changed = {
        f"{name} {before[name]!r} -> {now[name]!r}"
        for before, now in zip(saved["param_groups"], optimizer.param_groups, strict=True)
        for name in now.keys() - NO_SETTINGS
        if name in before and before[name] != now[name]
    }
    if changed:
        logger.warning(
            "%s: optimizer settings changed since, the new ones are used: %s",
            path,
            "; ".join(sorted(changed)),
        )


def _misfits(state: Mapping[int, Mapping[str, Any]], optimizer: Optimizer) -> Iterator[str]:
    """Describe each part of a saved optimizer state that does not fit the parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    method = type(optimizer).__name__
    for index, values in state.items():
        missing = PARAMETER_STATE.get(method, set()) - values.keys()
        if missing:
            yield (
                f"written by another method: no {', '.join(sorted(missing))}, which {method} needs "
                "(SOLVER.OPTIMIZING_METHOD)"
            )
        shape = tuple(parameters[index].shape)
        shapes = {tuple(t.shape) for t in values.values() if isinstance(t, Tensor) and t.ndim}
        if shapes - {shape}:
            yield f"parameter {index}: shape {sorted(shapes)}, this model's is {shape}"
