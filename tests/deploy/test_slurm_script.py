"""The batch script for Slurm, run by a shell with stand-ins for the commands of Slurm.

The behaviour of the real ones (which process gets which signal, the state of a job then) was
observed on Slurm 22.05 with two nodes, and is described in ``docs/clusters.md``.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from slowfast_mvit.cli.flags import LAUNCH_FLAGS
from slowfast_mvit.config import load_config, split_cfg_words

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "slurm" / "train.sbatch"
HEAD = SCRIPT.read_text().partition("\n\n")[0]
OPTIONS = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)", HEAD, re.MULTILINE))

# srun starts one task, that of the first node; USR1 reaches all processes of the task.
STAND_INS = {
    "srun": """
        while [[ $1 == --* ]]; do shift; done
        SLURM_NODEID=0 setsid "$@" & task=$!
        trap 'kill -USR1 -- -$task' USR1
        wait $task; status=$?
        if ((status > 128)) && kill -0 $task 2>/dev/null; then wait $task; status=$?; fi
        exit $status""",
    "scontrol": """
        if [[ $1 == show ]]; then echo node7; echo node8; else echo "$@" >> calls; fi""",
    "squeue": "cat state",
}


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """A folder with stand-ins for the commands of Slurm, and the environment of a job."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    for name, body in STAND_INS.items():
        write_program(tmp_path / "bin" / name, body)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "123456")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[7-8]")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    (tmp_path / "state").write_text("RUNNING\n")
    (tmp_path / "calls").touch()
    return tmp_path


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def run(cluster: Path, launch: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the script where ``launch`` is the body of the command slowfast-mvit."""
    write_program(cluster / "bin" / "slowfast-mvit", launch)
    return subprocess.run(
        ["bash", SCRIPT, "train", "--cfg", "my config.yaml"],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    ("status", "requeues", "state", "is_requeued", "ends_with"),
    [
        (0, 0, "RUNNING", False, 0),
        (2, 0, "RUNNING", False, 2),
        (143, 0, "RUNNING", True, 143),
        (1, 2, "RUNNING", True, 1),
        (1, 3, "RUNNING", False, 1),
        (143, 0, "COMPLETING", False, 143),
        (143, 0, "", False, 143),
    ],
    ids=[
        "done",
        "user error",
        "preempted",
        "crashed again",
        "crashed too often",
        "cancelled",
        "unknown to Slurm",
    ],
)
def test_a_job_is_requeued_where_that_may_help(
    cluster, status, requeues, state, is_requeued, ends_with
):
    (cluster / "state").write_text(state)

    answer = run(cluster, f"exit {status}", SLURM_RESTART_COUNT=str(requeues), MAX_REQUEUES="3")

    assert answer.returncode == ends_with, answer.stderr
    assert (cluster / "calls").read_text() == ("requeue 123456\n" if is_requeued else "")


def test_each_node_starts_one_launch_with_the_words_of_the_command(cluster):
    run(cluster, 'printf "%s\\n" "$@" > words', SLURM_RESTART_COUNT="1")

    words = (cluster / "words").read_text().splitlines()
    assert words == [
        *("launch", "--rdzv_conf", "is_host=1", "--nnodes", "2", "--max_restarts", "3"),
        *("--rdzv_endpoint", "node7:23456", "--rdzv_id", "slurm-123456-1"),
        *("--", "train", "--cfg", "my config.yaml"),
    ]
    assert {word for word in words if word.startswith("--")} <= {"--", "--cfg", *LAUNCH_FLAGS}


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_the_ranks_save_before_a_warned_job_is_requeued(cluster, number):
    launch = """
        trap "sleep 0.3; touch saved; exit 138" USR1
        touch started
        while :; do sleep 0.1; done"""
    write_program(cluster / "bin" / "slowfast-mvit", launch)
    job = subprocess.Popen(["bash", SCRIPT, "train"], start_new_session=True)
    try:
        deadline_s = time.monotonic() + 20
        while not (cluster / "started").exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.05)

        job.send_signal(number)

        assert job.wait(timeout=20) == 138
        assert (cluster / "saved").exists()
        assert (cluster / "calls").read_text() == "requeue 123456\n"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)


def test_the_options_ask_for_a_requeue_and_for_time_to_save():
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    assert {"requeue", "open-mode", "nodes", "time", "output"} <= set(OPTIONS)
    to, _, warning_s = OPTIONS["signal"].partition("@")
    assert to == "B:USR1"
    assert int(warning_s) > LAUNCH_FLAGS["--shutdown_timeout"]["default"]
    assert OPTIONS["ntasks-per-node"] == "1"


def test_the_example_in_its_head_is_a_command_with_cores_for_its_loader():
    example = re.search(r"^#   (sbatch .*?[^\\])\n", HEAD, re.MULTILINE | re.DOTALL).group(1)
    words = shlex.split(example.replace("\\\n#", ""))
    place = words.index(str(SCRIPT.relative_to(ROOT)))

    [file], overrides = split_cfg_words(words[words.index("--cfg", place) + 1 :])
    config = load_config(file, overrides)

    assert words[place + 1] == "train"
    cores = config.data_loader.num_workers * int(OPTIONS["gpus-per-node"])
    assert int(OPTIONS["cpus-per-task"]) == cores
