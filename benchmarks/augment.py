#!/usr/bin/env python3
"""CPU time of an augmented view: each AUG.AA_METHOD, and PySlowFast's way, for the same draws.

A view is 16 frames of 454 x 256, as decoded, made into 224 x 224 by RandAugment
(rand-m7-n4-mstd0.5-inc1), random resized crop and flip: the recipe for Kinetics. Figures are CPU
milliseconds on one thread, the mean over the draws; the ways take turns draw by draw. PySlowFast's
way also normalises and erases, which is done on the device here.

    python benchmarks/augment.py               # 200 draws
    python benchmarks/augment.py --quick       # 40 draws, under 3 minutes
    python benchmarks/augment.py --operations  # and each operation on whole frames, beside PIL's

Writes benchmarks/results/augment_<date>.json; its content is also the last line printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pyslowfast_way
from benchmarks.loader import train_transform
from benchmarks.record import keep_record, script_parser, version_of
from benchmarks.timing import Way, cpu_ms_per_item, in_process
from slowfast_mvit.data.views import exact, pixels
from slowfast_mvit.data.views.geometry import Cut
from slowfast_mvit.data.views.randaugment import OPERATIONS, Step
from slowfast_mvit.data.views.train_views import METHODS, ViewDraws

NUM_FRAMES, HEIGHT, WIDTH, SIDE = 16, 256, 454, 224
NUM_DRAWS, NUM_DRAWS_QUICK = 200, 40

# An argument of middling strength for each operation
ARGUMENTS = {
    "Rotate": 21.3,
    "Posterize": 2,
    "Solarize": 77,
    "SolarizeAdd": 77,
    "Color": 1.63,
    "Contrast": 1.63,
    "Brightness": 1.63,
    "Sharpness": 1.63,
    "ShearX": 0.213,
    "ShearY": 0.213,
    "TranslateXRel": 0.317,
    "TranslateYRel": 0.317,
}


def make_clip() -> Tensor:
    """(T, H, W, 3) uint8: soft moving blobs with the noise of a camera."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 16, 28)))
    soft = F.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic", align_corners=False)[0]
    frames = torch.stack([soft.roll(3 * number, dims=2) for number in range(NUM_FRAMES)])
    noise = torch.from_numpy(rng.normal(0, 3, frames.shape))
    return (frames + noise).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def ours(clip: Tensor, method: str) -> Way[int]:
    """A view of the draws of a seed by one method."""
    transform = train_transform(method, SIDE)
    out = torch.empty((3, NUM_FRAMES, SIDE, SIDE), dtype=torch.uint8)
    return in_process(lambda seed: transform(clip, np.random.default_rng(seed), out))


def without_opencv(way: Way[int]) -> Way[int]:
    """The same way with OpenCV left aside."""

    def timed(seed: int) -> float:
        has_opencv = pixels.has_opencv
        pixels.has_opencv = lambda: False
        try:
            return way(seed)
        finally:
            pixels.has_opencv = has_opencv

    return timed


def measure_views(clip: Tensor, num_draws: int) -> dict[str, Any]:
    """CPU ms of a view by each way, and how many times PySlowFast's way takes that."""
    ways = {method: ours(clip, method) for method in METHODS}
    ways["fused_without_opencv"] = without_opencv(ways["fused"])
    ways["pyslowfast"] = in_process(
        lambda seed: pyslowfast_way.train_view(clip, SIDE, np.random.default_rng(seed))
    )
    cpu_ms = cpu_ms_per_item(ways, range(num_draws), num_rounds=3)
    return {
        "cpu_ms_per_view": {name: round(ms, 2) for name, ms in cpu_ms.items()},
        **{
            f"{name}_vs_pyslowfast": round(cpu_ms["pyslowfast"] / cpu_ms[name], 2)
            for name in ways
            if name != "pyslowfast"
        },
    }


def measure_operations(clip: Tensor) -> dict[str, dict[str, float]]:
    """CPU ms of each operation on 16 whole frames by us and by PIL, and within a fused view."""
    frames = clip.numpy()
    images = [Image.fromarray(frame) for frame in frames]
    return {name: _measure_operation(frames, images, name) for name in OPERATIONS}


def _measure_operation(
    frames: np.ndarray, images: Sequence[Image.Image], name: str
) -> dict[str, float]:
    step = Step(name, ARGUMENTS.get(name, 0.0))
    words = (step.argument,) if name in ARGUMENTS else ()
    operation = pyslowfast_way.OPERATIONS[name][0]
    view = np.empty((3, NUM_FRAMES, SIDE, SIDE), dtype=np.uint8).transpose(1, 2, 3, 0)
    draws = ViewDraws((step,), Cut((HEIGHT, WIDTH), (20, 100, 190, 200)), flip=False)
    style = {"fillcolor": pyslowfast_way.GREY, "resample": pyslowfast_way.BICUBIC}
    works: dict[str, Callable[[object], object]] = {
        "pil": lambda _: [operation(image, *words, **style) for image in images],
        "ours": lambda _: exact.on_whole_frames(frames, (step,), "bicubic"),
        "fused_view": lambda _: METHODS["fused"](frames, draws, "bicubic", view),
        "fused_view_of_nothing": lambda _: METHODS["fused"](
            frames, replace(draws, steps=()), "bicubic", view
        ),
    }
    ways = {way: in_process(work) for way, work in works.items()}
    cpu_ms = cpu_ms_per_item(ways, [None], num_rounds=5)
    return {way: round(ms, 2) for way, ms in cpu_ms.items()}


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__doc__, quick=f"{NUM_DRAWS_QUICK} draws")
    parser.add_argument("--draws", type=int, help="how many draws")
    parser.add_argument("--operations", action="store_true", help="each operation, too")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    clip = make_clip()
    num_draws = given.draws or (NUM_DRAWS_QUICK if given.quick else NUM_DRAWS)
    numbers: dict[str, Any] = {"num_draws": num_draws, **measure_views(clip, num_draws)}
    if given.operations:
        numbers["cpu_ms_per_operation"] = measure_operations(clip)
    packages = ("pillow", "timm", "opencv-python-headless", "torchvision")
    numbers["packages"] = {name: version_of(name) for name in packages}
    options = [f"--{name}" for name in ("quick", "operations") if getattr(given, name)]
    keep_record("augment", numbers, given.results, options=options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
