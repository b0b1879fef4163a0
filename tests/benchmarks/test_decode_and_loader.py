"""The benchmarks of reading and loading run, and print what they promise."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("timm", reason="the PySlowFast way needs its operations")

from benchmarks import decode, loader, videos
from slowfast_mvit.data.loading.items import ItemKey


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Small files and frames, one process, and the number of threads as it was."""
    monkeypatch.setattr(videos, "SIZES_PX", ((64, 112),))
    monkeypatch.setattr(videos, "SECONDS", 2.2)
    monkeypatch.setattr(videos, "_in_two_processes", run_here)
    monkeypatch.setattr(loader, "SIDE_PX", 32)
    monkeypatch.setattr(loader, "TEST_SCALE_PX", 40)
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def run_here(job, arguments) -> None:
    for words in arguments:
        if not words[0].exists():
            job(*words)


def run(benchmark, folder, results, capsys) -> dict:
    words = ["--quick", "--videos", "2", "--data", str(folder), "--results", str(results)]
    assert benchmark.main(words) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    (file,) = results.iterdir()
    assert json.loads(file.read_text()) == record
    assert str(folder) not in file.read_text()
    assert record["command"].endswith(".py --quick --videos 2")
    return record


@pytest.mark.nightly
def test_decode_prints_ours_over_the_floor(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decode, "has_program", lambda: False)  # slow to start; see test_floors

    record = run(decode, folder, tmp_path, capsys)

    assert record["read_16x4_over_floor"] == record["read_16x4_over_floor_libav"] > 0
    assert record["floor"].startswith("libav")
    assert set(record["cpu_ms_per_video"]) == set(decode.CASES)
    assert {"ours", "pyslowfast", "floor_libav"} <= set(record["cpu_ms_per_video"]["train_16x4"])
    assert record["num_files"] == {"kinetics": 2, "prepared": 2}
    assert record["clips_per_s_per_core"]["train_16x4"]["ours"] > 0


@pytest.mark.nightly
def test_loader_prints_ours_against_the_pyslowfast_way(folder, tmp_path, capsys):
    record = run(loader, folder, tmp_path, capsys)

    for name in ("2aug", "2aug_prepared", "2aug_pil", "2aug_exact"):
        assert record[f"train_{name}_vs_pyslowfast"] > 0
    assert record["test_5clips_vs_pyslowfast"] > 0
    assert set(record["cpu_ms_per_video"]["train_16x4"]) >= {"exact", "crop_first", "fused"}


def test_the_ways_of_a_training_item_get_the_same_clip(folder):
    files = videos.make_videos(folder, 2)
    case = decode.CASES["train_16x4"]
    dataset = loader.train_videos(files, "exact")
    dataset.transform = first_frame_as_view

    for position in range(6):
        wanted = decode.wanted_frames(case, files[position % 2], position)
        (clip,) = wanted.clips
        item = dataset[ItemKey(0, position, position % 2)]

        first = decode.open_reader(wanted.path)
        with first as reader:
            expected = reader.frames([clip[0]])[0, :32, :32].permute(2, 0, 1)
        assert torch.equal(item.pixels[0, :, 0], expected)


class _FirstFrame:
    crop_px = 32

    def __call__(self, frames, rng, out=None):
        view = frames[:, :32, :32].permute(3, 0, 1, 2)
        return view if out is None else out.copy_(view)


first_frame_as_view = _FirstFrame()
