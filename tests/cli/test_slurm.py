"""The batch script for Slurm, run by a shell with stand-ins for Slurm's commands.

How the real ones behave (who gets which signal, in which state a job is then) was tried on
Slurm 22.05 with two nodes, and is written in ``docs/clusters.md``.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slowfast_mvit.cli import main
from slowfast_mvit.cli.slurm import SlurmJob, sbatch_script
from slowfast_mvit.errors import ConfigError

# srun starts one task, as its first node would; USR1 that it gets, all processes of the task get.
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
    "sbatch": 'echo "$@" >> calls; echo Submitted batch job 42',
}


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """A folder in which ``srun`` and the others do as little as they can."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in STAND_INS.items():
        write_program(folder / name, body)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "123456")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[7-8]")
    (tmp_path / "state").write_text("RUNNING\n")
    (tmp_path / "calls").touch()
    return tmp_path


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def script_whose_launch_does(cluster: Path, monkeypatch, body: str) -> Path:
    """The batch script of a run in which ``body`` stands for Python."""
    write_program(cluster / "python", body)
    monkeypatch.setattr(sys, "executable", str(cluster / "python"))
    job = SlurmJob(nodes=2, gpus_per_node=8, cpus_per_gpu=4, max_requeues=3)
    script = cluster / "slurm.sh"
    words = ["train", "--cfg", "my config.yaml"]
    script.write_text(sbatch_script(job, words, output_dir=cluster, folder=cluster))
    return script


def run(script: Path, *, restarts: int = 0) -> subprocess.CompletedProcess:
    place = os.environ | ({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {})
    command = ["bash", str(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=place)


@pytest.mark.parametrize(
    ("status", "restarts", "state", "queued_again", "ends_with"),
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
        "a mistake",
        "preempted",
        "died again",
        "died too often",
        "cancelled",
        "unknown to Slurm",
    ],
)
def test_a_job_is_queued_again_where_that_may_help(
    cluster, monkeypatch, status, restarts, state, queued_again, ends_with
):
    script = script_whose_launch_does(cluster, monkeypatch, f"exit {status}")
    (cluster / "state").write_text(state)

    answer = run(script, restarts=restarts)

    assert answer.returncode == ends_with, answer.stderr
    assert (cluster / "calls").read_text() == ("requeue 123456\n" if queued_again else "")


def test_each_node_starts_one_agent_with_the_words_of_the_command(cluster, monkeypatch):
    script = script_whose_launch_does(cluster, monkeypatch, 'printf "%s\\n" "$@" > words')

    run(script, restarts=1)

    assert (cluster / "words").read_text().splitlines() == [
        *("-m", "slowfast_mvit", "launch", "--rdzv_conf", "is_host=1"),
        *("--rdzv_endpoint", "node7:23456", "--rdzv_id", "slurm-123456-1"),
        *("--nnodes", "2", "--nproc_per_node", "8", "--max_restarts", "3"),
        *("--", "train", "--cfg", "my config.yaml"),
    ]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_warning_reaches_training_which_saves_before_the_job_goes_back(
    cluster, monkeypatch, number
):
    body = (
        'trap "sleep 0.3; touch saved; exit 138" USR1\ntouch started\nwhile :; do sleep 0.1; done'
    )
    script = script_whose_launch_does(cluster, monkeypatch, body)
    job = subprocess.Popen(["bash", str(script)], start_new_session=True)
    try:
        deadline = time.monotonic() + 20
        while not (cluster / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)

        job.send_signal(number)

        assert job.wait(timeout=20) == 138
        assert (cluster / "saved").exists()
        assert (cluster / "calls").read_text() == "requeue 123456\n"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)


def slurm(config: Path, *words: str) -> int:
    return main(["slurm", "--gpus-per-node", "0", *words, "--", "train", "--cfg", str(config)])


def test_the_script_is_written_to_the_output_folder_and_submitted(cluster, tiny_config, capsys):
    status = slurm(tiny_config, "--nodes", "2", "--partition", "long", "--sbatch", "account=a b")

    assert status == 0
    script = cluster / "out" / "slurm.sh"
    assert (cluster / "calls").read_text() == f"{script}\n"
    assert "Submitted batch job 42" in capsys.readouterr().out
    options = {
        word
        for line in script.read_text().splitlines()
        if line.startswith("#SBATCH")
        for word in shlex.split(line)[1:]
    }
    assert options == {
        *("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--requeue"),
        *("--signal=B:USR1@120", "--open-mode=append"),
        *(f"--chdir={cluster}", f"--output={cluster}/out/slurm-%j.log"),
        *("--partition=long", "--job-name=mvit", "--account=a b"),
    }


def test_a_dry_run_prints_the_script_and_leaves_nothing(cluster, tiny_config, capsys):
    assert slurm(tiny_config, "--dry-run") == 0

    script = capsys.readouterr().out
    assert script.startswith("#!/bin/bash\n#SBATCH --nodes=1\n")
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert (cluster / "calls").read_text() == ""
    assert not (cluster / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SOLVER.BASE_RL", "1"], "Did you mean SOLVER.BASE_LR?"),
        (["NUM_SHARDS", "3"], "NUM_SHARDS is 3, but --nodes is 1"),
        (["NUM_GPUS", "1"], "NUM_GPUS is 1, but --gpus-per-node is 0"),
    ],
)
def test_a_mistake_in_the_config_is_found_before_the_queue(
    cluster, tiny_config, capsys, words, message
):
    status = main(
        ["slurm", "--gpus-per-node", "0", "--", "train", "--cfg", str(tiny_config), *words]
    )

    assert status == 2
    assert message in capsys.readouterr().err
    assert (cluster / "calls").read_text() == ""


def test_a_batch_that_the_processes_of_a_node_cannot_share_is_refused(cluster, tiny_config, capsys):
    words = ["--", "train", "--cfg", str(tiny_config), "NUM_GPUS", "2"]

    assert main(["slurm", "--gpus-per-node", "3", *words]) == 2

    assert "TRAIN.BATCH_SIZE is 8 videos a node" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--account=x", "a;b=1", "comment=two\nlines", ""])
def test_an_option_that_would_not_stay_one_is_refused(option):
    job = SlurmJob(nodes=1, gpus_per_node=0, cpus_per_gpu=1, max_requeues=0, options=(option,))

    with pytest.raises(ConfigError, match="expected an option of sbatch"):
        sbatch_script(job, ["train"], output_dir=Path("/out"), folder=Path("/"))
