"""Checkpoints of which each process writes its own part, for models too large to gather each time.

The tensors go through torch.distributed.checkpoint, named like ``model/blocks.0.norm1.weight``,
``optimizer/17/exp_avg`` and ``ema/blocks.0.norm1.weight``; ``sharded_files`` shows the folder. Any
number of processes can go on from it, and ``unshard`` makes of it the ``.pyth`` file that one
process would have written.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from slowfast_mvit.errors import UserError, WeightsError
from slowfast_mvit.runtime.checkpoint import (
    OUR_KEY,
    TrainingState,
    plain_name,
    require_plain,
    restore,
)
from slowfast_mvit.runtime.checkpoint_files import Position, checkpoint_path, mid_epoch_path
from slowfast_mvit.runtime.distributed import (
    from_main,
    gather_objects,
    is_main,
    rank,
    world_size,
)
from slowfast_mvit.runtime.sharded_files import (
    PLAIN_VALUES,
    FileFacts,
    file_facts,
    is_sharded,
    prune_sharded,
    publish,
    read_manifest,
    remove_unfinished_sharded,
    require_unchanged,
    sharded_newest_first,
    sharded_path,
    sharded_position,
    unfinished_path,
    write_manifest,
)
from slowfast_mvit.runtime.sharded_metadata import METADATA, TensorReader, read_metadata
from slowfast_mvit.storage import read_torch, save_torch

__all__ = [
    "is_sharded",
    "load_sharded",
    "newest_sharded",
    "save_sharded",
    "sharded_newest_first",
    "sharded_position",
    "unshard",
]

logger = logging.getLogger(__name__)


def save_sharded(
    output_dir: str | Path,
    *,
    epoch: int,
    step: int,
    module: nn.Module,
    optimizer: Optimizer,
    cfg_text: str,
    extra: Mapping[str, Any],
    ema: nn.Module | None = None,
    scaler_state: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint so that a crash leaves either all of it or nothing; all processes call it.

    Those after an epoch are kept, of those inside epochs the two newest.

    Args:
        output_dir: ``OUTPUT_DIR`` of the run, a folder that all processes share.
        epoch: 0-based number of the last finished epoch; -1 inside the first.
        step: steps done of the next one.
        module: from ``parallel.parallelise``.
        optimizer: over its parameters.
        ema: the moving average of the weights, cut into the same slices.
        (the rest): see ``runtime.checkpoint.save_checkpoint``.

    Returns:
        The folder written.

    Raises:
        TypeError: ``extra`` holds something that could not be read back safely.
        UserError: the processes do not share ``output_dir``, or it cannot be completed there.
        OSError: the tensors cannot be written.
    """
    require_plain(extra, OUR_KEY)
    position = Position(epoch + 1, step)
    folder = sharded_path(output_dir, position)
    unfinished = unfinished_path(folder)
    packed = optimizer.state_dict()
    tensors = _all_tensors(module, packed["state"], ema)
    plain = {
        "epoch": epoch,
        "cfg": cfg_text,
        OUR_KEY: {**extra, "step": step},
        "param_groups": packed["param_groups"],
        "scaler_state": None if scaler_state is None else dict(scaler_state),
        "tensors": list(tensors),
    }
    if is_main():
        remove_unfinished_sharded(output_dir)
    from_main(None)  # nobody writes before the old files are gone
    _write_tensors(unfinished, tensors)
    own = {path.name: file_facts(path) for path in unfinished.glob(f"__{rank()}_*")}
    files = {name: facts for part in gather_objects(own) for name, facts in part.items()}
    problem = None
    if is_main():
        try:
            _finish(unfinished, folder, files, plain)
            prune_sharded(output_dir, position)
        except (OSError, UserError) as error:
            problem = str(error)
    problem = from_main(problem)  # so that no process waits for one that has failed
    if problem is not None:
        raise UserError(f"{folder}: not written: {problem}")
    return folder


def _finish(
    unfinished: Path, folder: Path, files: dict[str, FileFacts], plain: dict[str, Any]
) -> None:
    """Complete a folder and give it its name."""
    missing = [name for name in files if not (unfinished / name).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} files that other processes wrote are not there (first: "
            f"{missing[0]}). TRAIN.SHARDED_CHECKPOINTS needs an OUTPUT_DIR that all nodes share"
        )
    save_torch(unfinished / PLAIN_VALUES, plain)
    for name in (METADATA, PLAIN_VALUES):
        files[name] = file_facts(unfinished / name)
    write_manifest(
        unfinished,
        files,
        epoch=plain["epoch"],
        step=plain[OUR_KEY]["step"],
        world_size=world_size(),
        torch=torch.__version__,
    )
    publish(unfinished, folder)


def newest_sharded(output_dir: str | Path) -> Path | None:
    """The newest whole sharded checkpoint of a run, or None where there is none yet.

    A damaged one is named in a warning and the one before it is taken.

    Raises:
        WeightsError: there are some and all are damaged; a new run would overwrite them.
    """
    folders = sharded_newest_first(output_dir)
    for folder in folders:
        try:
            require_unchanged(folder, read_manifest(folder))
        except WeightsError as error:
            logger.warning("Checkpoint rejected, trying the one before: %s", error)
        else:
            return folder
    if folders:
        raise WeightsError(
            f"{output_dir}/sharded: none of the {len(folders)} checkpoints can be read. Move them "
            "away, or set TRAIN.AUTO_RESUME False, to start from the beginning"
        )
    return None


