"""One record a file, whatever happens to a file, a worker, a run or a machine."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import example_jobs
import pytest

from data_prep import jobs
from data_prep.command_line import add_arguments, exit_status, parse, run_command
from data_prep.jobs import JobInput, Work, run_jobs
from data_prep.journal import Part, merge, part_path, read_part, read_records
from data_prep.sources import inputs_from_paths, inputs_in_folder
from slowfast_mvit.errors import UserError
from slowfast_mvit.storage import atomic_path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["a.mp4", "b c.mp4", "class one/ä 日本.MP4", 'class one/it\'s "4", x.webm', "-d.avi"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five files with odd names and one that is no video."""
    root = tmp_path / "videos"
    for name in [*NAMES, "notes.txt", ".tmp-1-a.mp4"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"content of {name}")
    return root


def run(folder: Path, out: Path, work: dict | None = None, **options) -> dict[str, int]:
    """Run ``example_jobs.digest`` on a folder, with these fields of its ``Work``."""
    digest = Work(**{"name": "digest", "function": example_jobs.digest, **(work or {})})
    return dict(run_jobs(inputs_in_folder(folder), digest, out, **options))


def test_videos_of_a_folder_are_found_sorted_linked_ones_too_and_without_hidden_ones(
    folder, tmp_path
):
    (folder / "class one").rename(tmp_path / "elsewhere")
    (folder / "class one").symlink_to(tmp_path / "elsewhere")

    assert [job.name for job in inputs_in_folder(folder)] == sorted(NAMES, key=os.fsencode)


def test_paths_are_read_line_by_line_and_keep_their_spaces(tmp_path):
    jobs = inputs_from_paths(["a b.mp4\n", "\n", "/x/c.mp4\r\n"], tmp_path)

    assert jobs == [
        JobInput("a b.mp4", tmp_path / "a b.mp4"),
        JobInput("/x/c.mp4", Path("/x/c.mp4")),
    ]


def test_a_name_listed_twice_is_refused(tmp_path):
    inputs = inputs_from_paths(["a.mp4", "a.mp4"], tmp_path)

    with pytest.raises(UserError, match=r"'a\.mp4' is listed twice"):
        run_jobs(inputs, Work("digest", example_jobs.digest), tmp_path / "out.jsonl")


@pytest.mark.parametrize("num_workers", [1, 3])
def test_records_do_not_depend_on_the_number_of_workers(folder, tmp_path, num_workers):
    out = tmp_path / f"records{num_workers}.jsonl"
    counts = run(folder, out, num_workers=num_workers)
    merge(out)

    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert counts == {"ok": 5}
    assert [record["path"] for record in records] == sorted(NAMES, key=os.fsencode)
    assert "mtime_ns" not in records[0]
    assert records[0] == {
        "path": "-d.avi",
        "bytes": 17,
        "status": "ok",
        "reason": "",
        "sha256": "5d699f3c9997c972ed9e32ec038a1d13ee0a8526ed82e58eef911b6235e1eb25",
    }
    table = out.with_suffix(".csv").read_text().splitlines()
    assert table[0] == "path,bytes,status,reason,sha256"
    assert table[1].startswith("'-d.avi,17,ok,,5d699f3c")


def test_a_crash_a_hang_an_error_and_a_bug_cost_one_record_each(folder, tmp_path):
    for name, content in zip(NAMES, ["crash", "hang", "broken", "bug", "fine"], strict=True):
        (folder / name).write_text(content)

    counts = run(folder, tmp_path / "out.jsonl", num_workers=2, timeout_s=1.0)

    reasons = {r["path"]: r["reason"] for r in merge(tmp_path / "out.jsonl")}
    assert counts == {"failed": 4, "ok": 1}
    assert reasons == {
        NAMES[0]: "the process that worked on it crashed (SIGSEGV)",
        NAMES[1]: "not done within 1 s",
        NAMES[2]: "broken",
        NAMES[3]: "KeyError: 'bug'",
        NAMES[4]: "",
    }


@pytest.mark.parametrize("num_killed", [2, 3])
def test_workers_that_are_killed_before_they_have_a_file_are_replaced(
    folder, tmp_path, monkeypatch, num_killed
):
    new_pool, killed = jobs._new_pool, []

    def new_pool_without_workers(*arguments):
        pool = new_pool(*arguments)
        if len(killed) < num_killed and pool.active:  # which starts the workers
            killed.append([child.kill() for child in multiprocessing.active_children()])
        return pool

    monkeypatch.setattr(jobs, "_new_pool", new_pool_without_workers)

    if num_killed < 3:
        assert run(folder, tmp_path / "out.jsonl", num_workers=2) == {"ok": 5}
    else:
        with pytest.raises(RuntimeError, match="end before they have done a file"):
            run(folder, tmp_path / "out.jsonl", num_workers=2)
    assert len(killed) == num_killed


