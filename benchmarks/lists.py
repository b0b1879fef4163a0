#!/usr/bin/env python3
"""CPU time and memory of reading a long list, and memory of each worker process.

Writes lists as long as the public data sets (650,000 videos of Kinetics-700; the 168,913 training
videos of Something-Something v2) and reads each in a process of its own, after the imports. The
cost of a worker is its private memory after it has read videos all over the list, minus that
of a worker with a list of one video.

    python benchmarks/lists.py                 # 650,000 and 168,913 videos
    python benchmarks/lists.py --quick         # without the folders of files, half a minute

Linux only (/proc). Writes benchmarks/results/lists_<date>.json; its content is also the last line
printed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

# The code in this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import keep_record, script_parser
from benchmarks.timing import in_fresh_process, memory_mb
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.lists.catalog import open_list

NUM_KINETICS = 650_000
NUM_SSV2 = 168_913
NUM_FRAMES = 8  # of each video in the frame list; the public one names about 120
SEEN_EVERY = 40  # videos; a path takes 40 bytes and more, a page has 4096
START_METHODS = ("fork", "spawn", "forkserver")


def _stem(number: int) -> str:
    return f"abc{number:08x}_{number % 300:06d}_{number % 300 + 10:06d}"


def write_csv(folder: Path, num_videos: int) -> None:
    """PySlowFast's form: train/<class>/<file> and a label."""
    with open(folder / "train.csv", "w") as file:
        for i in range(num_videos):
            file.write(f"train/class_{i % 700:03d}/{_stem(i)}.mp4 {i % 700}\n")


def write_kinetics(folder: Path, num_videos: int) -> None:
    """The published form, with an empty file for each video."""
    (folder / "train").mkdir()
    with open(folder / "train.csv", "w") as file:
        file.write("label,youtube_id,time_start,time_end,split\n")
        for i in range(num_videos):
            start = i % 300
            file.write(f'"doing thing {i % 700:03d}",abc{i:08x},{start},{start + 10},train\n')
            (folder / "train" / f"{_stem(i)}.mp4").touch()


def write_class_folders(folder: Path, num_videos: int) -> None:
    """Folders of classes and no list: a file for each video; a fifth will be held out."""
    for i in range(num_videos):
        class_folder = folder / f"class_{i // 900:03d}"
        class_folder.mkdir(exist_ok=True)
        (class_folder / f"{_stem(i)}.mp4").write_bytes(b"video")  # empty ones are left out


def write_imagenet_json(folder: Path, num_images: int) -> None:
    """PySlowFast's form of ImageNet."""
    entries = (
        {"im_path": f"train/n{i % 1000:08d}/n{i % 1000:08d}_{i}.JPEG", "class": i % 1000}
        for i in range(num_images)
    )
    (folder / "train.json").write_text(f"[{', '.join(map(json.dumps, entries))}]")


def write_ssv2(folder: Path, num_videos: int) -> None:
    """labels.json and train.json, with an empty file for each video."""
    _write_ssv2_json(
        folder, "Moving [something] across number {} without letting it fall", num_videos
    )
    (folder / "videos").mkdir()
    for i in range(num_videos):
        (folder / "videos" / f"{i}.webm").touch()


def write_frame_list(folder: Path, num_videos: int) -> None:
    """labels.json and train.json with PySlowFast's list of frames."""
    _write_ssv2_json(folder, "Moving [something] {}", num_videos)
    with open(folder / "train.csv", "w") as file:
        file.write("original_vido_id video_id frame_id path labels\n")
        for i in range(num_videos):
            for frame in range(NUM_FRAMES):
                file.write(f'{i} {i} {frame} {i}/{i}_{frame + 1:06d}.jpg ""\n')


def _write_ssv2_json(folder: Path, template: str, num_videos: int) -> None:
    name = template.replace("[", "").replace("]", "")
    labels = {name.format(i): str(i) for i in range(174)}
    (folder / "labels.json").write_text(json.dumps(labels))
    entries = [
        {
            "id": str(i),
            "label": name.format(i % 174).replace("something", "a small green cup").lower(),
            "template": template.format(i % 174),
            "placeholders": ["a small green cup"],
        }
        for i in range(num_videos)
    ]
    (folder / "train.json").write_text(json.dumps(entries))


# name of the case -> data set, number of videos, what writes the list
CASES: dict[str, tuple[str, int, Callable[[Path, int], None]]] = {
    "csv": ("csv", NUM_KINETICS, write_csv),
    "kinetics": ("kinetics", NUM_KINETICS, write_kinetics),
    "folder": ("folder", NUM_KINETICS, write_class_folders),
    "imagenet": ("imagenet", NUM_KINETICS, write_imagenet_json),
    "ssv2": ("ssv2", NUM_SSV2, write_ssv2),
    "ssv2_frames": ("ssv2", NUM_SSV2, write_frame_list),
}
QUICK_CASES = ("csv", "imagenet", "ssv2_frames")


class WorkerMemory(Dataset[float]):
    """Its item is the private memory of the worker, in MB, once it has read the videos."""

    def __init__(self, videos: VideoList) -> None:
        self.videos = videos

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> float:
        # Enough to touch every page of memory of the list.
        seen = sum(self.videos[i].label for i in range(0, len(self.videos), SEEN_EVERY))
        return memory_mb("Private_Dirty", "Private_Clean", file="smaps_rollup") + 0 * seen


def measure_case(
    dataset: str, folder: Path, methods: Sequence[str] = START_METHODS
) -> dict[str, Any]:
    """Return CPU seconds and MB that reading a list costs this process, and MB in a worker."""
    before_mb = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    start_s = time.process_time()
    videos = open_list(dataset, "train", data_dir=folder)
    cpu_s = time.process_time() - start_s
    peak_mb, after_mb = memory_mb("VmHWM"), memory_mb("VmRSS")
    one = VideoList(["a.mp4"], [0])
    for method in methods[:1]:  # the first worker of a process has 4 MB more than all later ones
        _worker_mb(one, method)
    return {
        "num_videos": len(videos),
        "cpu_s": round(cpu_s, 2),
        "peak_mb": _rounded(peak_mb - before_mb),
        "kept_mb": _rounded(after_mb - before_mb),
        "worker_mb": {
            method: _rounded(_worker_mb(videos, method) - _worker_mb(one, method))
            for method in methods
        },
    }


def _worker_mb(videos: VideoList, method: str) -> float:
    loader = DataLoader(WorkerMemory(videos), num_workers=1, multiprocessing_context=method)
    return float(next(iter(loader)))


def _rounded(mb: float) -> float:
    return round(mb, 1) + 0.0  # no -0.0


def measure(names: Sequence[str]) -> dict[str, Any]:
    """Measure each case in a fresh process, so that none meets the memory of another."""
    numbers = {}
    for name in names:
        dataset, num_videos, write = CASES[name]
        with tempfile.TemporaryDirectory(prefix="lists-") as folder:
            write(Path(folder), num_videos)
            numbers[name] = in_fresh_process(measure_case, dataset, Path(folder))
    return numbers


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__file__, __doc__, quick="only the lists that need no files")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    keep_record(parser, options, measure(QUICK_CASES if options.quick else tuple(CASES)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
