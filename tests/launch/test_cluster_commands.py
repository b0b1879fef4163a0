"""The commands of ``docs/clusters.md`` that start several processes, run for real on CPUs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MVIT = [sys.executable, "-m", "slowfast_mvit"]
STAND_INS = {
    # The first node of the job, and the only one. What Slurm signals to all processes of a step,
    # the child of the first gets here.
    "srun": """
        while [[ $1 == --* ]]; do shift; done
        SLURM_NODEID=0 "$@" & task=$!
        trap 'pkill -USR1 -P $task' USR1
        wait $task; status=$?
        while kill -0 $task 2>/dev/null; do wait $task; status=$?; done
        exit $status""",
    "scontrol": 'if [[ $1 == show ]]; then echo localhost; else echo "$@" >> calls; fi',
    "squeue": "echo RUNNING",
    "slowfast-mvit": f'exec {sys.executable} -m slowfast_mvit "$@"',
}
TRAIN = ["train", "--cfg", "tiny.yaml", "SOLVER.MAX_EPOCH", "200", "TRAIN.EVAL_PERIOD", "200"]


def start(command, folder: Path, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        start_new_session=True,
    )


@contextlib.contextmanager
def ended(*processes: subprocess.Popen):
    """Leaves none of these at the end; their ranks die with them."""
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.mark.nightly
def test_torchrun_starts_run_net(tiny_config):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    words = ["--cfg", tiny_config, "SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "False"]
    run = start([*torchrun, ROOT / "tools" / "run_net.py", *words], tiny_config.parent)

    with ended(run):
        printed, _ = run.communicate(timeout=120)

    assert run.returncode == 0, printed
    assert "effective batch: 8 videos a step = 4 videos a process x 2 processes" in printed
    assert (tiny_config.parent / "out" / "checkpoints" / "checkpoint_epoch_00001.pyth").is_file()


@pytest.mark.nightly
def test_agents_of_two_nodes_meet_and_train(tiny_config):
    meeting = ["--nnodes", "2", "--rdzv_endpoint", f"localhost:{free_port()}"]
    words = ["train", "--cfg", tiny_config, "SOLVER.MAX_EPOCH", "1"]
    nodes = [
        start(
            [*MVIT, "launch", *meeting, "--rdzv_conf", f"is_host={is_host}", "--", *words],
            tiny_config.parent,
        )
        for is_host in (1, 0)
    ]

    with ended(*nodes):
        printed = "".join(node.communicate(timeout=120)[0] for node in nodes)

    assert [node.returncode for node in nodes] == [0, 0], printed
    assert "2 processes (2 nodes x 1)" in printed
    assert "effective batch: 16 videos a step = 8 videos a process x 2 processes" in printed


@pytest.fixture
def batch_script(tiny_config, monkeypatch) -> list[str]:
    """The command of a job of 200 epochs, with stand-ins for the commands of Slurm."""
    folder = tiny_config.parent
    for name, body in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", str(free_port() - 20000))
    monkeypatch.setenv("SLURM_JOB_NODELIST", "localhost")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    return ["bash", str(ROOT / "deploy" / "slurm" / "train.sbatch"), *TRAIN]


@pytest.mark.nightly
def test_a_job_that_is_warned_saves_inside_the_epoch_and_resumes_there(batch_script, tiny_config):
    folder = tiny_config.parent
    first = start(batch_script, folder)
    with ended(first):
        deadline_s = time.monotonic() + 60
        while not list(folder.glob("out/checkpoints/*.pyth")):
            assert time.monotonic() < deadline_s and first.poll() is None
            time.sleep(0.05)
        first.send_signal(signal.SIGUSR1)
        printed, _ = first.communicate(timeout=60)
    assert first.returncode == 138, printed
    assert (folder / "calls").read_text().startswith("requeue ")
    saved = max(folder.glob("out/*/*.pyth"), key=lambda path: path.stat().st_mtime)

    second = start(batch_script, folder, SLURM_RESTART_COUNT="1")
    with ended(second):
        deadline_s = time.monotonic() + 60
        while f"resuming from {saved}" not in (folder / "out" / "stdout.log").read_text():
            assert time.monotonic() < deadline_s and second.poll() is None
            time.sleep(0.05)
        second.send_signal(signal.SIGTERM)
        printed, _ = second.communicate(timeout=60)

    assert second.returncode == 138, printed
    assert "requeued 1 times" in printed
