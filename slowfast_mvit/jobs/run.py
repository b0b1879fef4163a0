"""The start of every job: compare the ranks, open the output folder and the log."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch

from slowfast_mvit import __version__, builders
from slowfast_mvit.config import Config
from slowfast_mvit.errors import ConfigError, Stopped, UserError, writing
from slowfast_mvit.jobs.report import CONFIG_FILE
from slowfast_mvit.runtime.distributed import (
    from_main,
    gather_objects,
    is_main,
    num_nodes,
    on_main,
    pick_device,
    process_group,
    require_agreement,
    wait_for_all,
    world_size,
)
from slowfast_mvit.runtime.launch_environment import attempts_share_a_store, is_launched
from slowfast_mvit.runtime.log import setup_logging
from slowfast_mvit.runtime.output_lock import OutputLock, output_lock
from slowfast_mvit.runtime.run_state import recorded_run_state
from slowfast_mvit.storage import (
    is_remote,
    register_path_handlers,
    remove_files_of_dead_processes,
    shared_output_folder,
    temporary_path,
    write_text_atomically,
)

logger = logging.getLogger(__name__)

# A network file system may cache for half a minute that a file does not exist.
APPEARS_WITHIN_S = 60.0


def run_in_group(configs: Sequence[Config], run: Callable[[Config], None]) -> None:
    """Run the jobs of all configs in one process group, if a launcher started several processes."""
    limit_s = max(map(builders.hang_limit_s, configs))
    with process_group(pick_device(configs[0].num_gpus), limit_s):
        for config in configs:
            run(config)


class Run(NamedTuple):
    """A run of one config, as each rank has it.

    Attributes:
        config: of the run.
        output_dir: the local folder to write to.
        device: of this rank.
        require_lock: every rank calls it before a file is published; raises ``OutputInUse`` on all
            of them where another run has taken over.
    """

    config: Config
    output_dir: Path
    device: torch.device
    require_lock: Callable[[], None]


@contextlib.contextmanager
def started(
    config: Config,
    writer: str,
    *,
    takeover: bool = False,
    is_last_job: bool = True,
    part: str = "",
) -> Iterator[Run]:
    """Join the other ranks, lock the output folder and open the log of the run.

    Args:
        config: of the job.
        writer: what the job writes, see ``output_lock``.
        takeover: write although another process seems to write the same.
        is_last_job: no other job of the run follows.
        part: of a test, see ``recorded_run_state``.

    Raises:
        OutputInUse: on every process: another run writes to ``OUTPUT_DIR``.
        UserError: on every process: they differ in config or code, or do not share ``OUTPUT_DIR``.
        ConfigError: ``NUM_SHARDS`` is not the number of nodes.
    """
    register_path_handlers(config.path_handlers)
    device = pick_device(config.num_gpus)
    with process_group(device, builders.hang_limit_s(config)):
        _require_shards(config)
        fingerprint = {
            "the version of slowfast_mvit": __version__,
            "the version of torch": torch.__version__,
            "the digest of the config": config.digest(),
            "OUTPUT_DIR": config.output_dir,
        }
        require_agreement(fingerprint)
        with shared_output_folder(
            config.output_dir,
            is_main=is_main(),
            num_nodes=num_nodes(),
            from_main=from_main,
            wait_for_all=wait_for_all,
        ) as output_dir:
            if not is_remote(config.output_dir):
                _require_shared_folder(output_dir)
            with _locked(output_dir, writer, takeover) as require_lock:
                on_main(lambda: _remove_left_overs(output_dir))
                setup_logging(output_dir)
                _log_group(device)
                try:
                    with recorded_run_state(output_dir, is_last_job=is_last_job, part=part):
                        yield Run(config, output_dir, device, require_lock)
                except Stopped as stop:
                    logger.info("%s", stop)
                    stop.is_logged = True
                    raise


def _remove_left_overs(output_dir: Path) -> None:
    """Remove what killed processes were writing; the next line of a log removes a torn one."""
    folders = (output_dir.glob(pattern) for pattern in ("mid_epoch", "test_records/*", "test_*"))
    for folder in (output_dir, output_dir / "checkpoints", *chain.from_iterable(folders)):
        remove_files_of_dead_processes(folder)


@contextlib.contextmanager
def _locked(folder: Path, writer: str, takeover: bool) -> Iterator[Callable[[], None]]:
    """Lock a folder on the main process; yields the check that every rank calls."""
    locks: list[OutputLock] = []
    with contextlib.ExitStack() as stack:

        def lock() -> None:
            locks.append(stack.enter_context(output_lock(folder, writer, takeover=takeover)))

        on_main(lock)
        yield lambda: on_main(lambda: locks[0].require())


def _require_shared_folder(folder: Path) -> None:
    """Check that all processes see the files that the main one writes to ``folder``.

    Raises:
        UserError: on every process: the main one cannot write there, or names those that do not
            see its files.
    """
    if world_size() == 1:
        return

    def create() -> Path:
        path = temporary_path(folder, uuid.uuid4().hex)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            path.touch()
        return path

    path = on_main(create)
    blind = [number for number, seen in enumerate(gather_objects(_appears(path))) if not seen]
    if is_main():
        path.unlink()
    if blind:
        raise UserError(
            f"OUTPUT_DIR {folder}: rank {', '.join(map(str, blind))} of {world_size()} cannot see "
            "what rank 0 writes there. Choose a folder on a disk that all nodes share, "
            "by the same path on each"
        )


def _appears(path: Path) -> bool:
    deadline_s = time.monotonic() + APPEARS_WITHIN_S
    while path.name not in _names_in(path.parent):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.2)
    return True


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # unlike Path.exists(), this is not answered from a cache
    except OSError:
        return []


def _require_shards(config: Config) -> None:
    if config.num_shards == 1 or config.num_shards == num_nodes():
        return
    if is_launched():
        launched = f"the launcher started {num_nodes()} of {world_size()} processes in all"
        todo = f"Set NUM_SHARDS {num_nodes()} or leave it out: the launcher's number counts"
    else:
        launched = "this process was started alone, without a process group"
        todo = (
            f"Start it on each node with slowfast-mvit launch --nnodes {config.num_shards} "
            "--rdzv_endpoint HOST:PORT -- train --cfg ..., HOST being the first node"
        )
    raise ConfigError(f"NUM_SHARDS is {config.num_shards} nodes, but {launched}. {todo}")


def _log_group(device: torch.device) -> None:
    if world_size() == 1:
        return
    over = "gloo" if device.type == "cpu" else "nccl"
    logger.info(
        "%d processes on %s joined the process group, over %s",
        world_size(),
        nodes_of_run(),
        over,
    )
    if attempts_share_a_store():
        logger.warning(
            "if a process dies, torchrun will restart all, and they will wait in vain for the dead "
            "ones: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on each node, or use "
            "slowfast-mvit launch, which does"
        )


def nodes_of_run() -> str:
    """Return the number of nodes as text."""
    return "1 node" if num_nodes() == 1 else f"{num_nodes()} nodes"


def write_config(config: Config, output_dir: Path) -> None:
    """Write the resolved config to the folder of the run.

    After all checks, so that a typo in the data or the weights does not replace that of a finished
    run.
    """
    write_text_atomically(output_dir / CONFIG_FILE, config.to_yaml())
