"""Starting the ranks of a run: ``slowfast-mvit launch``, and ``NUM_GPUS`` and ``NUM_SHARDS``.

A process that is started here runs the same command line; by the variables in its environment it is
one of several, and it starts no others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import torch

import slowfast_mvit
from slowfast_mvit.config import Config
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.launch import rank_command
from slowfast_mvit.launch.agent import Launch, run_agent
from slowfast_mvit.runtime.launch_environment import available_cores, is_launched


def launch_command(launch: Launch, command: Sequence[str]) -> int:
    """Start a command of ``rank_command`` as several processes; returns the exit status.

    Args:
        launch: the processes; 0 of them for one for each GPU of this node, or one.
        command: of each.
    """
    num_processes = launch.num_processes or max(1, _num_gpus())
    return _run(replace(launch, num_processes=num_processes), command)


def launch_as_configured(
    configs: Sequence[Config], words: Sequence[str], *, init_method: str | None = None
) -> int | None:
    """Start the processes that ``NUM_GPUS`` and ``NUM_SHARDS`` ask for.

    Args:
        configs: all that one command is to run.
        words: that command, as ``slowfast-mvit`` parses it.
        init_method: rendezvous of the nodes, as PySlowFast writes it: ``tcp://host:port``.

    Returns:
        The exit status; None if no process has to be started: this one is already one of several,
        or the only one.

    Raises:
        ConfigError: several nodes without a rendezvous, or with one of a wrong form; or configs
            that ask for different numbers of processes.
    """
    if is_launched():
        return None
    requested = {(config.num_gpus, config.num_shards, config.shard_id) for config in configs}
    if len(requested) > 1:
        raise ConfigError(
            "the configs of one command must agree in NUM_GPUS, NUM_SHARDS and SHARD_ID, "
            f"as one group of processes runs them all; got {sorted(requested)}. Run them one by one"
        )
    [(num_gpus, num_shards, shard_id)] = requested
    num_processes = max(1, min(num_gpus, _num_gpus()))
    if 1 < num_processes < num_gpus:
        print(
            f"NUM_GPUS is {num_gpus}, but this node has {num_processes}: starting {num_processes} "
            "processes, which share the videos of a batch",
            file=sys.stderr,
        )
    if num_shards == 1:
        if num_processes == 1:
            return None
        return _run(Launch(num_processes), rank_command(words))
    if not init_method:
        raise ConfigError(
            f"NUM_SHARDS is {num_shards}: several nodes need a process group. Start this on each "
            f"of them with --init_method tcp://HOST:PORT --num_shards {num_shards} --shard_id I "
            f"(I from 0 to {num_shards - 1}, HOST being node 0), or with slowfast-mvit launch "
            f"--nnodes {num_shards} --rdzv_endpoint HOST:PORT -- run_net --cfg ..."
        )
    launch = Launch(
        num_processes,
        min_nodes=num_shards,
        max_nodes=num_shards,
        endpoint=_endpoint_of_url(init_method),
        node_rank=shard_id,
        run_id="slowfast_mvit",
    )
    return _run(launch, rank_command(words))


def _run(launch: Launch, command: Sequence[str]) -> int:
    # The ranks run the code of this process, installed or not.
    root = str(Path(slowfast_mvit.__file__).resolve().parents[1])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([root, before] if before else [root])
    # Else each rank prints frames of C++ when a connection to another one is lost.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if launch.num_processes > 1:
        share = 1 if _num_gpus() else available_cores() // launch.num_processes
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))
    return run_agent(launch, command)


def _num_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _endpoint_of_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "file":
        raise ConfigError(
            f"--init_method {url}: a file cannot serve as rendezvous: one left by a killed run "
            "would block the next. Use tcp://HOST:PORT, HOST being node 0"
        )
    host, _, port = parts.netloc.rpartition(":")
    if parts.scheme != "tcp" or not (host and port.isdecimal()):
        raise ConfigError(f"--init_method: expected tcp://HOST:PORT, got {url!r}")
    return parts.netloc