def load_sharded(
    folder: str | Path,
    module: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler | None = None,
    *,
    ema: nn.Module | None = None,
) -> TrainingState:
    """``runtime.checkpoint.load_training_state`` from a sharded checkpoint; all processes call it.

    Their number need not be that of the run which wrote it, nor the strategy.

    Raises:
        WeightsError: the checkpoint is damaged, or does not fit the model or the optimizer.
    """
    own = _owners(module, optimizer, ema)
    content = _read_content(Path(folder), own)
    return restore(folder, content, module, optimizer, scaler, ema=ema)


def unshard(folder: str | Path, out: str | Path | None = None) -> Path:
    """Make one ``.pyth`` file of a sharded checkpoint, in one process.

    Args:
        folder: the checkpoint.
        out: the file; None for where the run would have written it without sharding.

    Returns:
        The file written.

    Raises:
        WeightsError: the checkpoint is damaged.
    """
    folder = Path(folder).absolute()
    content = _read_content(folder, {})
    if out is None:
        out = _unsharded_path(folder)
    return save_torch(out, content)


def _unsharded_path(folder: Path) -> Path:
    position = sharded_position(folder)
    output_dir = folder.parent.parent
    if position.step:
        return mid_epoch_path(output_dir, position)
    return checkpoint_path(output_dir, position.epoch - 1)


def _all_tensors(
    module: nn.Module, optimizer_state: Mapping[int, Mapping[str, Any]], ema: nn.Module | None
) -> dict[str, Tensor]:
    """All that a checkpoint holds of tensors, whole or in slices, by their names in it."""
    return {
        **_with_prefix("model", module),
        **{
            f"optimizer/{index}/{name}": value
            for index, remembered in optimizer_state.items()
            for name, value in remembered.items()
        },
        **({} if ema is None else _with_prefix("ema", ema)),
    }


def _with_prefix(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}/{plain_name(name)}": t for name, t in module.state_dict().items()}


def _owners(module: nn.Module, optimizer: Optimizer, ema: nn.Module | None) -> dict[str, Tensor]:
    """The tensors of this run whose slices those of a checkpoint should be cut like.

    What the optimizer remembers is cut like its parameter, found under ``optimizer/17``.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        **_with_prefix("model", module),
        **{f"optimizer/{index}": parameter for index, parameter in enumerate(parameters)},
        **({} if ema is None else _with_prefix("ema", ema)),
    }


def _read_content(folder: Path, owners: Mapping[str, Tensor]) -> dict[str, Any]:
    """A checkpoint in the layout of a ``.pyth`` file, tensors cut like those of the owners."""
    files = read_manifest(folder)
    _require_unchanged_together(folder, files)
    metadata = read_metadata(folder, files)
    plain = read_torch(folder / PLAIN_VALUES)
    described = metadata.state_dict_metadata
    if described.keys() != set(plain["tensors"]):
        raise WeightsError(f"{folder}: {PLAIN_VALUES} and {METADATA} name different tensors")
    tensors = {key: _empty(described[key], owners.get(_owner_of(key))) for key in plain["tensors"]}
    _fill(folder, tensors, TensorReader(folder, metadata))

    content: dict[str, Any] = {
        "epoch": plain["epoch"],
        "model_state": _under("model/", tensors),
        "optimizer_state": {
            "state": _optimizer_state(tensors),
            "param_groups": plain["param_groups"],
        },
        "cfg": plain["cfg"],
        OUR_KEY: plain[OUR_KEY],
    }
    if plain["scaler_state"] is not None:
        content["scaler_state"] = plain["scaler_state"]
    averages = _under("ema/", tensors)
    return {**content, "ema_state": averages} if averages else content


def _require_unchanged_together(folder: Path, files: Mapping[str, FileFacts]) -> None:
    """Each process reads a share of the files for their hashes; all of them hear of damage."""
    names = sorted(files)[rank() :: world_size()]
    problem = None
    try:
        require_unchanged(folder, {name: files[name] for name in names})
    except WeightsError as error:
        problem = str(error)
    problems = [found for found in gather_objects(problem) if found is not None]
    if problems:
        raise WeightsError(problems[0])


def _owner_of(key: str) -> str:
    return key.rpartition("/")[0] if key.startswith("optimizer/") else key


def _empty(described: Any, owner: Tensor | None) -> Tensor:
    """Room for a tensor: for this process's slice if its owner is sliced, else for all of it."""
    dtype = described.properties.dtype
    if owner is not None and owner.shape == described.size:
        return torch.empty_like(owner, dtype=dtype, requires_grad=False)
    return torch.empty(described.size, dtype=dtype)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }


def _optimizer_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _under("optimizer/", tensors).items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = tensor
    return state


def _write_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    with _alone_in_peace():
        try:
            save(dict(tensors), storage_writer=FileSystemWriter(folder))
        except CheckpointException as error:
            raise OSError(f"{folder}: cannot be written ({_first(error)})") from error


def _fill(folder: Path, tensors: dict[str, Tensor], reader: TensorReader) -> None:
    with _alone_in_peace():
        try:
            load(tensors, storage_reader=reader)
        except CheckpointException as error:
            raise WeightsError(f"{folder}: cannot be read ({_first(error)})") from error


@contextlib.contextmanager
def _alone_in_peace() -> Iterator[None]:
    """One process without a group is nothing to be warned of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _first(error: CheckpointException) -> str:
    failed_rank, (failure, _) = next(iter(error.failures.items()))
    return f"rank {failed_rank}: {type(failure).__name__}: {failure}"
