"""Who else gets the numbers of a training run, as the config asks for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from slowfast_mvit.config import Config
from slowfast_mvit.engine.data_stall import DataWaitHint
from slowfast_mvit.runtime.distributed import is_main, local_world_size
from slowfast_mvit.runtime.metric_writers import Curves, TensorBoard, Wandb


@contextlib.contextmanager
def opened_curves(
    config: Config, output_dir: Path, *, steps_per_epoch: int
) -> Iterator[list[Curves]]:
    """TensorBoard and Weights & Biases if asked for, and the hint about data; closed at the end.

    Args:
        output_dir: local folder of the run.
        steps_per_epoch: steps of the optimizer.

    Raises:
        UserError: one of them is not installed.
    """
    if not is_main():
        yield []
        return
    with contextlib.ExitStack() as stack:
        curves: list[Curves] = [_hint(config)]
        if config.tensorboard.enable:
            board = TensorBoard(
                output_dir / (config.tensorboard.log_dir or "tensorboard"),
                steps_per_epoch=steps_per_epoch,
                config_text=config.to_yaml(),
            )
            curves.append(board)
        if config.wandb.enable:
            run = Wandb(
                output_dir,
                project=config.wandb.project,
                config=yaml.safe_load(config.to_yaml()),
                steps_per_epoch=steps_per_epoch,
            )
            curves.append(run)
        for curve in curves:
            stack.callback(curve.close)
        yield curves


def _hint(config: Config) -> DataWaitHint:
    return DataWaitHint(
        num_workers=config.data_loader.num_workers * local_world_size(),
        num_cores=len(os.sched_getaffinity(0)),
        can_fuse=config.aug.enable and config.aug.aa_method != "fused",
    )
