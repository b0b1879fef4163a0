"""What the longest public list costs in memory, measured in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MEASURE = """
import json, sys
from pathlib import Path
from benchmarks.lists import measure_case, write_csv

folder = Path(sys.argv[1])
write_csv(folder, 650_000)
print(json.dumps(measure_case("csv", folder, methods=("fork", "spawn"))))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads memory from /proc")
def test_650_000_videos_cost_under_150_mb_and_nothing_in_a_worker(tmp_path):
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]

    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    measured = json.loads(told.stdout.splitlines()[-1])

    assert measured["num_videos"] == 650_000
    assert measured["peak_mb"] < 150
    # The columns hold 40 MB; a few megabytes more or less are the noise of starting a process.
    assert measured["worker_mb"]["fork"] < 4
    assert measured["worker_mb"]["spawn"] < 4
