"""A second start on the OUTPUT_DIR of a live run is refused; a dead run's is taken."""

import os
import subprocess
import sys
import time

import pytest

from slowfast_mvit.cli import main
from slowfast_mvit.runtime.output_lock import OutputInUse, output_lock


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.mark.parametrize("start", [["train"], ["launch", "--nproc_per_node", "2", "--", "train"]])
def test_a_second_start_is_refused_before_torch_is_imported(tiny_config, out, start):
    command = [sys.executable, "-X", "importtime", "-m", "slowfast_mvit", *start]
    with output_lock(out, "train"):
        done = subprocess.run(
            [*command, "--cfg", str(tiny_config)], capture_output=True, text=True, check=False
        )

    assert done.returncode == 2
    message = done.stderr.splitlines()[-1]
    assert f"process {os.getpid()} on" in message and "--takeover" in message
    assert "| torch\n" not in done.stderr
    assert not (out / "json_stats.log").exists()


def test_a_second_fine_tuning_is_refused_before_its_inputs_are_read(out, capsys):
    with output_lock(out, "train"):
        assert main(["finetune", "--data", "nowhere", "--out", str(out)]) == 2

    assert f"process {os.getpid()} on" in capsys.readouterr().err


def test_other_writers_of_the_folder_are_not_refused(tiny_config, out):
    words = ["--cfg", str(tiny_config), "SOLVER.MAX_EPOCH", "1"]
    assert main(["train", *words]) == 0

    with output_lock(out, "train"), output_lock(out, "test-2-of-2"):
        assert main(["test", "--part", "2/2", *words]) == 2
        assert main(["test", "--part", "1/2", *words]) == 0


def test_a_run_that_was_taken_over_stops_before_it_saves(tiny_config, out):
    words = ["train", "--cfg", str(tiny_config), "SOLVER.MAX_EPOCH", "1"]
    with output_lock(out, "train") as first:
        assert main(words) == 2
        assert main([*words, "--takeover"]) == 0
        with pytest.raises(OutputInUse):
            first.require()


SLOW = """
import sys, time
from slowfast_mvit.cli import main
from slowfast_mvit.engine.state import Training

save = Training.save
def slow_save(*args):
    open(sys.argv[1], "w").close()
    time.sleep(2)
    save(*args)
Training.save = slow_save
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.nightly
def test_the_first_of_two_runs_saves_nothing_after_a_takeover(tiny_config, out, tmp_path):
    words = ["train", "--cfg", str(tiny_config), "SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", str(out)]
    begun = tmp_path / "saving"
    first = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(begun), *words], stderr=subprocess.PIPE, text=True
    )
    while not begun.exists():
        assert first.poll() is None
        time.sleep(0.01)

    with output_lock(out, "train", takeover=True):
        _, errors = first.communicate()

    assert first.returncode == 2
    assert "has taken over" in errors
    assert not list((out / "checkpoints").glob("*"))
