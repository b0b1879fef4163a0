"""The checkpoint that a job starts from: of its run, initial, or evaluated.

PySlowFast resumes from an initial checkpoint (``TRAIN.CHECKPOINT_FILE_PATH``) that contains an
epoch and an optimizer, unless ``TRAIN.CHECKPOINT_EPOCH_RESET`` is set, which is easily forgotten
for fine-tuning. Then nothing is left to train, or the optimizer does not fit: errors name the key.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from slowfast_mvit import builders
from slowfast_mvit.config import Config
from slowfast_mvit.errors import ConfigError, ResumeError, WeightsError
from slowfast_mvit.jobs.agreement import warn_of_preprocessing
from slowfast_mvit.models import MViT
from slowfast_mvit.runtime.checkpoint import (
    best_path,
    latest_checkpoint,
    newest_first,
    training_epoch,
)
from slowfast_mvit.runtime.distributed import is_main, on_main
from slowfast_mvit.storage import read_torch, write_text_atomically
from slowfast_mvit.weights import LoadReport, load_weights
from slowfast_mvit.weights.fetch import local_weights

logger = logging.getLogger(__name__)

LOAD_REPORT = "load_report.json"
TEST_LOAD_REPORT = "test_load_report.json"

_RESET = "set TRAIN.CHECKPOINT_EPOCH_RESET True"


def checkpoint_to_resume(config: Config, output_dir: Path, model: MViT) -> Path | None:
    """Return the checkpoint to resume from, or None after loading the initial weights, if any.

    Raises:
        ConfigError: the run of the initial checkpoint has finished all epochs.
    """
    newest = on_main(lambda: newest_of_run(config, output_dir))
    if newest is not None or not config.train.checkpoint_file_path:
        return newest
    path, published = local_weights(config.train.checkpoint_file_path)
    starts_over = config.train.checkpoint_epoch_reset or published is not None
    last_epoch = None if starts_over else training_epoch(path)
    if last_epoch is None:
        report = builders.load_initial_weights(config, model)
        warn_of_preprocessing(config, report.input_spec, report.path)
        _write_load_report(report, output_dir / LOAD_REPORT)
        return None
    num_epochs, max_epoch = last_epoch + 1, config.solver.max_epoch
    if num_epochs >= max_epoch:
        raise ConfigError(
            f"TRAIN.CHECKPOINT_FILE_PATH {config.train.checkpoint_file_path}: its run has finished "
            f"{num_epochs} epochs, and SOLVER.MAX_EPOCH is {max_epoch}: if that run is resumed, "
            f"nothing is left to train. To start a new run from its weights, {_RESET}; to train it "
            f"for longer, set SOLVER.MAX_EPOCH above {num_epochs}"
        )
    return path


def newest_of_run(config: Config, output_dir: Path) -> Path | None:
    """Return the most recent checkpoint of this run; None where it has none or starts over."""
    if config.train.auto_resume:
        return latest_checkpoint(output_dir)
    existing = newest_first(output_dir)
    if existing:
        logger.warning(
            "TRAIN.AUTO_RESUME is False, but %s contains %d checkpoints of an earlier run, up to "
            "%s. This run starts over in the same folder; a later run would resume from the most "
            "recent of all. Choose another OUTPUT_DIR, or move them away",
            output_dir,
            len(existing),
            existing[0].name,
        )
    return None


def weights_named(path: str) -> str:
    """Return the file of weights that a path names; of a run folder, the one to use.

    It is the one that validated best, or else the most recent checkpoint; a line on standard error
    names it.

    Raises:
        WeightsError: the run has no checkpoint yet.
    """
    folder = Path(path)
    if not path or not (folder / "checkpoints").is_dir():
        return path
    best = best_path(folder)
    chosen = best if best.is_file() else latest_checkpoint(folder)
    if chosen is None:
        raise WeightsError(f"{folder}: this run has no checkpoint yet. Train it first")
    kind = "the weights that validated best" if chosen == best else "the most recent checkpoint"
    print(f"{folder}: {kind}, {chosen.name}", file=sys.stderr)
    return str(chosen)


@contextlib.contextmanager
def explained_resume(config: Config, resume_from: Path | None) -> Iterator[None]:
    """Add to an error of resuming from the initial checkpoint how to start a new run.

    Args:
        config: names the file.
        resume_from: the checkpoint; one of the run needs no explanation.
    """
    path = config.train.checkpoint_file_path
    try:
        yield
    except ResumeError as error:
        if not path or resume_from != local_weights(path)[0]:
            raise
        raise ResumeError(
            f"{error}\nTRAIN.CHECKPOINT_FILE_PATH names this file. It contains an epoch, so its "
            f"run was to be resumed. To start a new run from its weights, {_RESET}"
        ) from error


class Evaluated(NamedTuple):
    """The weights of a test.

    Attributes:
        text: a line for the log and the report.
        path: of the file; empty for random weights.
        input_spec: of the file, if it has one.
    """

    text: str
    path: str = ""
    input_spec: Mapping[str, Any] | None = None


def load_evaluated_checkpoint(config: Config, output_dir: Path, model: MViT) -> Evaluated:
    """Load the weights of ``TEST.CHECKPOINT_FILE_PATH`` and ``TEST.WEIGHTS``; describe them.

    Raises:
        WeightsError: the weights do not exist, cannot be read or do not fit.
        ConfigError: two keys name different weights.
    """
    weights = config.test.weights
    if config.test.checkpoint_file_path and weights in ("best", "random"):
        raise ConfigError(
            f"TEST.CHECKPOINT_FILE_PATH names one file and TEST.WEIGHTS {weights} other weights: "
            "empty the one, or set the other to last"
        )
    if weights == "random":
        return Evaluated("random weights (TEST.WEIGHTS random)")
    path = _best(output_dir) if weights == "best" else _named_or_newest(config, output_dir)
    report = load_weights(model, path, head="keep", ema=weights == "ema")
    _write_load_report(report, output_dir / TEST_LOAD_REPORT)
    name = Path(path).name
    text = f"{'moving average in' if weights == 'ema' else 'weights of'} {name}"
    if weights == "best":
        text += f", which validated best, of epoch {read_torch(path)['epoch'] + 1}"
    return Evaluated(text, str(path), report.input_spec)


def _named_or_newest(config: Config, output_dir: Path) -> str | Path:
    """Choose as PySlowFast does, which falls back on the initial checkpoint."""
    path = config.test.checkpoint_file_path or on_main(lambda: latest_checkpoint(output_dir))
    if path:
        return path
    if config.test.weights == "ema":
        raise WeightsError(
            f"TEST.WEIGHTS is ema, and there is no checkpoint in {output_dir} to take the moving "
            "average from. Train first, with TRAIN.EMA_DECAY, or name a checkpoint as "
            "TEST.CHECKPOINT_FILE_PATH"
        )
    if config.train.checkpoint_file_path:
        return config.train.checkpoint_file_path
    raise WeightsError(
        f"no weights to test: there is no checkpoint in {output_dir} (OUTPUT_DIR). Train first, or "
        "name a checkpoint as TEST.CHECKPOINT_FILE_PATH. To test random weights, set TEST.WEIGHTS "
        "random"
    )


def _best(output_dir: Path) -> Path:
    path = best_path(output_dir)
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file, and TEST.WEIGHTS is best. Training writes it after each "
            "validation that is better than all before; to test the newest weights, set "
            "TEST.WEIGHTS last"
        )
    return path


def _write_load_report(report: LoadReport, path: Path) -> None:
    """Write the report on every parameter as JSON, on the main process."""
    if is_main():
        write_text_atomically(path, json.dumps(report.as_dict(), indent=2) + "\n")
