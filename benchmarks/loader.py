#!/usr/bin/env python3
"""What making the pixels of a training item and of a test video costs: ours and others, CPU time.

A training item is one video with two augmented views of a random clip (AUG.NUM_SAMPLE 2) at 224
pixels, RandAugment rand-m7-n4-mstd0.5-inc1; a test item is one video with 5 clips x 1 crop.

    exact, crop_first, fused   ours: ``TrainVideos`` with that AUG.AA_METHOD -> uint8
    ours                       testing: ``EvalVideos`` -> uint8
    pyslowfast                 benchmarks/peers/pyslowfast_way.py -> float32, normalised
    pyslowfast_bilinear        the same with a cheaper RandAugment than the recipes ask for
    torchcodec                 torchcodec and torchvision.transforms.v2 -> float32, normalised

All get the same files and clips and take turns, one thread each. Ours and PySlowFast's draw the
same operations, boxes and flips.

    python benchmarks/loader.py                # about 15 minutes
    python benchmarks/loader.py --quick        # at most 3 minutes on 2 cores

Writes benchmarks/results/loader_<date>.json; its content is also the last line printed:

    train_2aug_vs_pyslowfast            fused, against the PySlowFast way, files as they come
    train_2aug_prepared_vs_pyslowfast   fused on prepared files, against it on files as they come
    train_2aug_pil_vs_pyslowfast        crop_first: the same operations as PIL's, after the crop
    train_2aug_exact_vs_pyslowfast      exact: PySlowFast's order
    test_5clips_vs_pyslowfast           5 clips x 1 crop
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing.shared_memory
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.decode import (
    CASES,
    KINETICS_16X4,
    Case,
    Wanted,
    has_torchcodec,
    make_files,
    options,
    wanted_frames,
    words_that_matter,
)
from benchmarks.peers import pyslowfast_way
from benchmarks.record import keep_record, version_of
from benchmarks.timing import in_process, take_turns
from benchmarks.videos import SEED
from slowfast_mvit.data.loading.eval_items import EvalVideos
from slowfast_mvit.data.loading.items import ItemKey, read_batch
from slowfast_mvit.data.loading.loader import train_loader
from slowfast_mvit.data.loading.train_items import TrainVideos
from slowfast_mvit.data.views.transforms import METHODS, TrainTransform
from slowfast_mvit.randomness import generator
from slowfast_mvit.structures import ClipSpec, VideoRecord, ViewPlan

SIDE = 224
NUM_VIEWS = 2
RANDAUGMENT = "rand-m7-n4-mstd0.5-inc1"
TEST_SCALE_PX = {1: 256, 3: SIDE}  # number of crops -> shorter side of what they are cut from


@dataclass(frozen=True)
class Item:
    """A video with its clips, and its place in the epoch, which decides what is drawn."""

    wanted: Wanted
    position: int


QUICK_CASES = (
    "train_16x4",
    "prepared_train_16x4",
    "test_5_clips_1_crop",
    "prepared_test_5_clips_1_crop",
)


def measure(
    cases: Mapping[str, Case],
    videos: Mapping[str, Sequence[Path]],
    *,
    num_draws: int,
    num_rounds: int,
) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each way in each case; ``num_draws`` random clips of each file."""
    taken_ms = {}
    for name, case in cases.items():
        draws = num_draws if case.num_clips == 0 else 1
        files = videos[case.kind]
        items = [
            Item(wanted_frames(case, path, len(files) * draw + number), len(files) * draw + number)
            for draw in range(draws)
            for number, path in enumerate(files)
        ]
        ways = {way: in_process(make) for way, make in ways_to_make(case, files).items()}
        taken_ms[name] = take_turns(ways, items, num_rounds=num_rounds)
        figures = "  ".join(f"{way} {ms:.1f}" for way, ms in taken_ms[name].items())
        print(f"{name:30s} CPU ms: {figures}", flush=True)
    return taken_ms


