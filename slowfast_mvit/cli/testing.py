"""What testing does, from a config to the files in ``OUTPUT_DIR``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from slowfast_mvit import build
from slowfast_mvit.cli.reporting import write_clip_counts, write_results
from slowfast_mvit.cli.start import started, write_config
from slowfast_mvit.config import Config
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.engine.failures import record_failed_videos
from slowfast_mvit.engine.test import score_videos
from slowfast_mvit.evaluation.ensemble import ensemble, views_of_plan
from slowfast_mvit.models import MViT
from slowfast_mvit.runtime.checkpoint import latest_checkpoint
from slowfast_mvit.runtime.distributed import pick_device
from slowfast_mvit.runtime.log import progress
from slowfast_mvit.structures import EvalResult, FailedVideo, ViewPlan, ViewScores
from slowfast_mvit.weights import load_weights

logger = logging.getLogger(__name__)


def test_job(config: Config) -> None:
    """Score every view of every video and write results, scores and report.

    For several numbers of clips the videos are read and scored in one pass, and each number gets
    the files that a test of it alone would write, in ``OUTPUT_DIR/test_<n>_clips``.
    """
    with started(config) as output_dir:
        _test(config, output_dir)


def _test(config: Config, output_dir: Path) -> None:
    device = pick_device(config.num_gpus)
    videos = build.build_videos(config, "test")
    torch.manual_seed(config.rng_seed)  # or a test without weights would differ each time
    model = build.build_model(config)
    weights = _load_test_weights(config, output_dir, model)
    model.to(device)
    write_config(config, output_dir)

    plans = build.test_plans(config)
    outcomes = _score(config, plans, model=model, videos=videos, device=device, weights=weights)
    write = partial(
        _write_test, outcomes=outcomes, videos=videos, weights=weights, output_dir=output_dir
    )
    if len(plans) == 1:
        write(config, plans, 0, folder=output_dir)
        return
    results = list[EvalResult]()
    for number, plan in enumerate(plans):
        folder = output_dir / f"test_{plan.num_clips}_clips"
        alone = build.config_of_plan(config, plan)
        write_config(alone, folder)
        results.append(write(alone, plans, number, folder=folder))
    write_clip_counts(plans, results, output_dir)


def _score(
    config: Config,
    plans: Sequence[ViewPlan],
    *,
    model: MViT,
    videos: VideoList,
    device: torch.device,
    weights: str,
) -> list[ViewScores | FailedVideo]:
    """The scores of the views of all plans, from one pass over the videos."""
    loader = build.build_test_loader(config, videos, *plans)
    in_words = " and ".join(map(str, plans))
    logger.info("testing %d videos, %s each, %s", len(videos), in_words, weights)
    scored = score_videos(
        model,
        loader,
        build.prepare_views(config),
        device=device,
        forward_batch=build.test_forward_batch(config, videos),
    )
    return list(progress(scored, total=len(videos), what="testing", log_period=200))


def _write_test(
    config: Config,
    plans: Sequence[ViewPlan],
    number: int,
    *,
    outcomes: Sequence[ViewScores | FailedVideo],
    videos: VideoList,
    weights: str,
    output_dir: Path,
    folder: Path,
) -> EvalResult:
    """Write what the test with plan ``number`` of ``plans`` leaves."""
    plan = plans[number]
    failed = [outcome for outcome in outcomes if isinstance(outcome, FailedVideo)]
    record_failed_videos(folder / "failed_videos.csv", failed)
    missing = {video.video_id for video in failed}
    video_scores = ensemble(
        views_of_plan(outcomes, plans, number),
        views=plan.views().numpy(),
        video_ids=[video.video_id for video in videos if video.video_id not in missing],
        method=config.data.ensemble_method,
    )
    return write_results(
        config,
        plan,
        scores=video_scores,
        failed=failed,
        videos=videos,
        folder=folder,
        run_dir=output_dir,
        weights=weights,
    )


def _load_test_weights(config: Config, output_dir: Path, model: MViT) -> str:
    """Fill the model as PySlowFast chooses weights to test; returns in words what they are."""
    path = (
        config.test.checkpoint_file_path
        or latest_checkpoint(output_dir)
        or config.train.checkpoint_file_path
    )
    if not path:
        logger.warning(
            "no weights to test: neither TEST.CHECKPOINT_FILE_PATH nor a checkpoint in %s. "
            "The weights are random, and so will the result be",
            output_dir,
        )
        return "random weights: no checkpoint was given or found"
    load_weights(model, path, head="keep")
    return f"weights of {Path(path).name}"
