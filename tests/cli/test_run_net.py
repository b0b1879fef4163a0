"""tools/run_net.py from outside, as a user runs it: in another folder, killed, and run again."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from slowfast_mvit.runtime.log import StatsLog

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINTS = "checkpoints/checkpoint_epoch_{:05d}.pyth"


def start(config: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "tools" / "run_net.py"), "--cfg", str(config), *words]
    return subprocess.Popen(
        command,
        cwd=config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@pytest.mark.nightly
def test_a_run_killed_and_stopped_within_epochs_ends_as_one_that_was_not(tiny_config):
    random_parts = ["MODEL.DROPOUT_RATE", "0.5", "MVIT.DROPPATH_RATE", "0.3", "AUG.NUM_SAMPLE", "2"]
    mixing = ["MIXUP.ENABLE", "True", "AUG.ENABLE", "True", "MODEL.LOSS_FUNC", "soft_cross_entropy"]
    saving = ["TRAIN.CHECKPOINT_STEPS", "3", "TRAIN.EMA_DECAY", "0.9", "TRAIN.BATCH_SIZE", "2"]
    words = [*random_parts, *mixing, *saving, "SOLVER.MAX_EPOCH", "4", "TEST.ENABLE", "False"]
    folder = tiny_config.parent
    whole = start(tiny_config, *words, "OUTPUT_DIR", "whole")
    broken = start(tiny_config, *words, "OUTPUT_DIR", "broken")
    wait_for(folder / "broken", "mid_epoch/epoch_00002_*.pyth", broken)
    os.killpg(broken.pid, signal.SIGKILL)
    assert broken.wait() == -signal.SIGKILL, broken.stdout.read()

    again = start(tiny_config, *words, "OUTPUT_DIR", "broken")
    wait_for(folder / "broken", "mid_epoch/epoch_00003_*.pyth", again)
    os.killpg(again.pid, signal.SIGTERM)
    log = again.communicate()[0]
    assert again.returncode == 128 + signal.SIGTERM, log
    assert re.search(r"resuming from .*mid_epoch.* inside epoch 2/4, after step [147]", log), log
    last = start(tiny_config, *words, "OUTPUT_DIR", "broken")

    log = last.communicate()[0]
    assert last.returncode == 0, log
    assert "resuming from" in log
    assert whole.wait() == 0, whole.stdout.read()
    expected, actual = [
        torch.load(folder / name / CHECKPOINTS.format(4), weights_only=True)
        for name in ("whole", "broken")
    ]
    for part in ("model_state", "ema_state"):
        for name, tensor in expected[part].items():
            assert torch.equal(actual[part][name], tensor), name
    assert logged_steps(folder / "broken") == logged_steps(folder / "whole")


def wait_for(output_dir: Path, pattern: str, process: subprocess.Popen) -> None:
    """Until there is such a file, or the process has ended."""
    while not any(output_dir.glob(pattern)) and process.poll() is None:
        time.sleep(0.01)


def logged_steps(output_dir: Path) -> list[tuple]:
    """The log of each step, without times."""
    return [
        (record["epoch"], record.get("iter"), record["_type"], record["loss"], record["top1_err"])
        for record in StatsLog(output_dir).read()
        if "_type" in record  # not of the test
    ]


def test_a_typing_error_gives_status_2_and_no_traceback(tiny_config):
    process = start(tiny_config, "TRAIN.BATCHSIZE", "4")

    printed = process.communicate()[0]

    assert process.returncode == 2
    assert "Did you mean TRAIN.BATCH_SIZE?" in printed and "Traceback" not in printed
