"""The benchmark of lists, and what the longest public list costs in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import lists as benchmark

ROOT = Path(__file__).resolve().parents[2]

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc"
)

MEASURE = """
import json, sys
from pathlib import Path
from benchmarks.lists import measure_case, write_csv

folder = Path(sys.argv[1])
write_csv(folder, 650_000)
print(json.dumps(measure_case("csv", folder, methods=("fork", "spawn"))))
"""


@pytest.mark.nightly
@needs_proc
def test_650_000_videos_cost_under_150_mb_and_nothing_in_a_worker(tmp_path):
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]

    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    measured = json.loads(output.stdout.splitlines()[-1])

    assert measured["num_videos"] == 650_000
    assert measured["peak_mb"] < 150
    # The columns hold 40 MB; a few megabytes more or less are the noise of starting a process.
    assert measured["worker_mb"]["fork"] < 10
    assert measured["worker_mb"]["spawn"] < 10


@needs_proc
@pytest.mark.parametrize("name", benchmark.CASES)
def test_each_case_writes_a_list_that_is_read(tmp_path, name):
    dataset, _, write = benchmark.CASES[name]
    write(tmp_path, 200)

    measured = benchmark.measure_case(dataset, tmp_path, methods=())

    # About a fifth is held out.
    assert 140 < measured["num_videos"] < 180 if name == "folder" else measured["num_videos"] == 200


def test_the_last_line_is_the_result_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "measure", lambda names: {name: {} for name in names})

    status = benchmark.main(["--quick", "--results", str(tmp_path)])

    [file] = tmp_path.iterdir()
    assert status == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == json.loads(file.read_text())
