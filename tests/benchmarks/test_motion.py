"""The benchmark of the demo: moving videos against videos that stand still."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from slowfast_mvit import builders
from slowfast_mvit.config import load_config
from slowfast_mvit.demo.synthetic import write_motion_dataset
from slowfast_mvit.runtime.checkpoint import save_checkpoint
from slowfast_mvit.structures import ClipBatch

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "motion.py"


@pytest.fixture(scope="module")
def motion():
    spec = importlib.util.spec_from_file_location("benchmark_motion", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def overrides(tmp_path_factory) -> list[str]:
    """An untrained demo model and 16 videos."""
    folder = tmp_path_factory.mktemp("demo")
    write_motion_dataset(folder / "data", num_train=8, num_val=16, num_processes=1)
    words = ["DATA.PATH_TO_DATA_DIR", str(folder / "data"), "OUTPUT_DIR", str(folder)]
    config = load_config("Demo/motion.yaml", words)
    torch.manual_seed(0)
    model = builders.build_model(config)
    save_checkpoint(
        folder,
        epoch=0,
        model_state=model.state_dict(),
        optimizer_state=builders.build_optimizer(config, model).state_dict(),
        cfg_text=config.to_yaml(),
        extra={},
    )
    return words


def test_clips_stand_still_at_their_middle_frame(motion):
    pixels = torch.randint(0, 256, (2, 3, 3, 8, 4, 4), dtype=torch.uint8)
    batch = ClipBatch(pixels, torch.tensor([0, 1]), ("a", "b"), torch.zeros(3, 2).long())

    still = motion.middle_frame_repeated(batch).pixels

    assert still.shape == pixels.shape
    assert all(torch.equal(still[:, :, :, t], pixels[:, :, :, 4]) for t in range(8))


@pytest.mark.parametrize(
    ("option", "views"), [([], "2 clips x 3 crops"), (["--quick"], "1 clip x 1 crop")]
)
def test_numbers_are_printed_and_kept(motion, overrides, tmp_path, capsys, option, views):
    assert motion.main([*option, "--results", str(tmp_path), *overrides]) == 0

    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text()) == record
    assert record["views"] == views
    assert record["num_videos"] == 16
    assert record["chance"] == 12.5
    assert 0 <= record["top1_videos"] <= 100
    assert 0 <= record["top1_repeated_frame"] <= 100
    assert {"cpu", "num_cores", "torch"} <= set(record["machine"])
    assert str(tmp_path) not in file.read_text()
    assert overrides[1] not in file.read_text()


def test_without_a_trained_model_it_says_what_to_do(motion, tmp_path, capsys):
    assert motion.main(["OUTPUT_DIR", str(tmp_path)]) == 2

    assert "no checkpoint there. Train one first: make demo" in capsys.readouterr().err
