"""``slowfast-mvit ray``: training as a job of Ray Train.

Ray starts the workers on the nodes of its cluster, joins them in a process group, and restarts all
of them when one crashes. All else is as under any launcher: restarted workers resume from the
checkpoints in ``OUTPUT_DIR``, which all nodes must share; Ray keeps none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slowfast_mvit.builders import hang_limit_s
from slowfast_mvit.config import Config
from slowfast_mvit.errors import ConfigError, UserError
from slowfast_mvit.runtime.distributed import BACKENDS
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.runtime.watchdog import collective_timeout
from slowfast_mvit.storage import is_remote

INSTALL = 'pip install "slowfast_mvit[ray]"'


@dataclass(frozen=True)
class RayJob:
    """Resources of a run under Ray.

    Attributes:
        num_workers: processes of the run; each has a GPU, unless ``NUM_GPUS`` is 0.
        cpus_per_worker: cores for each; None for one for each loader worker.
        max_failures: restarts of all workers after one has crashed.
    """

    num_workers: int
    cpus_per_worker: int | None
    max_failures: int


def fit(config: Config, job: RayJob, train: Callable[[Config], None]) -> None:
    """Train in a Ray cluster: the one that ``RAY_ADDRESS`` names, or one of this machine alone.

    Args:
        config: of the run.
        job: the resources to ask for.
        train: the training job; each worker calls it, so it must be a function of a module.

    Raises:
        UserError: Ray is not installed, or training ended with a user error.
    """
    if is_remote(config.output_dir):
        raise ConfigError(
            f"OUTPUT_DIR {config.output_dir}: training under Ray needs a folder that all nodes "
            "share, by the same path on each"
        )
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise UserError(f"Ray Train is needed for this ({error}). {INSTALL}") from error

    use_gpu = config.num_gpus > 0
    num_cpus = job.cpus_per_worker or max(1, config.data_loader.num_workers)
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config={"config": config, "folder": str(Path.cwd()), "train": train},
        torch_config=TorchConfig(
            backend=BACKENDS["cuda" if use_gpu else "cpu"],
            timeout_s=int(collective_timeout(hang_limit_s(config)).total_seconds()),
        ),
        scaling_config=ScalingConfig(
            num_workers=job.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": num_cpus, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(Path(config.output_dir).resolve()),
            failure_config=FailureConfig(max_failures=job.max_failures),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        message = message_for_user(error.worker_failures)
        if message is None:
            raise
        raise UserError(message) from error


def train_on_worker(settings: dict[str, Any]) -> None:
    """Train as one worker, and report the metrics of the last validation to Ray.

    Args:
        settings: "config"; "folder", where relative paths start; "train", the job.
    """
    import ray.train

    config: Config = settings["config"]
    os.chdir(settings["folder"])  # Ray starts its workers in a folder of its own
    logging.getLogger("slowfast_mvit").propagate = False  # or Ray prints each line again
    settings["train"](config)
    # By every worker, as Ray waits for all of them.
    validations = StatsLog(config.output_dir).read("val_epoch")
    ray.train.report(validations[-1] if validations else {})


def message_for_user(failures: dict[int, Exception]) -> str | None:
    """Return the message of a user error with which a worker failed, or None.

    Args:
        failures: the exception of each worker that failed, by rank.
    """
    for rank, error in sorted(failures.items()):
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                return f"worker {rank}: {cause}"
            cause = cause.__cause__
    return None
