"""The script that measures on a GPU: its parts, its limits, and what one failure does."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.sh"


@pytest.fixture
def run_with(tmp_path):
    """Run the script with a program in Python's place; gives its status and what it left."""

    def run(program: str) -> tuple[int, dict[str, str]]:
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\n{program}\n")
        python.chmod(0o755)
        out = tmp_path / "out"
        environment = {**os.environ, "PYTHON": str(python), "OUT": str(out)}
        done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True)
        return done.returncode, {file.name: file.read_text() for file in out.iterdir()}

    return run


def test_the_parts_together_take_less_than_eight_minutes():
    limits = re.findall(r"^part \w+ (\d+) ", SCRIPT.read_text(), re.MULTILINE)

    assert len(limits) == 6
    assert sum(map(int, limits)) < 8 * 60


def test_one_part_that_fails_takes_nothing_from_the_others(run_with):
    status, left = run_with('echo "$@"; case "$*" in *kernels.py*) exit 3;; esac')

    assert status == 3
    endings = dict(re.findall(r"^(\w+) +status +(\d+)", left["gpu.txt"], re.MULTILINE))
    assert endings == {
        **dict.fromkeys(["tests", "S", "S_compiled", "B", "L"], "0"),
        "kernels": "3",
    }
    assert "-m pytest -m gpu" in left["tests.log"]
    assert "--model L --batch 2 --checkpointing blocks" in left["L.log"]


def test_it_succeeds_where_all_parts_do(run_with):
    status, left = run_with("exit 0")

    assert status == 0
    assert len(left) == 7