def ways_to_make(case: Case, files: Sequence[Path]) -> dict[str, Callable[[Item], object]]:
    """Each way of making the pixels of an item, by name."""
    is_training = case.num_clips == 0
    if is_training:
        ways = {method: ours(train_videos(files, case.clip, method)) for method in METHODS}
    else:
        ways = {"ours": ours(EvalVideos(_records(files), case.clip, view_plan(case)))}
    if case.kind != "ssv2":  # PySlowFast cannot read webm
        ways["pyslowfast"] = pyslowfast_train_item if is_training else pyslowfast_test_item
        if is_training and case.kind == "kinetics":
            ways["pyslowfast_bilinear"] = lambda item: pyslowfast_train_item(
                item, resample=pyslowfast_way.BILINEAR
            )
    if has_torchcodec() and case.num_crops == 1:
        from benchmarks.peers import torchcodec_way

        transform = (
            torchcodec_way.train_transform(SIDE)
            if is_training
            else torchcodec_way.test_transform(TEST_SCALE_PX[1], SIDE)
        )
        num_views = NUM_VIEWS if is_training else 1
        ways["torchcodec"] = lambda item: torchcodec_way.make_views(
            item.wanted.path, item.wanted.clips, transform, num_views, seed=item.position
        )
    return ways


def view_plan(case: Case) -> ViewPlan:
    """Three crops are cut from a picture as small as they allow, a single one from a larger."""
    scale_px = TEST_SCALE_PX[case.num_crops]
    return ViewPlan(case.num_clips, case.num_crops, scale_px=scale_px, crop_px=SIDE)


# Ours


def train_videos(videos: Sequence[Path], clip: ClipSpec, method: str) -> TrainVideos:
    """The training data set of the MViTv2 recipe over these files."""
    transform = TrainTransform(
        crop_px=SIDE,
        scales_px=(256, 320),
        area_range=(0.08, 1.0),
        aspect_range=(0.75, 1.3333),
        randaugment=RANDAUGMENT,
        method=method,
    )
    return TrainVideos(_records(videos), clip, transform=transform, num_views=NUM_VIEWS, seed=SEED)


def _records(videos: Sequence[Path]) -> list[VideoRecord]:
    return [VideoRecord(video.name, str(video), 0) for video in videos]


def ours(dataset: TrainVideos | EvalVideos) -> Callable[[Item], Tensor]:
    """Makes a batch of one video as the loader does: (1, V, 3, T, S, S) uint8."""
    index_of = {Path(record.path): index for index, record in enumerate(dataset.videos)}

    def make(item: Item) -> Tensor:
        key = ItemKey(0, item.position, index_of[item.wanted.path])
        return read_batch(dataset, [key]).pixels

    return make


# The PySlowFast way


def pyslowfast_train_item(
    item: Item, *, resample: Image.Resampling = pyslowfast_way.BICUBIC
) -> list[Tensor]:
    """Its views, each (3, T, S, S) float32."""
    (clip,) = item.wanted.clips
    frames = pyslowfast_way.read_clip(item.wanted.path, clip)
    return [
        pyslowfast_way.train_view(
            frames, SIDE, generator(SEED, 0, item.position, view), resample=resample
        )
        for view in range(NUM_VIEWS)
    ]


def pyslowfast_test_item(item: Item) -> list[Tensor]:
    """Its views, each (3, T, S, S) float32 and read for itself."""
    num_crops = item.wanted.num_crops
    return [
        pyslowfast_way.test_view(
            item.wanted.path,
            clip,
            short_px=TEST_SCALE_PX[num_crops],
            side=SIDE,
            crop=crop if num_crops == 3 else 1,
        )
        for clip in item.wanted.clips
        for crop in range(num_crops)
    ]


# From a worker to the training process


def hand_over_ms(*, num_rounds: int) -> dict[str, float]:
    """CPU milliseconds to put one augmented 16x4 clip of a batch of 8 into shared memory.

    ``collated`` copies the clips of a list into new memory, as ``torch.utils.data`` does.
    ``uint8_in_place`` is ours: views are written where the batch is wanted, in memory that is used
    again and again; all of that writing is counted, though private memory would need it too.
    """
    views = torch.randint(0, 256, (8, 3, 16, SIDE, SIDE), dtype=torch.uint8)
    as_float, as_bytes = views.float().unbind(), views.unbind()

    def collate(clips: Sequence[Tensor]) -> None:
        with shared_tensor((len(clips), *clips[0].shape), clips[0].dtype) as batch:
            torch.stack(list(clips), out=batch)

    with shared_tensor(views.shape, views.dtype) as kept:
        ways = {
            "float32_collated": in_process(lambda _: collate(as_float)),
            "uint8_collated": in_process(lambda _: collate(as_bytes)),
            "uint8_in_place": in_process(lambda _: kept.copy_(views)),
        }
        taken_ms = take_turns(ways, [None], num_rounds=num_rounds)
    return {name: ms / len(views) for name, ms in taken_ms.items()}


