"""tools/run_net.py from outside, as a user runs it: in another folder, killed, and run again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

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


def test_a_run_killed_in_the_middle_ends_with_the_weights_of_one_that_was_not(tiny_config):
    random_parts = ["MODEL.DROPOUT_RATE", "0.5", "MVIT.DROPPATH_RATE", "0.3", "AUG.NUM_SAMPLE", "2"]
    mixing = ["MIXUP.ENABLE", "True", "AUG.ENABLE", "True", "MODEL.LOSS_FUNC", "soft_cross_entropy"]
    words = [*random_parts, *mixing, "SOLVER.MAX_EPOCH", "6", "TEST.ENABLE", "False"]
    folder = tiny_config.parent
    whole = start(tiny_config, *words, "OUTPUT_DIR", "whole")
    broken = start(tiny_config, *words, "OUTPUT_DIR", "broken")
    while not (folder / "broken" / CHECKPOINTS.format(2)).exists() and broken.poll() is None:
        time.sleep(0.01)
    os.killpg(broken.pid, signal.SIGKILL)
    assert broken.wait() == -signal.SIGKILL, broken.stdout.read()

    again = start(tiny_config, *words, "OUTPUT_DIR", "broken")

    log = again.communicate()[0]
    assert again.returncode == 0, log
    assert "going on from" in log
    assert whole.wait() == 0, whole.stdout.read()
    states = [
        torch.load(folder / name / CHECKPOINTS.format(6), weights_only=True)
        for name in ("whole", "broken")
    ]
    for name, expected in states[0]["model_state"].items():
        assert torch.equal(states[1]["model_state"][name], expected), name


def test_a_typing_error_gives_status_2_and_no_traceback(tiny_config):
    process = start(tiny_config, "TRAIN.BATCHSIZE", "4")

    printed = process.communicate()[0]

    assert process.returncode == 2
    assert "Did you mean TRAIN.BATCH_SIZE?" in printed and "Traceback" not in printed
