"""Shared by the tests of ``finetune``: class folders, weights of a tiny model, a config."""

import argparse
from pathlib import Path

import torch
from tiny_config import TINY_CONFIG

from slowfast_mvit import builders
from slowfast_mvit.cli.flags import add_finetune_arguments
from slowfast_mvit.config import load_config
from slowfast_mvit.jobs.finetune import finetune_config


def write_weights(folder: Path) -> Path:
    """A file as PySlowFast writes it: a tiny model of 8 classes, its config, and its last epoch."""
    (folder / "tiny.yaml").write_text(TINY_CONFIG)
    config = load_config(folder / "tiny.yaml")
    torch.manual_seed(0)
    state = builders.build_model(config).state_dict()
    path = folder / "checkpoint_epoch_00200.pyth"
    torch.save({"model_state": state, "cfg": config.to_yaml(), "epoch": 199}, path)
    return path


def folder_of(root, **classes):
    """Class folders with so many files in them, which are never opened."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number:04d}.mp4").write_bytes(b"video")
    return root


def config_of(data, weights, *words):
    parser = argparse.ArgumentParser()
    add_finetune_arguments(parser)
    inputs = ["--data", str(data), "--weights", str(weights), "--out", "runs/finetune/classes"]
    return finetune_config(parser.parse_args([*inputs, *words]))