@contextlib.contextmanager
def shared_tensor(shape: Sequence[int], dtype: torch.dtype) -> Iterator[Tensor]:
    """A tensor in new shared memory, which is gone at the end, and the tensor with it."""
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=num_bytes)
    try:
        yield torch.frombuffer(memory.buf, dtype=dtype, count=math.prod(shape)).view(*shape)
    finally:
        memory.close()
        memory.unlink()


def wall_clips_per_s(videos: Sequence[Path], method: str, *, num_epochs: int) -> float:
    """Augmented clips a second by the clock through two worker processes; noisy."""
    torch.set_num_threads(1)
    loader = train_loader(
        train_videos(videos, KINETICS_16X4, method), batch_size=2, seed=SEED, num_workers=2
    )
    for _ in loader.epoch(0):  # starts the workers
        pass
    start_s = time.perf_counter()
    num_clips = sum(
        batch.pixels.shape[0] * batch.pixels.shape[1]
        for epoch in range(1, 1 + num_epochs)
        for batch in loader.epoch(epoch)
    )
    return num_clips / (time.perf_counter() - start_s)


def summarise(taken_ms: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The figures of a result file."""
    train, prepared = taken_ms["train_16x4"], taken_ms["prepared_train_16x4"]
    test, prepared_test = (
        taken_ms["test_5_clips_1_crop"],
        taken_ms["prepared_test_5_clips_1_crop"],
    )
    ratios = {
        "train_2aug_vs_pyslowfast": train["pyslowfast"] / train["fused"],
        "train_2aug_prepared_vs_pyslowfast": train["pyslowfast"] / prepared["fused"],
        "train_2aug_pil_vs_pyslowfast": train["pyslowfast"] / train["crop_first"],
        "train_2aug_exact_vs_pyslowfast": train["pyslowfast"] / train["exact"],
        "test_5clips_vs_pyslowfast": test["pyslowfast"] / test["ours"],
        "train_2aug_vs_pyslowfast_bilinear": train["pyslowfast_bilinear"] / train["fused"],
        "train_2aug_both_prepared_vs_pyslowfast": prepared["pyslowfast"] / prepared["fused"],
        "train_2aug_pil_both_prepared_vs_pyslowfast": (
            prepared["pyslowfast"] / prepared["crop_first"]
        ),
        "train_2aug_exact_both_prepared_vs_pyslowfast": prepared["pyslowfast"] / prepared["exact"],
        "test_5clips_both_prepared_vs_pyslowfast": (
            prepared_test["pyslowfast"] / prepared_test["ours"]
        ),
    }
    clips_of = {name: CASES[name].num_clips or NUM_VIEWS for name in taken_ms}
    return {
        **{name: round(ratio, 2) for name, ratio in ratios.items()},
        "cpu_ms_per_video": {
            name: {way: round(ms, 1) for way, ms in ways_ms.items()}
            for name, ways_ms in taken_ms.items()
        },
        "clips_per_s_per_core": {
            name: {way: round(1e3 * clips_of[name] / ms, 1) for way, ms in ways_ms.items()}
            for name, ways_ms in taken_ms.items()
        },
    }


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    given = options(__doc__ or "", words)
    torch.set_num_threads(1)
    videos = make_files(given.data, given.videos, min(given.videos, 4))
    names = QUICK_CASES if given.quick else tuple(CASES)
    taken_ms = measure(
        {name: CASES[name] for name in names},
        videos,
        num_draws=1 if given.quick else 3,
        num_rounds=3 if given.quick else 5,
    )
    hand_over = hand_over_ms(num_rounds=11)
    wall = {
        method: wall_clips_per_s(videos["kinetics"], method, num_epochs=4)
        for method in (("fused",) if given.quick else METHODS)
    }
    keep_record(
        "loader",
        {
            **summarise(taken_ms),
            "hand_over_cpu_ms_per_clip": {name: round(ms, 2) for name, ms in hand_over.items()},
            "wall_clips_per_s_2_workers_noisy": {
                method: round(clips, 1) for method, clips in wall.items()
            },
            "num_files": {kind: len(files) for kind, files in videos.items()},
            "versions": {name: version_of(name) for name in ("torchcodec", "torchvision", "timm")},
        },
        given.results,
        options=words_that_matter(given),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
