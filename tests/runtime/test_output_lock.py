"""One writer for an output folder: refused, taken over from the dead, never two at once."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from slowfast_mvit.runtime import output_lock as module
from slowfast_mvit.runtime.output_lock import OutputInUse, Owner, output_lock

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


def owner_of(folder, writer="train"):
    [path] = [p for p in folder.iterdir() if p.name.startswith(f".lock-{writer}.")]
    return path, json.loads(path.read_text())


def leave_lock(folder, **changes):
    """A lock of another machine, whose heartbeat is now."""
    owner = replace(Owner.this_process({}), machine="", host="node7", **changes)
    folder.mkdir(exist_ok=True)
    path = folder / ".lock-train.000004"
    path.write_text(json.dumps(asdict(owner)))
    return path


def test_a_second_writer_is_refused_with_host_process_and_start(tmp_path):
    message = rf"process {os.getpid()} on .+ started 20\d\d-"
    with output_lock(tmp_path, "train"):
        with pytest.raises(OutputInUse, match=message), output_lock(tmp_path, "train"):
            pass
        with output_lock(tmp_path, "test-part-0"):  # other files
            pass

    with output_lock(tmp_path, "train"):  # released
        pass


@needs_proc
def test_the_lock_of_a_killed_process_on_this_host_is_taken_at_once(tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from slowfast_mvit.runtime.output_lock import output_lock\n"
        "with output_lock(Path(sys.argv[1]), 'train'): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path])
    assert not owner_of(tmp_path)[1]["is_released"]

    with output_lock(tmp_path, "train"):
        assert owner_of(tmp_path)[1]["pid"] == os.getpid()


def test_another_host_is_believed_for_60_s_after_its_last_heartbeat(tmp_path):
    path = leave_lock(tmp_path)
    os.utime(path, (time.time() - 50,) * 2)
    with pytest.raises(OutputInUse, match="on node7"), output_lock(tmp_path, "train"):
        pass

    os.utime(path, (time.time() - 61,) * 2)
    with output_lock(tmp_path, "train"):
        assert owner_of(tmp_path)[0].name == ".lock-train.000005"


def test_a_requeued_job_takes_its_own_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    leave_lock(tmp_path, job="SLURM_JOB_ID=17")

    with output_lock(tmp_path, "train"):
        assert owner_of(tmp_path)[0].name == ".lock-train.000005"

    leave_lock(tmp_path, job="SLURM_JOB_ID=18").rename(tmp_path / ".lock-train.000009")
    with pytest.raises(OutputInUse, match="on node7"), output_lock(tmp_path, "train"):
        pass


def test_a_taken_over_writer_is_stopped_before_it_publishes(tmp_path):
    with output_lock(tmp_path, "train") as first:
        first.require()
        with output_lock(tmp_path, "train", takeover=True) as second:
            second.require()
            with pytest.raises(OutputInUse, match="has taken over"):
                first.require()


def test_the_heartbeat_goes_on_while_the_lock_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    with output_lock(tmp_path, "train"):
        path, _ = owner_of(tmp_path)
        os.utime(path, (0, 0))
        deadline_s = time.monotonic() + 30
        while path.stat().st_mtime < 1:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)


def test_a_lock_is_released_on_a_full_disk(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, output_lock(tmp_path, "train"):
        patch.setattr("os.replace", no_space)

    assert [path.name for path in tmp_path.iterdir()] == [".lock-train.000001"]
    with output_lock(tmp_path, "train"):
        pass


def test_a_disk_without_hard_links_has_locks_too(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)

    with output_lock(tmp_path, "train") as lock:
        lock.require()
        with pytest.raises(OutputInUse, match=f"process {os.getpid()} on"):
            output_lock(tmp_path, "train").__enter__()
    with output_lock(tmp_path, "train"):
        assert owner_of(tmp_path)[0].name == ".lock-train.000002"


def test_a_damaged_lock_counts_for_60_s(tmp_path):
    path = tmp_path / ".lock-train.000001"
    path.write_text("{")
    with pytest.raises(OutputInUse, match="another process"), output_lock(tmp_path, "train"):
        pass

    os.utime(path, (0, 0))
    with output_lock(tmp_path, "train"):
        pass


def race(folders, all_ready, all_done, results):
    for folder in folders:
        all_ready.wait()
        try:
            with output_lock(folder, "train") as lock:
                lock.require()
                results.put("won")
                all_done.wait()
        except OutputInUse:
            results.put("refused")
            all_done.wait()


@needs_proc
def test_of_4_processes_that_race_for_a_dead_lock_one_wins(tmp_path):
    context = get_context("forkserver")
    context.set_forkserver_preload(["slowfast_mvit.runtime.output_lock"])
    folders = [tmp_path / str(number) for number in range(50)]
    for folder in folders:
        leave_lock(folder, is_released=True)
    barriers, results = [context.Barrier(4) for _ in range(2)], context.SimpleQueue()
    racers = [context.Process(target=race, args=(folders, *barriers, results)) for _ in range(4)]

    for racer in racers:
        racer.start()

    for _ in folders:
        assert sorted(results.get() for _ in racers) == ["refused"] * 3 + ["won"]
    for racer in racers:
        racer.join()
