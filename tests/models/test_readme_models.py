"""The models table of the README agrees with the registry and with models of this code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from slowfast_mvit.fast import create_model
from slowfast_mvit.models import VARIANTS

README = (Path(__file__).parents[2] / "README.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in README.splitlines()
    if re.match(r"\| `(mvit|maskfeat)\w+`", line)
]
NUM_CLASSES = {"Kinetics-400": 400, "Something-Something v2": 174, "ImageNet-1K": 1000}


def test_every_model_with_a_published_accuracy_is_in_the_table():
    names = {row[0].split("`")[1] for row in ROWS}

    # Those of ImageNet-21K are published as pretrained weights, without an accuracy.
    assert names == {name for name in VARIANTS if not name.endswith("in21k")}


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0].split('`')[1]}, {row[1]}" for row in ROWS])
def test_size_parameters_and_gflops_are_those_of_the_registry(row):
    name, num_classes = row[0].split("`")[1], NUM_CLASSES[row[1]]
    *clip, crop_px = row[2].split(", ")
    frames = int(clip[0].partition("x")[0]) if clip else 1

    with torch.device("meta"):
        model = create_model(name, num_classes=num_classes)
    num_params = sum(parameter.numel() for parameter in model.parameters())

    variant = VARIANTS[name]
    assert (frames, int(crop_px), int(crop_px)) == variant.input_size
    assert num_classes == variant.num_classes or "v2" in row[1]
    assert row[6:] == [f"{num_params / 1e6:.1f}", f"{variant.gflops:.1f}"]
