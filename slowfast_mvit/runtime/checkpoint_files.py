"""The checkpoints of a run as files: what they are called, which are newest, which can go.

    OUTPUT_DIR/checkpoints/checkpoint_epoch_00003.pyth        after epoch 3; kept
    OUTPUT_DIR/checkpoints/best.pyth                          the weights that validated best
    OUTPUT_DIR/mid_epoch/epoch_00004_step_00000250.pyth       inside epoch 4; the newest two stay

PySlowFast resumes from the last file in ``checkpoints`` whose name begins with "checkpoint", so no
other file there may.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import NamedTuple

from slowfast_mvit.errors import ShardedCheckpointError

logger = logging.getLogger(__name__)

NUM_MID_EPOCH_KEPT = 2  # the newest, and one to fall back on if it is damaged

_NUMBERED = re.compile(r"checkpoint_epoch_(\d+)\.pyth")
_MID_EPOCH = re.compile(r"epoch_(\d+)_step_(\d+)\.pyth")
_SHARDED = re.compile(r"epoch_(\d+)_step_(\d+)")


class Position(NamedTuple):
    """The progress of a run: ``step`` steps are done of the 0-based ``epoch``."""

    epoch: int
    step: int = 0


def checkpoint_path(output_dir: str | Path, epoch: int) -> Path:
    """Return where the checkpoint after the 0-based ``epoch`` goes."""
    return Path(output_dir) / "checkpoints" / f"checkpoint_epoch_{epoch + 1:05d}.pyth"


def mid_epoch_path(output_dir: str | Path, position: Position) -> Path:
    """Return where a checkpoint inside an epoch goes."""
    name = f"epoch_{position.epoch + 1:05d}_step_{position.step:08d}.pyth"
    return Path(output_dir) / "mid_epoch" / name


def best_path(output_dir: str | Path) -> Path:
    """Return where the weights go that validated best."""
    return Path(output_dir) / "checkpoints" / "best.pyth"


def newest_first(output_dir: str | Path) -> list[Path]:
    """Every checkpoint of a run that it could go on from, the one furthest on first."""
    numbered = (Path(output_dir) / "checkpoints").glob("checkpoint*.pyth")
    paths = [*numbered, *_mid_epoch(output_dir)]
    return sorted(paths, key=lambda path: (position_of(path), path.name), reverse=True)


def position_of(path: str | Path) -> Position:
    """Return how far the run had come that wrote this file, by its name."""
    name = Path(path).name
    if match := _NUMBERED.fullmatch(name):
        return Position(int(match[1]))
    if match := _MID_EPOCH.fullmatch(name):
        return Position(int(match[1]) - 1, int(match[2]))
    return Position(0)  # somebody named it otherwise: it comes after those that say where they are


def refuse_sharded(output_dir: str | Path, newest: Position | None) -> None:
    """Raise an error if a sharded checkpoint is newer than every other checkpoint of a run.

    Earlier versions wrote ``OUTPUT_DIR/sharded/epoch_00003_step_00250`` after 3 epochs and 250
    steps of the next one (``TRAIN.SHARDED_CHECKPOINTS``), its manifest last.

    Args:
        newest: the position of the newest checkpoint that can be read; None if there is none.

    Raises:
        ShardedCheckpointError: names the newest such folder and the command that converts it.
    """
    positions = {
        path.parent: Position(int(match[1]), int(match[2]))
        for path in (Path(output_dir) / "sharded").glob("*/manifest.json")
        if (match := _SHARDED.fullmatch(path.parent.name))
    }
    folder = max(positions, key=lambda folder: positions[folder], default=None)
    if folder is not None and (newest is None or positions[folder] > newest):
        raise ShardedCheckpointError(folder)


def prune_mid_epoch(output_dir: str | Path, newest: Position) -> None:
    """Delete checkpoints inside epochs, but for the two furthest on up to ``newest``.

    Those beyond it belong to another run, and are left to their owner.
    """
    passed = [path for path in _mid_epoch(output_dir) if position_of(path) <= newest]
    for path in sorted(passed, key=position_of)[:-NUM_MID_EPOCH_KEPT]:
        path.unlink(missing_ok=True)


def remove_mid_epoch(output_dir: str | Path) -> None:
    """Delete them all, once the run is at its end and its last checkpoint is written."""
    for path in _mid_epoch(output_dir):
        path.unlink(missing_ok=True)
    folder = Path(output_dir) / "mid_epoch"
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def remove_unfinished(output_dir: str | Path) -> None:
    """Delete what a run left behind that was killed while it wrote a checkpoint.

    Only for a run that starts: another one writing to the same folder would lose its file.
    """
    for folder in ("checkpoints", "mid_epoch"):
        for path in (Path(output_dir) / folder).glob(".tmp-*.pyth"):
            path.unlink(missing_ok=True)
            logger.info("removed an unfinished checkpoint, %s", path)


def _mid_epoch(output_dir: str | Path) -> list[Path]:
    paths = (Path(output_dir) / "mid_epoch").glob("*.pyth")
    return [path for path in paths if _MID_EPOCH.fullmatch(path.name)]
