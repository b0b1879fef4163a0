"""The flags of ``slowfast-mvit ray``; light, as every command reads them."""

from __future__ import annotations

import argparse
from typing import Any

FLAGS: dict[str, dict[str, Any]] = {
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
        "help": "how often to start all processes again after one has died (default: 3)",
    },
}

DESCRIPTION = """\
Train as a job of Ray Train, in the cluster that RAY_ADDRESS names, or on this machine alone.

  slowfast-mvit ray --num-workers 32 -- train --cfg FILE OUTPUT_DIR /shared/k400

slowfast_mvit must be installed on all nodes, and OUTPUT_DIR and the data be seen by all of them.
"""


def add_ray_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``ray``."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, settings in FLAGS.items():
        parser.add_argument(name, **settings)
    parser.add_argument(
        "job_words",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="train, with its arguments",
    )
