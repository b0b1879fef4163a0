"""The initial checkpoint, ``TRAIN.CHECKPOINT_FILE_PATH``, and the errors where no run can resume.

PySlowFast resumes from an initial checkpoint that holds an epoch and an optimizer, unless
``TRAIN.CHECKPOINT_EPOCH_RESET`` is set, which is easily forgotten for fine-tuning. Then nothing is
left to train, or the optimizer does not fit, and the message names the key.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from slowfast_mvit.config import Config
from slowfast_mvit.errors import ConfigError, ResumeError
from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.storage import local_copy, write_text_atomically
from slowfast_mvit.weights import LoadReport

LOAD_REPORT = "load_report.json"
TEST_LOAD_REPORT = "test_load_report.json"

_RESET = "set TRAIN.CHECKPOINT_EPOCH_RESET True"


def require_epochs_left(config: Config, last_epoch: int) -> None:
    """Refuse to resume from the initial checkpoint if its run has finished all epochs.

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
            f"{num_epochs} epochs, and SOLVER.MAX_EPOCH is {max_epoch}: if that run is resumed, "
            f"nothing is left to train. To start a new run from its weights, {_RESET}; to train it "
            f"for longer, set SOLVER.MAX_EPOCH above {num_epochs}"
        )


@contextlib.contextmanager
def explained_resume(config: Config, resume_from: Path | None) -> Iterator[None]:
    """Return where a run cannot resume from the initial checkpoint, explain how to start a new one.

    Args:
        config: names the file.
        resume_from: what the run resumes from; a checkpoint of its own needs no explanation.
    """
    path = config.train.checkpoint_file_path
    try:
        yield
    except ResumeError as error:
        if not path or resume_from != local_copy(path):
            raise
        raise ResumeError(
            f"{error}\nTRAIN.CHECKPOINT_FILE_PATH names this file. It holds an epoch, so its run "
            f"was to be resumed. To start a new run from its weights, {_RESET}"
        ) from error


def write_load_report(report: LoadReport, path: Path) -> None:
    """Write what became of every parameter as JSON, on the main process."""
    if is_main():
        write_text_atomically(path, json.dumps(report.as_dict(), indent=2) + "\n")
