"""One test on several processes, in parts, and killed: always the bytes of a single process."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import RankFailed, run_ranks

from slowfast_mvit.cli import main
from slowfast_mvit.config import load_config
from slowfast_mvit.errors import UserError
from slowfast_mvit.evaluation import records
from slowfast_mvit.jobs import test
from slowfast_mvit.jobs.test import test_job as run_test_job

ROOT = Path(__file__).resolve().parents[2]
NUM_VIDEOS = 13
NUM_READABLE = 11
# Views in a pass that end within a video; two numbers of clips in one reading.
SETTINGS = [
    "TEST.BATCH_SIZE",
    "5",
    "TEST.NUM_SPATIAL_CROPS",
    "1",
    "TEST.NUM_TEMPORAL_CLIPS",
    "[3,1]",
    "TEST.WEIGHTS",
    "random",
]


@pytest.fixture
def words(tiny_config, motion_data, tmp_path):
    """The words of a test of 13 videos, of which the third and the last cannot be read."""
    videos = sorted((motion_data / "val").glob("*.mp4"))
    data = tmp_path / "data"
    data.mkdir()
    for number in range(NUM_VIDEOS - 1):
        (data / f"{number:02d}.mp4").symlink_to(videos[number % len(videos)])
    (data / "02.mp4").unlink()
    (data / "02.mp4").write_bytes(b"<html>404</html>")
    lines = [f"{number:02d}.mp4 {number % 8}\n" for number in range(NUM_VIDEOS)]
    (data / "val.csv").write_text("".join(lines))
    return ["--cfg", str(tiny_config), "DATA.PATH_TO_DATA_DIR", str(data), *SETTINGS]


def job(words, output_dir):
    run_test_job(load_config(words[1], [*words[2:], "OUTPUT_DIR", str(output_dir)]))


def killed_job(words, output_dir, rank, num_records, is_torn):
    """Dies when it would write one record more; the last may be written by half."""
    whole_line, num_written = records.record_line, 0

    def line(outcome):
        nonlocal num_written
        if num_written == num_records:
            os.kill(os.getpid(), signal.SIGKILL)
        num_written += 1
        text = whole_line(outcome)
        return text[: len(text) // 2] if is_torn and num_written == num_records else text

    if os.environ["RANK"] == str(rank):
        records.record_line = line
    job(words, output_dir)


def results(output_dir):
    names = ("test_results.json", "test_scores.npz")
    folders = [Path(output_dir) / f"test_{num_clips}_clips" for num_clips in (3, 1)]
    return [(folder / name).read_bytes() for folder in folders for name in names]


def without_time(page):
    return re.sub(r"tested [\d-]+ [\d:]+ UTC", "tested", page)


def numbers_scored(output_dir):
    """The number of videos that each start of a test left out, by its log."""
    log = (Path(output_dir) / "stdout.log").read_text()
    return [int(number) for number in re.findall(r"(\d+) of them were scored before", log)]


@pytest.fixture
def single(words, tmp_path):
    """The files of a single process that is never killed."""
    run_ranks(job, 1, words, tmp_path / "single")
    return results(tmp_path / "single")


def test_results_are_the_same_bytes_for_any_number_of_ranks(words, single, tmp_path):
    found = json.loads(single[0])
    assert (found["num_videos"], found["failed"]) == (NUM_READABLE, NUM_VIDEOS - NUM_READABLE)

    for world_size in (2, 3, 4):
        output_dir = tmp_path / str(world_size)
        run_ranks(job, world_size, words, output_dir)

        assert results(output_dir) == single, world_size
        assert not (output_dir / "test_records").exists()
        failed = (output_dir / "test_1_clips" / "failed_videos.csv").read_text()
        assert [line[:2] for line in failed.splitlines()[1:]] == ["02", "12"]


@pytest.mark.parametrize(
    ("kills", "last_world_size", "least"),
    [
        ([(1, 0, 0, False), (1, 0, 4, True), (1, 0, 5, False)], 2, 6),
        pytest.param(
            [(2, 1, 1, True), (3, 2, 1, False), (4, 3, 0, False)], 1, 1, marks=pytest.mark.nightly
        ),
    ],
    ids=["one process, then two", "two, three and four, then one"],
)
def test_a_killed_test_scores_only_what_is_missing(
    words, single, tmp_path, kills, last_world_size, least
):
    output_dir = tmp_path / "killed"

    for world_size, rank, num_records, is_torn in kills:
        with pytest.raises(RankFailed):
            run_ranks(killed_job, world_size, words, output_dir, rank, num_records, is_torn)
    assert not (output_dir / "test_1_clips").exists()
    run_ranks(job, last_world_size, words, output_dir)

    assert results(output_dir) == single
    counts = numbers_scored(output_dir)
    assert counts == sorted(counts) and counts[-1] >= least
    run_ranks(job, 1, words, output_dir)  # a finished test starts over
    assert numbers_scored(output_dir) == counts


def run_part(words, output_dir, part):
    return main(["test", *words, "OUTPUT_DIR", str(output_dir), "--part", part])


@pytest.mark.parametrize("is_shared", [True, False], ids=["one folder", "a folder each"])
def test_parts_of_several_jobs_are_merged_to_the_bytes_of_one(words, single, tmp_path, is_shared):
    folders = [tmp_path / ("parts" if is_shared else f"part_{number}") for number in range(3)]
    for number in (2, 0, 1):
        assert run_part(words, folders[number], f"{number + 1}/3") == 0
        assert not (folders[number] / "test_1_clips").exists()

    assert main(["merge", *map(str, dict.fromkeys(folders))]) == 0

    assert results(folders[0]) == single
    assert (
        run_part(words, folders[0], "1/1") == 0
    )  # the whole list resumes from the existing records
    assert numbers_scored(folders[0]) == [NUM_READABLE if is_shared else 3]


def test_merging_writes_the_report_of_a_single_job_too(words, single, tmp_path):
    (tmp_path / "single").rename(tmp_path / "kept")  # a report names its folder
    for part in ("1/2", "2/2"):
        assert run_part(words, tmp_path / "single", part) == 0

    assert main(["merge", str(tmp_path / "single")]) == 0

    for name in ("test_3_clips/report.html", "test_1_clips/report.html", "test_clip_counts.json"):
        single, merged = ((tmp_path / kind / name).read_text() for kind in ("kept", "single"))
        assert without_time(merged) == without_time(single)


def test_parts_that_leave_a_gap_are_not_merged(words, tmp_path, capsys):
    output_dir = tmp_path / "parts"
    for part in ("1/4", "3/4"):
        assert run_part(words, output_dir, part) == 0
    output_dir = output_dir.rename(tmp_path / "it's moved")

    assert main(["merge", str(output_dir)]) == 2

    printed = capsys.readouterr().err
    assert "7 of 13 videos have no record (first: '03.mp4')" in printed
    commands = [shlex.split(line) for line in re.findall("  slowfast-mvit (test .*)", printed)]
    assert [command[-1] for command in commands] == ["2/4", "4/4"]
    assert [main(command) for command in commands] == [0, 0]
    assert main(["merge", str(output_dir)]) == 0


def test_parts_of_different_tests_are_not_merged(words, tmp_path, capsys):
    assert run_part(words, tmp_path / "a", "1/2") == 0
    assert run_part([*words, "RNG_SEED", "2"], tmp_path / "b", "2/2") == 0
    assert run_part([*words, "TEST.BATCH_SIZE", "4"], tmp_path / "a", "2/2") == 0

    for folders, names in (
        (["a"], ["views in a forward pass"]),
        (["b", "a"], ["config", "weights"]),
    ):
        assert main(["merge", *(str(tmp_path / folder) for folder in folders)]) == 2
        printed = capsys.readouterr().err
        assert "records of different tests" in printed
        for name in names:
            assert f"differs in {name}:" in printed


def test_a_list_that_changed_since_is_noticed(words, tmp_path, capsys):
    assert run_part(words, tmp_path / "a", "1/1") == 0
    assert run_part(words, tmp_path / "a", "1/2") == 0
    with open(tmp_path / "data" / "val.csv", "a") as file:
        file.write("another.mp4 0\n")

    assert main(["merge", str(tmp_path / "a")]) == 2

    assert "changed since the test: list." in capsys.readouterr().err


@pytest.mark.parametrize("part", ["0/4", "5/4", "4", "a/b", "1/0", "-1/2"])
def test_a_part_that_is_none_is_refused(words, tmp_path, capsys, part):
    assert main(["test", *words, f"--part={part}"]) == 2

    assert "expected the number of a part" in capsys.readouterr().err


def test_a_folder_without_records_is_not_merged(tmp_path, capsys):
    assert main(["merge", str(tmp_path)]) == 2

    assert "no records of a test there" in capsys.readouterr().err


def test_records_of_other_nodes_may_take_a_while_to_be_seen(words, single, tmp_path, monkeypatch):
    seen, waited_s = [], []

    def join_with_delay(folders, views):
        seen.append(records.join_records(folders, views))
        return seen[-1] if len(seen) > 2 else {}

    monkeypatch.setattr(test, "join_records", join_with_delay)
    monkeypatch.setattr(test, "num_nodes", lambda: 2)
    monkeypatch.setattr(test.time, "sleep", waited_s.append)
    job(words, tmp_path / "out")

    assert results(tmp_path / "out") == single
    assert waited_s == [1.0, 1.0]


def job_with_threads(words, output_dir):
    torch.set_num_threads(1 + int(os.environ["RANK"]))
    job(words, output_dir)


def test_ranks_whose_arithmetic_differs_do_not_test_together(words, tmp_path):
    with pytest.raises(UserError, match=r"rank 1 differs from rank 0 in arithmetic: .*2 threads"):
        run_ranks(job_with_threads, 2, words, tmp_path / "out")


def test_a_stopped_test_resumes_from_a_remote_folder(words, single, shelf, monkeypatch):
    command = ["test", *words, "PATH_HANDLERS", "['shelf:ShelfHandler']"]
    command += ["OUTPUT_DIR", "shelf://run"]
    whole_line, written = records.record_line, []

    def stop_at_the_sixth(outcome):
        written.append(outcome)
        if len(written) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole_line(outcome)

    monkeypatch.setattr(records, "record_line", stop_at_the_sixth)
    assert main(command) == 128 + signal.SIGTERM
    assert list((shelf / "run").rglob("part_00001_of_00001_rank_00000.jsonl"))
    assert main(command) == 0

    assert results(shelf / "run") == single
    assert numbers_scored(shelf / "run") == [5]  # one of the six could not be read
    assert not [path for path in shelf.rglob("test_records/**/*") if path.is_file()]


@pytest.mark.nightly
def test_a_stopped_launched_test_resumes_with_the_same_command(words, tmp_path):
    words = [*words, "DATA.DECODING_BACKEND", "slow_reader:open_slowly"]
    command = [sys.executable, "-m", "slowfast_mvit", "launch", "--nproc_per_node", "2", "--"]
    command += ["test", *words, "OUTPUT_DIR", str(tmp_path / "stopped")]
    paths = f"{ROOT}:{Path(__file__).parent}"
    environment = {**os.environ, "PYTHONPATH": paths, "SLOW_READER_S": "1"}

    with subprocess.Popen(command, env=environment, start_new_session=True) as launch:
        try:
            while not any(path.stat().st_size for path in (tmp_path / "stopped").rglob("*.jsonl")):
                assert launch.poll() is None
                time.sleep(0.02)
            launch.terminate()
            status = launch.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launch.pid, signal.SIGKILL)
    run_ranks(job, 3, words, tmp_path / "stopped")
    run_ranks(job, 1, words, tmp_path / "unbroken")

    assert status == 128 + signal.SIGTERM
    assert 1 <= numbers_scored(tmp_path / "stopped")[0] < NUM_READABLE
    assert results(tmp_path / "stopped") == results(tmp_path / "unbroken")
