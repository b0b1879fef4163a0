"""Starting several processes, watching them and ending them, with real processes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slowfast_mvit.cli.commands import main, run_net
from slowfast_mvit.config import load_config
from slowfast_mvit.launch import torchrun
from slowfast_mvit.launch.agent import Launch

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(Path(__file__).with_name("rank_program.py"))
LAUNCH = [sys.executable, "-m", "slowfast_mvit", "launch", "--nproc_per_node", "2"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which processes run")


@contextlib.contextmanager
def started(command, folder):
    """A process in a session of its own; nothing of it is left at the end."""
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for pid in [process.pid, *pids_of_ranks(folder)]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        process.wait()


def pids_of_ranks(folder):
    return [int(path.read_text().split()[0]) for path in folder.glob("rank*.txt")]


def wait_for(condition, what):
    deadline_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline_s, f"waited in vain: {what}"
        time.sleep(0.05)


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_a_killed_rank_is_started_again_and_what_the_user_must_mend_is_not(tmp_path):
    command = [*LAUNCH, "--max_restarts", "3", "--", PROGRAM, tmp_path, "kill@1", "refuse@1"]

    with started(command, tmp_path) as run:
        printed, _ = run.communicate(timeout=120)

    assert run.returncode == 2, printed
    again = "launch: rank 1 was killed by SIGKILL. Restarting all ranks (1 of 3)"
    assert again in printed and "(2 of 3)" not in printed
    assert "2 ranks, 2 counted, attempt 1, 1 threads" in printed
    assert printed.count("[rank 1] UserError: the list is empty") == 1
    assert "Traceback" not in printed and "torch/distributed" not in printed


def test_a_request_to_stop_reaches_the_ranks_and_gives_the_exit_status(tmp_path):
    command = [*LAUNCH, "--max_restarts", "3", "--", PROGRAM, tmp_path, "wait@all"]

    with started(command, tmp_path) as run:
        wait_for(lambda: (tmp_path / "rank1.waits").exists(), "rank 1 waits")
        wait_for(lambda: (tmp_path / "rank0.waits").exists(), "rank 0 waits")
        run.send_signal(signal.SIGUSR1)
        printed, _ = run.communicate(timeout=120)

    assert run.returncode == 128 + signal.SIGUSR1, printed
    assert printed.count("the same command resumes from here") == 1
    assert "Traceback" not in printed


@needs_linux
def test_no_rank_outlives_a_killed_torchrun(tmp_path):
    with started([*TORCHRUN, PROGRAM, tmp_path, "wait@all"], tmp_path) as run:
        wait_for(lambda: len(list(tmp_path.glob("*.waits"))) == 2, "both ranks wait")
        pids = pids_of_ranks(tmp_path)

        run.kill()

        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "no rank is left")


@pytest.mark.nightly
def test_two_shards_train_one_model(tiny_config):
    folder = tiny_config.parent
    meeting = ["--num_shards", "2", "--init_method", f"tcp://localhost:{free_port()}"]
    words = ["--cfg", tiny_config, "TEST.ENABLE", "False", "SOLVER.MAX_EPOCH", "1", *meeting]
    command = [sys.executable, ROOT / "tools" / "run_net.py", *words, "--shard_id"]

    with started([*command, "0"], folder) as first, started([*command, "1"], folder) as second:
        (printed, _), (said_by_second, _) = first.communicate(120), second.communicate(120)

    assert (first.returncode, second.returncode) == (0, 0), printed + said_by_second
    assert "2 processes on 2 nodes joined the process group, over gloo" in printed
    assert "INFO" not in said_by_second and "Warning" not in said_by_second
    assert (folder / "out" / "checkpoints" / "checkpoint_epoch_00001.pyth").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["NUM_GPUS", "2"], Launch(2)),
        (["NUM_GPUS", "4"], Launch(4)),
        (["NUM_GPUS", "8", "TEST.BATCH_SIZE", "16"], Launch(4)),
        (
            ["NUM_GPUS", "4", "--num_shards", "3", "--shard_id", "2"],
            Launch(
                4,
                min_nodes=3,
                max_nodes=3,
                endpoint="node0:29500",
                node_rank=2,
                run_id="slowfast_mvit",
            ),
        ),
    ],
)
def test_each_gpu_that_is_asked_for_gets_a_process(tiny_config, monkeypatch, words, expected):
    started_with = []
    monkeypatch.setattr(torchrun, "_num_gpus", lambda: 4)
    monkeypatch.setattr(torchrun, "run_agent", lambda *given: started_with.append(given) or 143)
    monkeypatch.setenv("PYTHONPATH", "")
    words = ["--cfg", str(tiny_config), *words, "--init_method", "tcp://node0:29500"]

    assert run_net(words) == 143

    [(asked, command)] = started_with
    assert asked == expected
    assert command == [sys.executable, "-u", "-m", "slowfast_mvit", "run_net", *words]
    assert os.environ["PYTHONPATH"] == str(ROOT)


def test_one_gpu_is_for_this_process(tiny_config, monkeypatch):
    config = load_config(tiny_config, ["NUM_GPUS", "1"])
    monkeypatch.setattr(torchrun, "_num_gpus", lambda: 4)

    assert torchrun.launch_as_configured([config], ["train"]) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_shards", "2"], "--init_method tcp://HOST:PORT --num_shards 2 --shard_id I"),
        (
            ["--num_shards", "2", "--init_method", "file:///tmp/x"],
            "a file cannot serve as rendezvous",
        ),
        (["--num_shards", "2", "--init_method", "node0:29500"], "expected tcp://HOST:PORT"),
    ],
)
def test_several_nodes_need_a_rendezvous(tiny_config, capsys, words, message):
    assert run_net(["--cfg", str(tiny_config), *words]) == 2

    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--", "trian", "--cfg", "x.yaml"], "got 'trian'. Did you mean train?"),
        (["--"], "got nothing"),
        (["--nnodes", "2:1", "--", "train"], "expected a number of nodes, or MIN:MAX, got '2:1'"),
        (["--nnodes", "2", "--", "train"], "several nodes need a rendezvous"),
        (["--nnodes", "2", "--rdzv_endpoint", "node0", "--", "train"], "expected HOST:PORT"),
        (["--rdzv_conf", "is_host", "--", "train"], "expected KEY=VALUE"),
        (["--node_rank", "0", "--max_restarts", "1", "--", "train"], "exclude each other"),
    ],
)
def test_flags_that_cannot_be_used_are_refused(capsys, words, message):
    assert main(["launch", *words]) == 2

    assert message in capsys.readouterr().err


def test_configs_of_one_command_want_the_same_processes(tiny_config, tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_text(f"_BASE_: {tiny_config.name}\nNUM_SHARDS: 2\n")

    assert run_net(["--cfg", str(tiny_config), str(other)]) == 2

    assert "must agree in NUM_GPUS, NUM_SHARDS and SHARD_ID" in capsys.readouterr().err
