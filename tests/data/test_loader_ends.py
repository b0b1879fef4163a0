"""However a run ends, no worker outlives it, and none of them talks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from videos import write_video

PROGRAM = Path(__file__).with_name("endless_loader.py")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(folder / f"{number}.mp4", 6, size=(20, 26))
    return folder


def started(folder, start_method):
    """A program that reads, once its workers do, and their process ids."""
    run = subprocess.Popen(
        [sys.executable, PROGRAM, folder, start_method],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
    )
    return run, [int(pid) for pid in run.stdout.readline().split()]


def processes_of_session(leader):
    """The living processes of the session that ``leader`` began."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == leader and state != "Z":
                    found.add(int(folder.name))
    return found


def wait_for_end(pids):
    deadline_s = time.monotonic() + 120
    while running := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline_s, f"{running} still run"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks Linux which processes run")
def test_ctrl_c_ends_workers_without_a_word_from_them(folder):
    run, pids = started(folder, "forkserver")

    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to every process of the run
    _, stderr = run.communicate(timeout=120)

    assert len(pids) == 2
    assert stderr.count("Traceback") == 1 and stderr.rstrip().endswith("KeyboardInterrupt")
    wait_for_end(pids)


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks Linux which processes run")
def test_no_signal_to_all_processes_ends_a_worker_but_the_end_of_the_main_one_does(folder):
    run, pids = started(folder, "forkserver")
    others = processes_of_session(run.pid) - {run.pid}

    for number in (signal.SIGTERM, signal.SIGUSR1):  # as a scheduler does
        for pid in others:
            os.kill(pid, number)
    time.sleep(0.5)

    assert set(pids) <= others
    assert processes_of_session(run.pid) == {run.pid, *others}
    run.kill()
    _, stderr = run.communicate(timeout=120)
    wait_for_end(others)
    assert stderr == ""


def test_a_program_from_standard_input_has_workers_too(folder):
    program = PROGRAM.read_text().replace("1_000_000", "2")

    run = subprocess.run(
        [sys.executable, "-", folder, ""],
        input=program,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        timeout=120,
    )

    assert (run.returncode, run.stderr) == (0, "")
    assert len(run.stdout.split()) == 2 * 3  # two workers, told at each of three batches