def test_missing_pebble_is_reported_with_its_extra(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pebble", None)

    with pytest.raises(UserError, match=r"pip install 'slowfast_mvit\[data_prep\]'"):
        run(folder, tmp_path / "out.jsonl")


def test_a_full_disk_ends_the_run_and_is_no_fault_of_a_file(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    (folder / NAMES[0]).write_text("full")

    with pytest.raises(UserError, match=r"a\.mp4: .*No space left on device.*Make room"):
        run(folder, out)

    recorded = read_part(part_path(out, Part()))[1]
    assert NAMES[0] not in {record["path"] for record in recorded}
    (folder / NAMES[0]).write_text("fine now")
    assert run(folder, out) == {"ok": 5}


def test_left_overs_of_killed_processes_go_and_those_of_others_stay(folder, tmp_path):
    with pytest.raises(KeyError), atomic_path(tmp_path / "a.mp4") as of_job:
        raise KeyError
    with pytest.raises(KeyError), atomic_path(tmp_path / "x-a.mp4") as of_another:
        raise KeyError
    for path in (of_job, of_another):
        path.write_text("half a file")

    run(folder, tmp_path / "out.jsonl", {"outputs": lambda job: [tmp_path / job.name]})

    assert (of_job.exists(), of_another.exists()) == (False, True)


def test_a_second_run_does_only_what_is_new_changed_or_failed_on_request(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    (folder / NAMES[0]).write_text("broken")
    run(folder, out)
    before = {r["path"]: r for r in read_part(part_path(out, Part()))[1]}

    (folder / NAMES[1]).write_text("other content")
    (folder / "new.mp4").write_text("new")
    (folder / NAMES[4]).unlink()
    run(folder, out)
    after = read_part(part_path(out, Part()))[1]
    by_path = {record["path"]: record for record in after}

    assert len(after) == len(by_path) == 5
    assert by_path.keys() == {*NAMES[:4], "new.mp4"}
    assert by_path[NAMES[0]] == before[NAMES[0]]  # failed before: not done again
    assert by_path[NAMES[1]]["sha256"] != before[NAMES[1]]["sha256"]

    (folder / NAMES[0]).touch()
    assert run(folder, out, retry_failed=True) == {"ok": 4, "failed": 1}


def test_a_torn_last_line_is_cut_and_its_file_done_again(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    run(folder, out)
    journal = part_path(out, Part())
    whole = journal.read_bytes()
    expected = merge(out)

    for cut in (1, 20, 200, len(whole) - 10):
        journal.write_bytes(whole[:-cut])
        if cut == len(whole) - 10:  # within the first line: nothing to go by
            with pytest.raises(UserError, match="contains no records"):
                run(folder, out)
            continue
        run(folder, out)
        assert merge(out) == expected


def test_a_damaged_line_and_other_settings_are_refused_with_their_place(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    run(folder, out)
    journal = part_path(out, Part())

    with pytest.raises(UserError, match=r"pause_s was None there and is 0\.01 now"):
        run(folder, out, {"settings": {"pause_s": 0.01}})
    with pytest.raises(UserError, match="it is of digest, not other"):
        run(folder, out, {"name": "other"})
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:2], "{dam\n", *lines[2:]]))
    with pytest.raises(UserError, match=r"part-0-of-1\.jsonl: line 3 is damaged"):
        run(folder, out)


def test_two_processes_cannot_write_one_part(folder, tmp_path):
    import fcntl

    lock = part_path(tmp_path / "out.jsonl", Part()).with_suffix(".lock")
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is writing it"):
            run(folder, tmp_path / "out.jsonl")


def test_parts_divide_the_files_and_merge_needs_all_of_them(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    run(folder, tmp_path / "whole.jsonl")
    expected = merge(tmp_path / "whole.jsonl")
    for index in (0, 2):
        run(folder, out, part=Part(index, 3))

    with pytest.raises(UserError, match=r"out\.part-1-of-3\.jsonl is missing"):
        merge(out)
    assert not out.exists()

    run(folder, out, part=Part(1, 3))
    assert merge(out) == expected
    assert list(read_records(out)) == expected
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_merge_refuses_unfinished_overlapping_and_foreign_parts(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    for index in range(2):
        run(folder, out, part=Part(index, 2))
    first, second = (part_path(out, Part(index, 2)) for index in range(2))
    lines = second.read_text().splitlines(keepends=True)

    second.write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=r"part-1-of-2\.jsonl contains \d of \d records"):
        merge(out)

    stranger = first.read_text().splitlines(keepends=True)[1]
    second.write_text("".join([*lines[:-1], stranger]))
    with pytest.raises(UserError, match="has two records"):
        merge(out)

    second.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match=r"part-1-of-2\.jsonl contains part 0/2"):
        merge(out)

    second.write_text("".join([lines[0].replace('"num_inputs": 5', '"num_inputs": 6'), *lines[1:]]))
    merge(out)  # the digest of the names decides; both parts have the same
    (folder / "new.mp4").write_text("new")
    run(folder, out, part=Part(1, 2))
    with pytest.raises(UserError, match="made from another list of files"):
        merge(out)


@pytest.mark.parametrize("text", ["2/2", "x", "1", "-1/2", "1/0"])
def test_a_part_that_does_not_exist_is_refused(text):
    with pytest.raises(UserError, match="expected i/N"):
        Part.parse(text)


def test_a_task_of_a_slurm_array_has_its_part():
    slurm = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0"}

    assert Part.from_environment({}) == Part(0, 1)
    assert Part.from_environment(slurm) == Part(3, 8)
    assert Part.from_environment({**slurm, "SLURM_ARRAY_TASK_MAX": "7"}) == Part(3, 8)


@pytest.mark.parametrize(
    "array",
    [
        {"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "8"},
        {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "63"},
    ],
    ids=["--array=1-8", "--array=0,5,9-13,63"],
)
def test_an_array_with_gaps_or_another_start_is_refused(array):
    with pytest.raises(UserError, match="--array=0-<N-1>"):
        Part.from_environment({"SLURM_ARRAY_TASK_COUNT": "8", **array})


def command(words: list[str], folder: Path, **more) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parse(parser, "script.py", words)
    options.workers = 1
    inputs, work = inputs_in_folder(folder), Work("digest", example_jobs.digest)
    return run_command(options, inputs, work, **more)


def test_too_many_failures_give_exit_status_1(folder, tmp_path, capsys):
    (folder / NAMES[0]).write_text("broken")
    words = ["--out", str(tmp_path / "out.jsonl")]

    assert command(words, folder) == 1
    assert command([*words, "--max-failed-fraction", "0.2"], folder) == 0
    assert "out.jsonl: 1 failed, 4 ok\n  'a.mp4': failed, broken\n" in capsys.readouterr().out


@pytest.mark.parametrize("out", ["train.jsonl", "train.csv", "a.mp4"])
def test_records_replace_no_list_and_no_video(folder, out):
    (folder / "train.csv").write_text("a.mp4 0\n")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    with pytest.raises(UserError, match="Give"):
        command(["--out", str(folder / out)], folder)

    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_ray_runs_each_part_as_a_task_or_names_what_is_missing(folder, tmp_path, monkeypatch):
    """Tasks that Ray sends to a node need nothing there: they run the script as a program."""
    out = tmp_path / "out.jsonl"
    words = ["--out", str(out)]

    def task(words_of_task: list[str], *, cwd: str, **streams) -> types.SimpleNamespace:
        assert words_of_task[:-1] == [
            *(sys.executable, "script.py", *words, "--ray", "2", "--ray", "0", "--part")
        ]
        part = words_of_task[-1]
        status = command([*words, "--part", part], folder) if part not in broken else 2
        return types.SimpleNamespace(returncode=status, stdout=b"...\nwhat went wrong\n")

    def remote(**resources):
        assert resources == {"num_cpus": 1}
        return lambda run: run is subprocess.run and types.SimpleNamespace(remote=task)

    ray = types.SimpleNamespace(init=lambda **_: None, remote=remote, get=list)

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install ray"):
        command([*words, "--ray", "2"], folder)
    monkeypatch.setitem(sys.modules, "ray", ray)
    broken = ["1/2"]
    with pytest.raises(UserError, match="part 1/2 ended with status 2: what went wrong"):
        command([*words, "--ray", "2"], folder)
    broken, seen = [], []
    assert command([*words, "--ray", "2"], folder, finish=seen.extend) == 0
    assert len(seen) == 5


def test_mistakes_end_with_status_2_and_ctrl_c_with_advice(capsys):
    def mistaken() -> int:
        raise UserError("no such thing")

    def interrupted() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
        return 0

    def not_permitted() -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "lists/train.csv")

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert exit_status(mistaken) == 2
        assert exit_status(not_permitted) == 2
        assert exit_status(interrupted) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    errors = capsys.readouterr().err
    assert "lists/train.csv: Permission denied" in errors
    assert "Run the same command again to resume" in errors


def test_a_storm_of_kills_leaves_one_record_a_file(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.mp4").write_text(f"content {number}")
    run(folder, tmp_path / "calm.jsonl", {"settings": {"pause_s": 0.0}})
    expected = merge(tmp_path / "calm.jsonl")
    out = tmp_path / "out.jsonl"
    draw = random.Random(0)

    for part in ("0/2", "1/2"):
        words = [sys.executable, example_jobs.__file__, str(folder), str(out), part]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        kills, status = 0, None
        while status != 0:
            process = subprocess.Popen(
                words, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
            )
            journal = part_path(out, Part.parse(part))
            before = journal.stat().st_size if journal.exists() else 0
            with contextlib.suppress(subprocess.TimeoutExpired):
                while kills < 3 and (not journal.exists() or journal.stat().st_size == before):
                    process.wait(0.02)
                status = process.wait(draw.uniform(0.01, 0.1) if kills < 3 else 60)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            status = process.wait()
        assert kills == 3

    assert merge(out) == expected
    assert not list(tmp_path.rglob(".tmp-*"))
