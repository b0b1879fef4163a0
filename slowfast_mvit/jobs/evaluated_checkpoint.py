"""The weights that ``TEST.CHECKPOINT_FILE_PATH`` and ``TEST.WEIGHTS`` name."""

from __future__ import annotations

import logging
from pathlib import Path

from slowfast_mvit.config import Config
from slowfast_mvit.errors import ConfigError, WeightsError
from slowfast_mvit.jobs.initial_checkpoint import TEST_LOAD_REPORT, write_load_report
from slowfast_mvit.models import MViT
from slowfast_mvit.runtime.checkpoint import latest_checkpoint
from slowfast_mvit.runtime.checkpoint_files import best_path
from slowfast_mvit.runtime.distributed import on_main
from slowfast_mvit.storage import read_torch
from slowfast_mvit.weights import load_weights

logger = logging.getLogger(__name__)


def load_evaluated_checkpoint(config: Config, output_dir: Path, model: MViT) -> str:
    """Fill the model; returns in words with what.

    Raises:
        WeightsError: the weights are not there, cannot be read or do not fit.
        ConfigError: two keys name different weights.
    """
    return _LOADERS[config.test.weights](config, output_dir, model)


def _load_last(config: Config, output_dir: Path, model: MViT) -> str:
    """As PySlowFast chooses weights to test."""
    path = (
        config.test.checkpoint_file_path or _newest(output_dir) or config.train.checkpoint_file_path
    )
    if not path:
        logger.warning(
            "no weights to test: neither TEST.CHECKPOINT_FILE_PATH nor a checkpoint in %s. "
            "The weights are random, and so will the result be",
            output_dir,
        )
        return "random weights: no checkpoint was given or found"
    _fill(model, path, output_dir)
    return f"weights of {Path(path).name}"


def _newest(output_dir: Path) -> Path | None:
    """The most recent checkpoint of the run."""
    return on_main(lambda: latest_checkpoint(output_dir))


def _load_average(config: Config, output_dir: Path, model: MViT) -> str:
    path = config.test.checkpoint_file_path or _newest(output_dir)
    if not path:
        raise WeightsError(
            f"TEST.WEIGHTS is ema, and there is no checkpoint in {output_dir} to take the moving "
            "average from. Train first, with TRAIN.EMA_DECAY, or name a checkpoint as "
            "TEST.CHECKPOINT_FILE_PATH"
        )
    _fill(model, path, output_dir, ema=True)
    return f"moving average in {Path(path).name}"


def _load_best(config: Config, output_dir: Path, model: MViT) -> str:
    if config.test.checkpoint_file_path:
        raise ConfigError(
            "TEST.CHECKPOINT_FILE_PATH names one file and TEST.WEIGHTS best another: empty the "
            "one, or set the other to last"
        )
    path = best_path(output_dir)
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file, and TEST.WEIGHTS is best. Training writes it after each "
            "validation that is better than all before; to test the newest weights, set "
            "TEST.WEIGHTS last"
        )
    _fill(model, path, output_dir)
    epoch = read_torch(path)["epoch"]
    return f"weights of {path.name}, which validated best, of epoch {epoch + 1}"


def _fill(model: MViT, path: str | Path, output_dir: Path, *, ema: bool = False) -> None:
    """Load weights and leave in the folder what became of every parameter."""
    report = load_weights(model, path, head="keep", ema=ema)
    write_load_report(report, output_dir / TEST_LOAD_REPORT)


_LOADERS = {"last": _load_last, "ema": _load_average, "best": _load_best}
