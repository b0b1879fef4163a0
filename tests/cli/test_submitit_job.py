"""A run under submitit's executor for this machine, warned on the way as Slurm would."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from slowfast_mvit.cli.submitit_job import LaunchJob

submitit = pytest.importorskip("submitit")

ROOT = Path(__file__).resolve().parents[2]


def task_of(job) -> int:
    """The process that runs the job, a child of the one that watches it."""
    watcher = job._process.pid
    return int(Path(f"/proc/{watcher}/task/{watcher}/children").read_text().split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which processes run")
def test_a_job_that_is_warned_saves_and_goes_on(tiny_config, monkeypatch):
    folder = tiny_config.parent
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", paths)
    words = [
        "train",
        "--cfg",
        str(tiny_config),
        "SOLVER.MAX_EPOCH",
        "30",
        "TRAIN.EVAL_PERIOD",
        "30",
    ]
    executor = submitit.LocalExecutor(folder=folder / "submitit")
    executor.update_parameters(timeout_min=10)

    job = executor.submit(LaunchJob(words))
    try:
        deadline_s = time.monotonic() + 120
        while not list(folder.glob("out/checkpoints/*.pyth")):
            assert time.monotonic() < deadline_s and not job.done(), job.stderr()
            time.sleep(0.05)
        os.kill(task_of(job), signal.SIGUSR2)
        assert job.result() is None
    finally:
        job.cancel(check=False)

    log = (folder / "out" / "stdout.log").read_text()
    assert log.count("training on 16 videos") == 2
    assert log.count("resuming from") == 1
    assert (folder / "out" / "checkpoints" / "checkpoint_epoch_00030.pyth").is_file()
