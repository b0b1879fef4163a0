"""The flags of the commands that start processes: ``slowfast-mvit launch`` and ``ray``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from slowfast_mvit.errors import ConfigError
from slowfast_mvit.launch import LAUNCHED

if TYPE_CHECKING:
    from slowfast_mvit.launch.agent import Launch

# Named as those of torchrun.
LAUNCH_FLAGS: dict[str, dict[str, Any]] = {
    "--nproc_per_node": {
        "type": int,
        "default": 0,
        "metavar": "N",
        "help": "processes on each node (default: one for each GPU, or one)",
    },
    "--nnodes": {
        "default": "1",
        "metavar": "N|MIN:MAX",
        "help": "nodes; with MIN:MAX the run resumes while MIN are left (default: 1)",
    },
    "--rdzv_endpoint": {
        "default": "",
        "metavar": "HOST:PORT",
        "help": "rendezvous of several nodes: a free port of the first",
    },
    "--node_rank": {
        "type": int,
        "metavar": "I",
        "help": "number of this node, from 0, where it must be fixed",
    },
    "--max_restarts": {
        "type": int,
        "default": 0,
        "metavar": "N",
        "help": "restarts of all processes after one has crashed (default: 0)",
    },
    "--shutdown_timeout": {
        "type": int,
        "default": 120,
        "metavar": "SECONDS",
        "help": "time that processes have to save when asked to stop (default: 120)",
    },
    "--rdzv_id": {
        "default": "",
        "metavar": "NAME",
        "help": "name of the run, the same on all nodes (default: slowfast_mvit)",
    },
    "--rdzv_conf": {
        "default": "",
        "metavar": "KEY=VALUE,...",
        "help": "torchrun's settings of the rendezvous, such as is_host=1 on the first node",
    },
    "--local_addr": {
        "metavar": "ADDRESS",
        "help": "address of this node, where others cannot find it by its host name",
    },
}

LAUNCH_DESCRIPTION = """\
Start a command as several processes, on this node or as this node's part of several; monitor them,
and restart them when one crashes. This is torchrun, with the settings that long runs need.

  slowfast-mvit launch -- train --cfg Kinetics/MVITv2_S_16x4.yaml
  slowfast-mvit launch --nnodes 4 --rdzv_endpoint node0:29500 --max_restarts 3 -- train --cfg ...

Exit status: 0 done; 2 user error, not retried; 143, 138 or 130 stopped by SIGTERM, SIGUSR1 or
Ctrl-C, and saved: the same command resumes.
"""

RAY_FLAGS: dict[str, dict[str, Any]] = {
    "--num-workers": {
        "type": int,
        "required": True,
        "metavar": "N",
        "help": "processes of the run, each with a GPU unless NUM_GPUS is 0",
    },
    "--cpus-per-worker": {
        "type": int,
        "metavar": "N",
        "help": "cores for each process (default: DATA_LOADER.NUM_WORKERS)",
    },
    "--max-failures": {
        "type": int,
        "default": 3,
        "metavar": "N",
        "help": "restarts of all processes after one has crashed (default: 3)",
    },
}

RAY_DESCRIPTION = """\
Train as a job of Ray Train, in the cluster that RAY_ADDRESS names, or on this machine alone.

  slowfast-mvit ray --num-workers 32 -- train --cfg FILE OUTPUT_DIR /shared/k400

slowfast_mvit must be installed on all nodes, and OUTPUT_DIR and the data be seen by all of them.
"""


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``launch``, spelled with underscores as torchrun's, or with dashes."""
    parser.description = LAUNCH_DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, settings in LAUNCH_FLAGS.items():
        parser.add_argument(*dict.fromkeys([name, name.replace("_", "-")]), **settings)
    parser.add_argument(
        "launched",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help=f"{', '.join(LAUNCHED)} with their arguments, or a Python script with its own",
    )


def add_ray_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``ray``."""
    parser.description = RAY_DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, settings in RAY_FLAGS.items():
        parser.add_argument(name, **settings)
    parser.add_argument(
        "launched", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="train, with its arguments"
    )


def launched_words(arguments: argparse.Namespace) -> list[str]:
    """Return the command that is to be started, which follows ``--``."""
    words: list[str] = arguments.launched
    return words[words[:1] == ["--"] :]


def requested_launch(arguments: argparse.Namespace) -> Launch:
    """Return the processes that the flags of ``launch`` ask for.

    Raises:
        ConfigError: a flag has a wrong form, or flags exclude each other.
    """
    from slowfast_mvit.launch.agent import Launch  # imports torch

    min_nodes, max_nodes = _nodes(arguments.nnodes)
    if max_nodes > 1 and not arguments.rdzv_endpoint:
        raise ConfigError(
            f"--nnodes {arguments.nnodes}: several nodes need a rendezvous. Give each the same "
            "--rdzv_endpoint HOST:PORT, HOST being the first of them"
        )
    if arguments.node_rank is not None and arguments.max_restarts:
        raise ConfigError(
            "--node_rank and --max_restarts exclude each other: nodes with fixed numbers cannot "
            "restart together. Leave --node_rank out, and the nodes number themselves"
        )
    return Launch(
        num_processes=arguments.nproc_per_node,
        min_nodes=min_nodes,
        max_nodes=max_nodes,
        endpoint=_endpoint(arguments.rdzv_endpoint),
        node_rank=arguments.node_rank,
        run_id=arguments.rdzv_id or ("slowfast_mvit" if max_nodes > 1 else ""),
        max_restarts=arguments.max_restarts,
        shutdown_timeout_s=arguments.shutdown_timeout,
        local_addr=arguments.local_addr,
        rendezvous=_settings(arguments.rdzv_conf),
    )


def _nodes(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    if low.isdecimal() and (high or low).isdecimal() and 1 <= int(low) <= int(high or low):
        return int(low), int(high or low)
    raise ConfigError(f"--nnodes: expected a number of nodes, or MIN:MAX, got {text!r}")


def _endpoint(text: str) -> str:
    host, _, port = text.rpartition(":")
    if text and not (host and port.isdecimal()):
        raise ConfigError(f"--rdzv_endpoint: expected HOST:PORT, got {text!r}")
    return text


def _settings(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if not all(key and value for key, _, value in pairs):
        raise ConfigError(f"--rdzv_conf: expected KEY=VALUE,KEY=VALUE, got {text!r}")
    return {key: value for key, _, value in pairs}
