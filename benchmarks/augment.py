#!/usr/bin/env python3
"""CPU time of an augmented view: each AUG.AA_METHOD, and PySlowFast's way, for the same draws.

A view is 16 frames of 454 x 256, as decoded, made into 224 x 224 by RandAugment
(rand-m7-n4-mstd0.5-inc1), random resized crop and flip: the recipe for Kinetics. Figures are CPU
milliseconds on one thread, the mean over the draws; the ways alternate draw by draw. PySlowFast's
way also normalises and erases, which is done on the device here.

    python benchmarks/augment.py               # 200 draws
    python benchmarks/augment.py --quick       # 40 draws, under 3 minutes

Writes benchmarks/results/augment_<date>.json; its content is also the last line printed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# The code in this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pyslowfast_way
from benchmarks.record import keep_record, script_parser, version_of
from benchmarks.timing import Way, cpu_ms_per_item, in_process
from slowfast_mvit.data.views import fused
from slowfast_mvit.data.views.train_views import METHODS

NUM_FRAMES, HEIGHT, WIDTH, SIDE = 16, 256, 454, 224
NUM_DRAWS, NUM_DRAWS_QUICK = 200, 40


def make_clip() -> Tensor:
    """(T, H, W, 3) uint8: soft moving blobs with the noise of a camera."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 16, 28)))
    soft = F.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic", align_corners=False)[0]
    frames = torch.stack([soft.roll(3 * number, dims=2) for number in range(NUM_FRAMES)])
    noise = torch.from_numpy(rng.normal(0, 3, frames.shape))
    return (frames + noise).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def ours(clip: Tensor, method: str) -> Way[int]:
    """Return the way to a view of the draws of a seed by one method."""
    transform = pyslowfast_way.recipe_transform(SIDE, method)
    out = torch.empty((3, NUM_FRAMES, SIDE, SIDE), dtype=torch.uint8)
    return in_process(lambda seed: transform(clip, np.random.default_rng(seed), out))


def measure_views(clip: Tensor, num_draws: int) -> dict[str, Any]:
    """Return CPU ms of a view by each way, and how many times PySlowFast's way takes that."""
    ways = {method: ours(clip, method) for method in METHODS}
    without_opencv = mock.patch.object(fused, "best_backend", lambda: fused.PLAIN)
    ways["fused_without_opencv"] = without_opencv(ways["fused"])
    ways["pyslowfast"] = in_process(
        lambda seed: pyslowfast_way.train_view(clip, SIDE, np.random.default_rng(seed))
    )
    cpu_ms = cpu_ms_per_item(ways, range(num_draws), num_rounds=3)
    slowest_ms = cpu_ms["pyslowfast"]
    ratios = {f"{name}_vs_pyslowfast": round(slowest_ms / ms, 2) for name, ms in cpu_ms.items()}
    del ratios["pyslowfast_vs_pyslowfast"]
    return {"cpu_ms_per_view": {name: round(ms, 2) for name, ms in cpu_ms.items()}, **ratios}


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__file__, __doc__, quick=f"{NUM_DRAWS_QUICK} draws")
    parser.add_argument("--draws", type=int, help="how many draws")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    clip = make_clip()
    num_draws = options.draws or (NUM_DRAWS_QUICK if options.quick else NUM_DRAWS)
    numbers: dict[str, Any] = {"num_draws": num_draws, **measure_views(clip, num_draws)}
    packages = ("pillow", "timm", "opencv-python-headless", "torchvision")
    numbers["packages"] = {name: version_of(name) for name in packages}
    keep_record(parser, options, numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
