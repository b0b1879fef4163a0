"""The flags of ``finetune``, ``launch`` and ``ray``; light, as every command reads them."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable
from typing import Any

from slowfast_mvit.errors import ConfigError
from slowfast_mvit.launch import LAUNCHED


def _flag(metavar: str, text: str, **options: Any) -> dict[str, Any]:
    """Return the arguments of ``add_argument`` for a flag with a value."""
    return {"metavar": metavar, "help": text, **options}


FINETUNE_FLAGS = {
    "--data": _flag(
        "FOLDER",
        "folders of classes with videos in them, in train and val or not; or train.csv and "
        "val.csv, each line a path and a label",
        required=True,
    ),
    "--weights": _flag(
        "FILE",
        "pretrained weights, of this project, PySlowFast, torchvision, timm, ..., or a name of "
        "slowfast-mvit models",
        default="",
    ),
    "--variant": {
        "choices": ("S", "B", "L"),
        "help": "size of the published video model, where the weights do not identify their model, "
        "or to load an image model's weights for videos",
    },
    "--epochs": _flag("N", "default: 30", type=int),
    "--batch-size": _flag(
        "N", "videos a step; the learning rate changes in proportion (default: 8)", type=int
    ),
    "--out": _flag("DIR", "OUTPUT_DIR (default: runs/finetune/NAME, NAME being that of FOLDER)"),
}

PREDICT_FLAGS: dict[str, dict[str, Any]] = {
    "--weights": {
        "required": True,
        "help": "a checkpoint, a run folder, a name of slowfast-mvit models, or an https address",
    },
    "--ema": {"action": "store_true", "help": "load the moving average in it"},
    "--cfg": _flag("FILE", "the config of the weights, if the checkpoint has none"),
    "--top-k": _flag("K", "classes to show (default: 5)", type=int, default=5),
    "--clips": _flag(
        "N",
        "clips to sample for one verdict a video (default: 5; long videos: --timeline)",
        type=int,
    ),
    "--timeline": {"action": "store_true", "help": "show what happens when, by sliding windows"},
    "--window": _flag(
        "SECONDS", "length of a window of the timeline (default: of a clip)", type=float
    ),
    "--stride": _flag("SECONDS", "from a window to the next (default: half of it)", type=float),
    "--output": _flag(
        "FILE",
        "results as .jsonl (the same command resumes), .csv, .json, .vtt or .srt",
        default="",
    ),
    "--render": _flag("FILE.mp4", "draw the timeline into the video, with its sound", default=""),
    "--device": _flag("NAME", "cpu, cuda or cuda:1 (default: the GPU if there is one)"),
    "--batch": _flag("N", "views in a forward pass (default: 5; 32 on a GPU)", type=int),
}

# Named as those of torchrun.
LAUNCH_FLAGS = {
    "--nproc_per_node": _flag(
        "N", "processes on each node (default: one for each GPU, or one)", type=int, default=0
    ),
    "--nnodes": _flag(
        "N|MIN:MAX",
        "nodes; with MIN:MAX the run resumes while MIN are left (default: 1)",
        default="1",
    ),
    "--rdzv_endpoint": _flag(
        "HOST:PORT", "rendezvous of several nodes: a free port of the first", default=""
    ),
    "--node_rank": _flag("I", "number of this node, from 0, where it must be fixed", type=int),
    "--max_restarts": _flag(
        "N", "restarts of all processes after one has crashed (default: 0)", type=int, default=0
    ),
    "--shutdown_timeout": _flag(
        "SECONDS", "time for processes to save when stopped (default: 120)", type=int, default=120
    ),
    "--rdzv_id": _flag(
        "NAME", "name of the run, the same on all nodes (default: slowfast_mvit)", default=""
    ),
    "--rdzv_conf": _flag(
        "KEY=VALUE,...",
        "torchrun's settings of the rendezvous, such as is_host=1 on the first node",
        default="",
    ),
    "--local_addr": _flag(
        "ADDRESS", "address of this node, where others cannot find it by its host name"
    ),
}

RAY_FLAGS = {
    "--num-workers": _flag(
        "N", "processes of the run, each with a GPU unless NUM_GPUS is 0", type=int, required=True
    ),
    "--cpus-per-worker": _flag(
        "N", "cores for each process (default: DATA_LOADER.NUM_WORKERS)", type=int
    ),
    "--max-failures": _flag(
        "N", "restarts of all processes after one has crashed (default: 3)", type=int, default=3
    ),
}


def add_takeover_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--takeover``."""
    parser.add_argument(
        "--takeover",
        action="store_true",
        help="write to OUTPUT_DIR although another process seems to; only if it has surely ended",
    )


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-config``."""
    parser.add_argument(
        "--trust-config",
        action="store_true",
        help="let config files, also those inside weights and run folders, name code to import and "
        "addresses to fetch; only for configs that you trust as you trust a program",
    )


def add_finetune_arguments(parser: argparse.ArgumentParser) -> None:
    """Train a model on your own classes, test it on held-out videos, and write a report.

      slowfast-mvit finetune --data clips --weights k400_s.pyth

    Classes and their number are those of the folder, the model and its clips those of the weights,
    and all other settings those of configs/Finetune/small.yaml; KEY VALUE pairs at the end change
    any of it. The same command resumes a run that was killed.
    """
    _describe(parser, add_finetune_arguments)
    for flag, options in FINETUNE_FLAGS.items():
        parser.add_argument(flag, **options)
    frozen = parser.add_mutually_exclusive_group()
    frozen.add_argument(
        "--freeze",
        action="append",
        default=[],
        metavar="PATTERN",
        help="parameters not to train, such as 'blocks.[0-7].*'; may be repeated",
    )
    frozen.add_argument(
        "--linear-probe",
        action="store_true",
        help="train the classifier only, on the features of the unchanged weights",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="changes to the config of the run"
    )
    add_takeover_argument(parser)
    add_trust_argument(parser)


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Predict the classes of videos, or what happens when in them.

      slowfast-mvit predict video.mp4 --weights mvitv2_s_16x4.k400
      slowfast-mvit predict clips/ more/*.mp4 list.csv --weights runs/mine --output results.jsonl
      slowfast-mvit predict match.mp4 --weights runs/mine --output match.srt --render match_out.mp4

    A source is a video, an image, a folder of videos or of frames, a glob in quotes, a list with
    or without labels, or - for a list on standard input. Exit status: 3 if some of the videos
    could not be read; the others are done.
    """
    _describe(parser, add_predict_arguments)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="videos: files, folders, ...")
    for flag, options in PREDICT_FLAGS.items():
        parser.add_argument(flag, **options)
    form = parser.add_mutually_exclusive_group()
    for name in ("json", "csv"):
        form.add_argument(
            f"--{name}", action="store_const", const=name, dest="form", help=f"print {name.upper()}"
        )
    parser.set_defaults(form="text")
    add_trust_argument(parser)


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Start a command as several processes, on this node or on several, with restarts.

    This is torchrun, with the settings that long runs need.

      slowfast-mvit launch -- train --cfg Kinetics/MVITv2_S_16x4.yaml
      slowfast-mvit launch --nnodes 4 --rdzv_endpoint node0:29500 --max_restarts 3 -- train ...

    Exit status: 0 done; 2 user error, not retried; 143, 138 or 130 stopped by SIGTERM, SIGUSR1 or
    Ctrl-C, and saved: the same command resumes.
    """
    _describe(parser, add_launch_arguments)
    for name, options in LAUNCH_FLAGS.items():  # with underscores as torchrun's, or with dashes
        parser.add_argument(*dict.fromkeys([name, name.replace("_", "-")]), **options)
    text = f"{', '.join(LAUNCHED)} with their arguments, or a Python script with its arguments"
    parser.add_argument("launched", nargs=argparse.REMAINDER, metavar="-- COMMAND", help=text)


def add_ray_arguments(parser: argparse.ArgumentParser) -> None:
    """Train as a job of Ray Train, in the cluster of RAY_ADDRESS, or on this machine alone.

      slowfast-mvit ray --num-workers 32 -- train --cfg FILE OUTPUT_DIR /shared/k400

    slowfast_mvit must be installed on all nodes, which must share OUTPUT_DIR and the data.
    """
    _describe(parser, add_ray_arguments)
    for name, options in RAY_FLAGS.items():
        parser.add_argument(name, **options)
    text = "train, with its arguments"
    parser.add_argument("launched", nargs=argparse.REMAINDER, metavar="-- COMMAND", help=text)


def _describe(parser: argparse.ArgumentParser, function: Callable[..., None]) -> None:
    """Set the description of a command to the docstring of the function of its arguments."""
    parser.description = inspect.getdoc(function)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def launched_words(arguments: argparse.Namespace) -> list[str]:
    """Return the command to start, which follows ``--``."""
    words: list[str] = arguments.launched
    return words[words[:1] == ["--"] :]


def parse_part(text: str) -> tuple[int, int]:
    """Parse "2/4", the second of four parts, as (2, 4).

    Raises:
        ConfigError: the text is something else.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, num_parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= num_parts:
        raise ConfigError(
            f"--part {text}: expected the number of a part and how many there are, from 1/4 to 4/4 "
            "for four jobs"
        )
    return number, num_parts


def requested_launch(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of ``Launch``, whose module imports torch, for the flags of ``launch``.

    Raises:
        ConfigError: a flag has a wrong form, or flags exclude each other.
    """
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
    return {
        "num_processes": arguments.nproc_per_node,
        "min_nodes": min_nodes,
        "max_nodes": max_nodes,
        "endpoint": _endpoint(arguments.rdzv_endpoint),
        "node_rank": arguments.node_rank,
        "run_id": arguments.rdzv_id or ("slowfast_mvit" if max_nodes > 1 else ""),
        "max_restarts": arguments.max_restarts,
        "shutdown_timeout_s": arguments.shutdown_timeout,
        "local_addr": arguments.local_addr,
        "rendezvous": _settings(arguments.rdzv_conf),
    }


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
