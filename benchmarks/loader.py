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

from PIL import Image
from torch import Tensor

# The code in this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pyslowfast_way
from benchmarks.decode import CLIP, Case, Wanted, Ways, run
from benchmarks.record import script_parser, version_of
from benchmarks.timing import in_process
from benchmarks.videos import SEED
from slowfast_mvit.data.loading.items import EvalVideos, ItemKey, TrainVideos, read_batch
from slowfast_mvit.data.views.train_views import METHODS
from slowfast_mvit.randomness import generator
from slowfast_mvit.structures import VideoRecord, ViewPlan

SIDE_PX, TEST_SCALE_PX = 224, 256
NUM_VIEWS = 2


def ways_to_load(case: Case, files: Sequence[Path]) -> Ways:
    """Return each way of producing the pixels of an item, by name."""
    works: dict[str, Callable[[Wanted], object]]
    if case.num_clips:
        plan = ViewPlan(case.num_clips, 1, scale_px=TEST_SCALE_PX, crop_px=SIDE_PX)
        dataset = EvalVideos(_records(files), CLIP, plan)
        works = {"ours": ours(dataset), "pyslowfast": pyslowfast_test_item}
    else:
        works = {method: ours(train_videos(files, method)) for method in METHODS}
        works["pyslowfast"] = pyslowfast_train_item
        if case.kind == "kinetics":
            works["pyslowfast_bilinear"] = functools.partial(
                pyslowfast_train_item, resample=pyslowfast_way.BILINEAR
            )
    return {name: in_process(work) for name, work in works.items()}


def train_videos(files: Sequence[Path], method: str) -> TrainVideos:
    """Return the training data set of the MViTv2 recipe over these files."""
    transform = pyslowfast_way.recipe_transform(SIDE_PX, method)
    return TrainVideos(_records(files), CLIP, transform=transform, num_views=NUM_VIEWS, seed=SEED)


def _records(files: Sequence[Path]) -> list[VideoRecord]:
    return [VideoRecord(file.name, str(file), 0) for file in files]


def ours(dataset: TrainVideos | EvalVideos) -> Callable[[Wanted], Tensor]:
    """Return a batch of one video as the loader reads it: (1, V, 3, T, S, S) uint8."""
    index_of = {Path(record.path): index for index, record in enumerate(dataset.videos)}
    return lambda item: read_batch(dataset, [ItemKey(0, item.draw, index_of[item.path])]).pixels


def pyslowfast_train_item(
    item: Wanted, resample: Image.Resampling = pyslowfast_way.BICUBIC
) -> list[Tensor]:
    """Return its views, each (3, T, S, S) float32."""
    (clip,) = item.clips
    frames = pyslowfast_way.read_clip(item.path, clip)
    streams = [generator(SEED, 0, item.draw, view) for view in range(NUM_VIEWS)]
    return [pyslowfast_way.train_view(frames, SIDE_PX, s, resample=resample) for s in streams]


def pyslowfast_test_item(item: Wanted) -> list[Tensor]:
    """Return its views, each (3, T, S, S) float32 and read separately."""
    sizes = {"short_px": TEST_SCALE_PX, "side": SIDE_PX}
    return [pyslowfast_way.test_view(item.path, clip, **sizes) for clip in item.clips]


def summarise(cpu_ms: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the ratios of a result file."""
    train, prepared = cpu_ms["train_16x4"], cpu_ms["prepared_train_16x4"]
    test, prepared_test = cpu_ms["test_5_clips_1_crop"], cpu_ms["prepared_test_5_clips_1_crop"]
    ratios = {
        "train_2aug_prepared_vs_pyslowfast": train["pyslowfast"] / prepared["fused"],
        "test_5clips_vs_pyslowfast": test["pyslowfast"] / test["ours"],
        "train_2aug_vs_pyslowfast_bilinear": train["pyslowfast_bilinear"] / train["fused"],
    }
    for key, way in (("2aug", "fused"), ("2aug_pil", "crop_first"), ("2aug_exact", "exact")):
        ratios[f"train_{key}_vs_pyslowfast"] = train["pyslowfast"] / train[way]
        both = prepared["pyslowfast"] / prepared[way]
        ratios[f"train_{key}_both_prepared_vs_pyslowfast"] = both
    both = prepared_test["pyslowfast"] / prepared_test["ours"]
    ratios["test_5clips_both_prepared_vs_pyslowfast"] = both
    return {name: round(ratio, 2) for name, ratio in ratios.items()}


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__file__, __doc__, quick="fewer clips and rounds")
    versions = {name: version_of(name) for name in ("torchvision", "timm")}
    return run(parser, words, ways_to_load, summarise, views_of_a_clip=NUM_VIEWS, versions=versions)


if __name__ == "__main__":
    sys.exit(main())
