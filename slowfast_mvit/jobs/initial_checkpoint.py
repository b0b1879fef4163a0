"""The file that ``TRAIN.CHECKPOINT_FILE_PATH`` names, and what is said where no run can go on.

PySlowFast goes on from a start file that holds an epoch and an optimizer, unless
``TRAIN.CHECKPOINT_EPOCH_RESET`` is set; those who want to fine-tune forget the key. Then nothing is
left to train, or the optimizer does not fit, and the message names the key.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from slowfast_mvit.config import Config
from slowfast_mvit.errors import ConfigError, WeightsError
from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.storage import local_copy, write_text_atomically
from slowfast_mvit.weights import LoadReport

LOAD_REPORT = "load_report.json"
TEST_LOAD_REPORT = "test_load_report.json"

_RESET = "set TRAIN.CHECKPOINT_EPOCH_RESET True"


def require_epochs_left(config: Config, last_epoch: int) -> None:
    """Refuse to go on from the start file if its run had finished as many epochs as are wanted.

    Args:
        config: names the file.
        last_epoch: 0-based, the last that its run had finished.

    Raises:
        ConfigError: says which key to set.
    """
    num_epochs, max_epoch = last_epoch + 1, config.solver.max_epoch
    if num_epochs >= max_epoch:
        raise ConfigError(
            f"TRAIN.CHECKPOINT_FILE_PATH {config.train.checkpoint_file_path}: its run has finished "
            f"{num_epochs} epochs, and SOLVER.MAX_EPOCH is {max_epoch}: going on with that run, "
            f"nothing is left to train. To begin a new run with its weights, {_RESET}; to train it "
            f"for longer, set SOLVER.MAX_EPOCH above {num_epochs}"
        )


@contextlib.contextmanager
def explained_start(config: Config, resume_from: Path | None) -> Iterator[None]:
    """Where a run cannot go on from the start file, say how to begin a new one with its weights.

    Args:
        config: names the file.
        resume_from: what the run goes on from; a checkpoint of its own needs no explanation.
    """
    path = config.train.checkpoint_file_path
    try:
        yield
    except WeightsError as error:
        is_start_file = path and resume_from == local_copy(path)
        if (
            not is_start_file
            or not str(error).startswith(f"{resume_from}:")
            or _RESET in str(error)
        ):
            raise
        raise WeightsError(
            f"{error}\nTRAIN.CHECKPOINT_FILE_PATH names this file, and going on with its run was "
            f"tried since it holds an epoch. To begin a new run with its weights, {_RESET}"
        ) from error


def write_load_report(report: LoadReport, path: Path) -> None:
    """Write what became of every parameter as JSON, on the main process."""
    if is_main():
        write_text_atomically(path, json.dumps(report.as_dict(), indent=2) + "\n")
