"""The job for Ray Train: what Ray is asked for, and that a worker does what any process does.

A stand-in takes Ray's place, but in the last test, for where the real one is installed.
"""

import importlib.util
import logging
import os
import subprocess
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from slowfast_mvit.cli import main
from slowfast_mvit.errors import ListError
from slowfast_mvit.launch.ray import message_for_user
from slowfast_mvit.runtime.log import StatsLog

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Asked:
    """The requests to a stand-in of Ray."""

    trainer: dict[str, Any] = field(default_factory=dict)
    reports: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[int, Exception] = field(default_factory=dict)


@pytest.fixture
def ray(monkeypatch) -> Asked:
    """A stand-in for Ray with one worker, which is this process."""
    asked = Asked()
    # A worker changes it for good; it is a process of its own elsewhere.
    monkeypatch.setattr(logging.getLogger("slowfast_mvit"), "propagate", True)

    class WorkerGroupError(Exception):
        worker_failures = asked.failures

    class TorchTrainer:
        def __init__(self, train, **settings):
            asked.trainer = settings | {"train": train}

        def fit(self):
            if asked.failures:
                raise WorkerGroupError
            asked.trainer["train"](asked.trainer["train_loop_config"])

    train = types.ModuleType("ray.train")
    train.WorkerGroupError = WorkerGroupError
    train.report = asked.reports.append
    for name in ("FailureConfig", "RunConfig", "ScalingConfig"):
        setattr(train, name, dict)
    train.torch = types.ModuleType("ray.train.torch")
    train.torch.TorchTrainer, train.torch.TorchConfig = TorchTrainer, dict
    package = types.ModuleType("ray")
    package.train = train
    for module in (package, train, train.torch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return asked


def test_ray_is_asked_for_workers_with_gloo_and_its_last_numbers_are_ours(
    ray, tiny_config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ["--", "train", "--cfg", str(tiny_config), "SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", "out"]

    status = main(["ray", "--num-workers", "2", "--max-failures", "5", *words])

    assert status == 0
    assert ray.trainer["torch_config"] == {"backend": "gloo", "timeout_s": 660}
    assert ray.trainer["scaling_config"] == {
        "num_workers": 2,
        "use_gpu": False,
        "resources_per_worker": {"CPU": 1},
    }
    assert ray.trainer["run_config"] == {
        "name": "ray",
        "storage_path": str(tmp_path / "out"),
        "failure_config": {"max_failures": 5},
    }
    assert (tmp_path / "out" / "checkpoints" / "checkpoint_epoch_00001.pyth").is_file()
    assert ray.reports == StatsLog(tmp_path / "out").read("val_epoch")


def test_each_worker_asks_for_a_gpu_and_for_the_cores_of_its_loader(ray, tiny_config, monkeypatch):
    monkeypatch.setattr("slowfast_mvit.launch.ray.train_on_worker", lambda settings: None)
    words = ["train", "--cfg", str(tiny_config), "NUM_GPUS", "4", "DATA_LOADER.NUM_WORKERS", "6"]

    assert main(["ray", "--num-workers", "16", *words]) == 0

    assert ray.trainer["torch_config"]["backend"] == "cpu:gloo,cuda:nccl"
    assert ray.trainer["scaling_config"]["resources_per_worker"] == {"CPU": 6, "GPU": 1}


def test_a_mistake_of_the_users_comes_through_as_a_message(ray, tiny_config, capsys):
    ray.failures[3] = RuntimeError("the task failed")
    ray.failures[3].__cause__ = ListError("train.csv: 1 problem")

    assert main(["ray", "--num-workers", "4", "--", "train", "--cfg", str(tiny_config)]) == 2

    assert capsys.readouterr().err == "UserError: worker 3: train.csv: 1 problem\n"


def test_another_failure_is_not_taken_for_one():
    assert message_for_user({0: RuntimeError("out of memory")}) is None


def test_without_ray_the_message_says_what_to_install(tiny_config, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.train", None)

    assert main(["ray", "--num-workers", "2", "--", "train", "--cfg", str(tiny_config)]) == 2

    assert 'pip install "slowfast_mvit[ray]"' in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_two_workers_of_the_real_ray_train_together(tiny_config, tmp_path):
    words = ["--", "train", "--cfg", str(tiny_config), "SOLVER.MAX_EPOCH", "1"]
    command = [sys.executable, "-m", "slowfast_mvit", "ray", "--num-workers", "2", *words]
    place = os.environ | {"PYTHONPATH": str(ROOT)}

    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=place
    )

    assert answer.returncode == 0, answer.stderr
    log = (tmp_path / "out" / "stdout.log").read_text()
    assert "2 processes on 1 node joined the process group, over " in log
    assert "saved " in log
