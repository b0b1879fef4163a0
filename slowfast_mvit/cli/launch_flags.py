"""The flags of ``slowfast-mvit launch``, named as torchrun's."""

from __future__ import annotations

import argparse
from typing import Any

LAUNCHED = ("train", "test", "run_net", "finetune")

FLAGS: dict[str, dict[str, Any]] = {
    "--nproc_per_node": {
        "type": int,
        "metavar": "N",
        "help": "processes on each node (default: one for each GPU, or one)",
    },
    "--nnodes": {
        "default": "1",
        "metavar": "N|MIN:MAX",
        "help": "nodes; with MIN:MAX the run goes on while MIN are left (default: 1)",
    },
    "--rdzv_endpoint": {
        "default": "",
        "metavar": "HOST:PORT",
        "help": "where several nodes meet: a free port of the first",
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
        "help": "how often to start all processes again after one has died (default: 0)",
    },
    "--shutdown_timeout": {
        "type": int,
        "default": 120,
        "metavar": "SECONDS",
        "help": "how long processes that are asked to stop may take to save (default: 120)",
    },
    "--rdzv_id": {
        "default": "",
        "metavar": "NAME",
        "help": "name of the run, the same on all nodes (default: slowfast_mvit)",
    },
    "--rdzv_conf": {
        "default": "",
        "metavar": "KEY=VALUE,...",
        "help": "torchrun's settings of the meeting, such as is_host=1 on the first node",
    },
    "--local_addr": {
        "metavar": "ADDRESS",
        "help": "address of this node, where others cannot find it by its host name",
    },
}

DESCRIPTION = """\
Start a command as several processes, on this node or as this node's part of several; watch them,
and start them again when one dies. This is torchrun, with the settings that long runs need.

  slowfast-mvit launch -- train --cfg Kinetics/MVITv2_S_16x4.yaml
  slowfast-mvit launch --nnodes 4 --rdzv_endpoint node0:29500 --max_restarts 3 -- train --cfg ...

Exit status: 0 done; 2 a message for the user, not tried again; 143, 138 or 130 asked to stop by
SIGTERM, SIGUSR1 or Ctrl-C, and saved: the same command goes on.
"""


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``launch``, named as torchrun's."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, settings in FLAGS.items():
        parser.add_argument(*dict.fromkeys([name, name.replace("_", "-")]), **settings)
    parser.add_argument(
        "launched",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help=f"{', '.join(LAUNCHED)} with their arguments, or a Python script with its own",
    )
