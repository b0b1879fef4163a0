"""The flags of ``slowfast-mvit finetune``; light, as every command reads them."""

from __future__ import annotations

import argparse
from typing import Any

from slowfast_mvit.cli.trust_flag import add_trust_argument

FLAGS: dict[str, dict[str, Any]] = {
    "--data": {
        "required": True,
        "metavar": "FOLDER",
        "help": "folders of classes with videos in them, in train and val or not; or train.csv and "
        "val.csv, each line a path and a label",
    },
    "--weights": {
        "default": "",
        "metavar": "FILE",
        "help": "weights to start from, of this project, PySlowFast, torchvision, timm, ...",
    },
    "--variant": {
        "choices": ("S", "B", "L"),
        "help": "size of the published video model, where the weights do not tell their model, or "
        "to take an image model's weights for videos",
    },
    "--epochs": {"type": int, "metavar": "N", "help": "default: 30"},
    "--batch-size": {
        "type": int,
        "metavar": "N",
        "help": "videos a step; the learning rate changes in proportion (default: 8)",
    },
    "--out": {
        "metavar": "DIR",
        "help": "OUTPUT_DIR (default: runs/finetune/NAME, NAME being that of FOLDER)",
    },
}

# One of these at most.
FROZEN: dict[str, dict[str, Any]] = {
    "--freeze": {
        "action": "append",
        "default": [],
        "metavar": "PATTERN",
        "help": "parameters not to train, such as 'blocks.[0-7].*'; may be given several times",
    },
    "--linear-probe": {
        "action": "store_true",
        "help": "train the classifier only, on the features of the weights as they are",
    },
}

DESCRIPTION = """\
Train a model on your own classes, test it on videos that were held out, and write a report.

  slowfast-mvit finetune --data clips --weights k400_s.pyth

Classes and their number come from the folder, the model and its clips from the weights, the rest
from configs/Finetune/small.yaml; KEY VALUE pairs at the end change any of it. A run that was killed
goes on with the same command.
"""


def add_finetune_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``finetune``."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for flag, options in FLAGS.items():
        parser.add_argument(flag, **options)
    group = parser.add_mutually_exclusive_group()
    for flag, options in FROZEN.items():
        group.add_argument(flag, **options)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="changes to the config of the run"
    )
    add_trust_argument(parser)
