#!/usr/bin/env python3
"""Does the demo's model see motion? Its accuracy on the videos, and on videos that stand still.

Scores the held-out videos of the demo twice with the trained model: as they are, and with every
clip replaced by its middle frame, repeated. A model that needs motion falls to chance on the
second. The two take turns, batch by batch.

    make demo                                  # trains the model
    python benchmarks/motion.py                # the views of the test: 2 clips x 3 crops
    python benchmarks/motion.py --quick        # 1 clip x 1 crop

Writes benchmarks/results/motion_<date>.json; its content is also the last line printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import keep_record, script_parser
from slowfast_mvit import builders
from slowfast_mvit.config import Config, load_config
from slowfast_mvit.engine.test import score_videos
from slowfast_mvit.errors import UserError
from slowfast_mvit.evaluation.ensemble import ensemble
from slowfast_mvit.runtime.checkpoint import latest_checkpoint
from slowfast_mvit.structures import ClipBatch, FailedVideo, VideoScores, ViewPlan, ViewScores
from slowfast_mvit.weights import load_weights


def middle_frame_repeated(batch: ClipBatch) -> ClipBatch:
    """The same batch with every clip standing still at its middle frame."""
    pixels = batch.pixels  # (B, V, 3, T, S, S)
    middle = pixels.shape[3] // 2
    return replace(batch, pixels=pixels[:, :, :, middle : middle + 1].expand_as(pixels))


def measure(config: Config, plan: ViewPlan) -> dict[str, Any]:
    """Top-1 of the newest checkpoint in ``OUTPUT_DIR``, moving and standing still, in percent.

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
    versions: dict[str, Callable[[ClipBatch], Tensor]] = {
        "videos": normalised,
        "repeated_frame": lambda batch: normalised(middle_frame_repeated(batch)),
    }
    start_s = time.perf_counter()
    in_turns = zip(
        *(
            score_videos(
                model,
                builders.build_test_loader(config, videos, plan),
                prepare,
                device=torch.device("cpu"),
                forward_batch=config.test.batch_size,
            )
            for prepare in versions.values()
        ),
        strict=True,
    )
    scores = [_combined(outcomes, plan) for outcomes in zip(*in_turns, strict=True)]
    elapsed_s = time.perf_counter() - start_s
    return {
        **{f"top1_{name}": _top1(s) for name, s in zip(versions, scores, strict=True)},
        "chance": 100.0 / config.model.num_classes,
        "num_videos": len(videos),
        "views": str(plan),
        "seconds_per_video": round(elapsed_s / len(versions) / len(videos), 4),
        "checkpoint": checkpoint.name,
        "config_digest": config.digest(),
    }


def _combined(outcomes: Sequence[ViewScores | FailedVideo], plan: ViewPlan) -> VideoScores:
    scores = [outcome for outcome in outcomes if isinstance(outcome, ViewScores)]
    for outcome in outcomes:
        if isinstance(outcome, FailedVideo):
            raise UserError(f"{outcome}. Make the demo's data again")
    return ensemble(
        scores, views=plan.views().numpy(), video_ids=[score.video_id for score in scores]
    )


def _top1(scores: VideoScores) -> float:
    return round(100.0 * float(np.mean(scores.probs.argmax(1) == scores.labels)), 2)


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__doc__, quick="1 clip x 1 crop of each video")
    parser.add_argument("--cfg", default="Demo/motion.yaml", help="config of the trained model")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="changes to the config")
    given = parser.parse_args(words)
    try:
        config = load_config(given.cfg, given.overrides)
        plan = builders.view_plan(config, num_clips=1, num_crops=1)
        numbers = measure(config, plan if given.quick else builders.test_plans(config)[0])
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    keep_record("motion", numbers, given.results, options=["--quick"] if given.quick else [])
    return 0


if __name__ == "__main__":
    sys.exit(main())
