#!/usr/bin/env python3
"""CPU time of the pixels of a training item and of a test video: ours and PySlowFast's way.

A training item is one video with two augmented views of a random clip (AUG.NUM_SAMPLE 2) at 224
pixels, RandAugment rand-m7-n4-mstd0.5-inc1; a test item is one video with 5 clips x 1 crop.

    exact, crop_first, fused   ours: ``TrainVideos`` with that AUG.AA_METHOD -> uint8
    ours                       testing: ``EvalVideos`` -> uint8
    pyslowfast                 benchmarks/pyslowfast_way.py -> float32, normalised
    pyslowfast_bilinear        the same with a cheaper RandAugment than the recipes ask for

All read the same clips of the same files and alternate, on one thread each. Ours and PySlowFast's
way draw the same operations, boxes and flips.

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

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pyslowfast_way
from benchmarks.decode import (
    CLIP,
    Case,
    Wanted,
    make_files,
    measure,
    options,
    per_video,
    recorded_options,
)
from benchmarks.record import keep_record, version_of
from benchmarks.timing import Way, in_process
from benchmarks.videos import SEED
from slowfast_mvit.data.loading.items import EvalVideos, ItemKey, TrainVideos, read_batch
from slowfast_mvit.data.views.train_views import METHODS, TrainTransform
from slowfast_mvit.randomness import generator
from slowfast_mvit.structures import VideoRecord, ViewPlan

SIDE_PX, TEST_SCALE_PX = 224, 256
NUM_VIEWS = 2
RANDAUGMENT = "rand-m7-n4-mstd0.5-inc1"


def ways_to_load(case: Case, files: Sequence[Path]) -> dict[str, Way[Wanted]]:
    """Each way of producing the pixels of an item, by name."""
    works: dict[str, Callable[[Wanted], object]]
    if case.num_clips:
        plan = ViewPlan(case.num_clips, 1, scale_px=TEST_SCALE_PX, crop_px=SIDE_PX)
        works = {
            "ours": ours(EvalVideos(_records(files), CLIP, plan)),
            "pyslowfast": pyslowfast_test_item,
        }
    else:
        works = {method: ours(train_videos(files, method)) for method in METHODS}
        works["pyslowfast"] = pyslowfast_train_item
        if case.kind == "kinetics":
            works["pyslowfast_bilinear"] = functools.partial(
                pyslowfast_train_item, resample=pyslowfast_way.BILINEAR
            )
    return {name: in_process(work) for name, work in works.items()}


def train_videos(files: Sequence[Path], method: str) -> TrainVideos:
    """The training data set of the MViTv2 recipe over these files."""
    transform = train_transform(method, SIDE_PX)
    return TrainVideos(_records(files), CLIP, transform=transform, num_views=NUM_VIEWS, seed=SEED)


def train_transform(method: str, side_px: int) -> TrainTransform:
    """The augmentation of the MViTv2 recipe, by a method of ``METHODS``."""
    return TrainTransform(
        crop_px=side_px,
        scales_px=(256, 320),
        area_range=(0.08, 1.0),
        aspect_range=(0.75, 1.3333),
        randaugment=RANDAUGMENT,
        method=method,
    )


def _records(files: Sequence[Path]) -> list[VideoRecord]:
    return [VideoRecord(file.name, str(file), 0) for file in files]


def ours(dataset: TrainVideos | EvalVideos) -> Callable[[Wanted], Tensor]:
    """A batch of one video as the loader reads it: (1, V, 3, T, S, S) uint8."""
    index_of = {Path(record.path): index for index, record in enumerate(dataset.videos)}
    return lambda item: read_batch(dataset, [ItemKey(0, item.draw, index_of[item.path])]).pixels


def pyslowfast_train_item(
    item: Wanted, resample: Image.Resampling = pyslowfast_way.BICUBIC
) -> list[Tensor]:
    """Its views, each (3, T, S, S) float32."""
    (clip,) = item.clips
    frames = pyslowfast_way.read_clip(item.path, clip)
    return [
        pyslowfast_way.train_view(
            frames, SIDE_PX, generator(SEED, 0, item.draw, view), resample=resample
        )
        for view in range(NUM_VIEWS)
    ]


def pyslowfast_test_item(item: Wanted) -> list[Tensor]:
    """Its views, each (3, T, S, S) float32 and read separately."""
    return [
        pyslowfast_way.test_view(item.path, clip, short_px=TEST_SCALE_PX, side=SIDE_PX)
        for clip in item.clips
    ]


def summarise(cpu_ms: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The figures of a result file."""
    train, prepared = cpu_ms["train_16x4"], cpu_ms["prepared_train_16x4"]
    test, prepared_test = cpu_ms["test_5_clips_1_crop"], cpu_ms["prepared_test_5_clips_1_crop"]
    ratios = {
        "train_2aug_vs_pyslowfast": train["pyslowfast"] / train["fused"],
        "train_2aug_prepared_vs_pyslowfast": train["pyslowfast"] / prepared["fused"],
        "train_2aug_pil_vs_pyslowfast": train["pyslowfast"] / train["crop_first"],
        "train_2aug_exact_vs_pyslowfast": train["pyslowfast"] / train["exact"],
        "test_5clips_vs_pyslowfast": test["pyslowfast"] / test["ours"],
        "train_2aug_vs_pyslowfast_bilinear": train["pyslowfast_bilinear"] / train["fused"],
    }
    for key, method in (("2aug", "fused"), ("2aug_pil", "crop_first"), ("2aug_exact", "exact")):
        ratios[f"train_{key}_both_prepared_vs_pyslowfast"] = (
            prepared["pyslowfast"] / prepared[method]
        )
    ratios["test_5clips_both_prepared_vs_pyslowfast"] = (
        prepared_test["pyslowfast"] / prepared_test["ours"]
    )
    return {
        **{name: round(ratio, 2) for name, ratio in ratios.items()},
        **per_video(cpu_ms, views_of_a_clip=NUM_VIEWS),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    given = options(__doc__, words)
    torch.set_num_threads(1)
    videos = make_files(given.data, given.videos)
    cpu_ms = measure(
        ways_to_load,
        videos,
        num_draws=1 if given.quick else 3,
        num_rounds=3 if given.quick else 5,
    )
    keep_record(
        "loader",
        {
            **summarise(cpu_ms),
            "num_files": {kind: len(files) for kind, files in videos.items()},
            "versions": {name: version_of(name) for name in ("torchvision", "timm")},
        },
        given.results,
        options=recorded_options(given),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
