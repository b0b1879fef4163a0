#!/usr/bin/env python3
"""Accuracy of the demo's model on its videos, and on videos without motion.

Scores the held-out videos of the demo twice with the trained model: as they are, and with every
clip replaced by its middle frame, repeated. A model that needs motion falls to chance on the
second. The two alternate, batch by batch.

    make demo                                  # trains the model
    python benchmarks/motion.py                # the views of the test: 2 clips x 3 crops
    python benchmarks/motion.py --quick        # 1 clip x 1 crop

Writes benchmarks/results/motion_<date>.json; its content is also the last line printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The code in this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import keep_record, script_parser
from slowfast_mvit import builders
from slowfast_mvit.config import Config, load_config
from slowfast_mvit.engine.test import score_videos
from slowfast_mvit.errors import UserError
from slowfast_mvit.evaluation.ensemble import ensemble
from slowfast_mvit.runtime.checkpoint import latest_checkpoint
from slowfast_mvit.structures import ClipBatch, FailedVideo, ViewPlan, ViewScores
from slowfast_mvit.weights import load_weights


def middle_frame_repeated(batch: ClipBatch) -> ClipBatch:
    """Return the batch with the middle frame of every clip repeated."""
    pixels = batch.pixels  # (B, V, 3, T, S, S)
    middle = pixels.shape[3] // 2
    return replace(batch, pixels=pixels[:, :, :, middle : middle + 1].expand_as(pixels))


def measure(config: Config, plan: ViewPlan) -> dict[str, Any]:
    """Return top-1 of the newest checkpoint in ``OUTPUT_DIR``, moving and still, in percent.

    Raises:
        UserError: there is no checkpoint yet, or a video cannot be read.
    """
    checkpoint = latest_checkpoint(config.output_dir)
    if checkpoint is None:
        raise UserError(f"{config.output_dir}: no checkpoint there. Train one first: make demo")
    model = builders.build_model(config)
    load_weights(model, checkpoint, head="keep")
    videos = builders.build_videos(config, "test")
    normalised = builders.prepare_views(config)

    def scored(prepare: Callable[[ClipBatch], Tensor]) -> Iterator[ViewScores | FailedVideo]:
        loader, batch = builders.build_test_loader(config, videos, plan), config.test.batch_size
        return score_videos(model, loader, prepare, device=torch.device("cpu"), forward_batch=batch)

    start_s = time.perf_counter()
    still_views = scored(lambda batch: normalised(middle_frame_repeated(batch)))
    alternating = zip(scored(normalised), still_views, strict=True)
    moving, still = (top1(outcomes, plan) for outcomes in zip(*alternating, strict=True))
    return {
        "top1_videos": moving,
        "top1_repeated_frame": still,
        "chance": 100.0 / config.model.num_classes,
        "num_videos": len(videos),
        "views": str(plan),
        "seconds_per_video": round((time.perf_counter() - start_s) / 2 / len(videos), 4),
        "checkpoint": checkpoint.name,
        "config_digest": config.digest(),
    }


def top1(outcomes: Sequence[ViewScores | FailedVideo], plan: ViewPlan) -> float:
    """Return the accuracy over the videos, in percent."""
    for outcome in outcomes:
        if isinstance(outcome, FailedVideo):
            raise UserError(f"{outcome}. Make the demo's data again")
    views = [outcome for outcome in outcomes if isinstance(outcome, ViewScores)]
    ids = [view.video_id for view in views]
    scores = ensemble(views, views=plan.views().numpy(), video_ids=ids)
    return round(100.0 * float(np.mean(scores.probs.argmax(1) == scores.labels)), 2)


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__file__, __doc__, quick="1 clip x 1 crop of each video")
    parser.add_argument("--cfg", default="Demo/motion.yaml", help="config of the trained model")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="changes to the config")
    options = parser.parse_args(words)
    try:
        config = load_config(options.cfg, options.overrides)
        plan = builders.view_plan(config, num_clips=1, num_crops=1)
        numbers = measure(config, plan if options.quick else builders.test_plans(config)[0])
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    del options.overrides, options.cfg  # paths of one machine
    keep_record(parser, options, numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
