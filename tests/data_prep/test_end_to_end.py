"""From videos as they come to an accuracy: check, list, resize (killed on the way), pack, train."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from data_prep import check_videos, from_folder, pack_shards, resize_videos
from data_prep.journal import Part, part_path, read_records
from slowfast_mvit.config import load_config
from slowfast_mvit.jobs.test import test_job as run_test_job
from slowfast_mvit.jobs.train import train_job

ROOT = Path(__file__).resolve().parents[2]
REAL_VIDEOS = ROOT.parent / "shared" / "videos" / "fight_surv_160p"
NUM_VIDEOS = 12  # of each of the two classes


def write_made_up_videos(folder: Path) -> None:
    """Bright bars that go down in one class and to the right in the other, in two formats."""
    for number in range(2 * NUM_VIDEOS):
        goes_down = number % 2 == 0
        path = folder / ("down" if goes_down else "to the right") / f"{number:02d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path = path.with_suffix(".avi") if number % 3 == 0 else path
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=12)
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            for shown in range(36):
                image = np.full((120, 160, 3), 40 + number, np.uint8)
                start = (3 * shown + 5 * number) % 100
                part = np.s_[start : start + 20] if goes_down else np.s_[:, start : start + 20]
                image[part] = 220
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))


def copy_real_videos(folder: Path) -> None:
    if not REAL_VIDEOS.is_dir():
        pytest.skip("the folder of real clips is not on this machine")
    for name in ("fight", "noFight"):
        (folder / name).mkdir(parents=True)
        for path in sorted((REAL_VIDEOS / name).iterdir())[:NUM_VIDEOS]:
            shutil.copy(path, folder / name)


def kill_in_the_middle(script: str, words: list[str], journal: Path) -> None:
    """Run a script and kill it once its journal has a record."""
    program = [sys.executable, str(ROOT / "data_prep" / script), *words]
    process = subprocess.Popen(program, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (
        journal.exists() and journal.read_bytes().count(b"\n") >= 3
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"


@pytest.mark.parametrize(
    "write",
    [write_made_up_videos, pytest.param(copy_real_videos, marks=pytest.mark.nightly)],
    ids=["made up", "real"],
)
def test_videos_become_an_accuracy_through_every_script(write, tmp_path, tiny_config):
    raw, lists, small, packed = (tmp_path / name for name in ("raw", "lists", "small", "packed"))
    write(raw)
    first = sorted(path for path in raw.rglob("*") if path.is_file())[0]
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])  # a broken download

    # Check all, list what is whole.
    checked = tmp_path / "check.jsonl"
    assert check_videos.main([str(raw), "--out", str(checked), "--workers", "1"]) == 1
    assert [r["path"] for r in read_records(checked) if r["status"] != "ok"] == [
        first.relative_to(raw).as_posix()
    ]
    words = ["--videos", raw, "--out", lists, "--records", checked, "--val-fraction", "0.3"]
    from_folder.main(list(map(str, words)))
    num_listed = sum(len((lists / f"{s}.csv").read_text().splitlines()) for s in ("train", "val"))
    assert num_listed == 2 * NUM_VIDEOS - 1

    # Resize in two parts; the first is killed and run again.
    resized = tmp_path / "resize.jsonl"
    words = [str(raw), "--to", str(small), "--out", str(resized), "--short-side", "48"]
    words += ["--list", str(lists / "train.csv"), "--list", str(lists / "val.csv")]
    words += ["--workers", "1", "--preset", "veryslow"]
    kill_in_the_middle(
        "resize_videos.py", [*words, "--part", "0/2"], part_path(resized, Part(0, 2))
    )
    for part in ("0/2", "1/2"):
        assert resize_videos.main([*words, "--part", part]) == 0
    assert resize_videos.main([*words, "--merge"]) == 0
    assert len(list(read_records(resized))) == num_listed

    # Pack, train and test from the shards alone.
    words = ["pack", small, "--to", packed, "--out", tmp_path / "pack.jsonl", "--shard-count", "2"]
    words += ["--list", small / "train.csv", "--list", small / "val.csv", "--workers", "1"]
    assert pack_shards.main(list(map(str, words))) == 0
    no_files_are_left_over_or_doubled(tmp_path, small, num_listed)
    shutil.rmtree(raw)
    shutil.rmtree(small)
    words = ["DATA.PATH_TO_DATA_DIR", packed, "MODEL.NUM_CLASSES", 2, "SOLVER.MAX_EPOCH", 1]
    config = load_config(tiny_config, list(map(str, words)))
    train_job(config)
    run_test_job(config)

    results = json.loads((tmp_path / "out" / "test_results.json").read_text())
    num_val = len((packed / "val.csv").read_text().splitlines())
    assert (results["num_videos"], results["failed"]) == (num_val, 0)
    assert 0 <= results["top1"] <= 100
    assert sorted(results["per_class"]) == (packed / "classes.txt").read_text().splitlines()


def no_files_are_left_over_or_doubled(root: Path, small: Path, num_listed: int) -> None:
    assert not [path for path in root.rglob("*") if path.name.startswith(".tmp-")]
    copies = list(small.rglob("*.mp4"))
    assert len(copies) == num_listed
    for path in copies:
        record = check_videos.check(check_videos.JobInput(path.name, path))
        assert record["status"] == "ok"
        assert min(record["width"], record["height"]) == 48
    assert os.listdir(root / "packed" / "shards")
