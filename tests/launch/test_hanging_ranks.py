"""Ranks that hang, are stopped or fail while others wait for them, with real processes."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(Path(__file__).with_name("hanging_ranks.py"))
LAUNCH = [sys.executable, "-m", "slowfast_mvit", "launch", "--nproc_per_node", "2", "--"]


def run_ranks(*words):
    """The exit status, the output and the seconds of a launch whose ranks hang after 2 s."""
    start_s = time.monotonic()
    run = subprocess.Popen(
        [*LAUNCH, PROGRAM, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        printed, _ = run.communicate(timeout=90)
        seconds = time.monotonic() - start_s
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    pids = re.findall(r"^pid (\d+)$", printed, re.MULTILINE)
    assert len(pids) == 2 and not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    return run.returncode, printed, seconds


@pytest.mark.parametrize(
    ("rank", "where"),
    [
        (0, "stopped"),
        pytest.param(1, "sleeps", marks=pytest.mark.nightly),
        pytest.param(0, "sleeps", marks=pytest.mark.nightly),
        pytest.param(1, "stopped", marks=pytest.mark.nightly),
    ],
)
def test_a_rank_that_hangs_ends_the_run_with_its_name(rank, where):
    status, printed, seconds = run_ranks(rank, where)

    assert status == 1, printed
    named = [line for line in printed.splitlines() if "no progress for 2 s" in line]
    assert len(named) == 1, printed
    assert f"rank {rank} on {socket.gethostname()}, at " in named[0]
    assert "epoch 1, step 3, reading videos" in named[0]
    assert "Traceback" not in printed and "gloo" not in printed
    assert seconds < 60


@pytest.mark.nightly
def test_a_slow_rank_is_no_hanging_one():
    status, printed, _ = run_ranks(1, "slow")

    assert status == 0, printed


@pytest.mark.nightly
@pytest.mark.parametrize("where", ["killed", "raises"])
def test_a_rank_that_fails_reports_why_and_the_others_only_that(where):
    status, printed, _ = run_ranks(1, where)

    assert status != 0
    assert printed.count("Traceback") == (where == "raises"), printed
    assert "gloo" not in printed
