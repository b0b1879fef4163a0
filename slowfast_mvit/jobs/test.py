"""Testing, from a config to the files in ``OUTPUT_DIR``.

    which videos have no record yet -> a contiguous part of them on each rank -> a record each
    -> (when all ranks are through, on the main one) results, scores and report of each plan

A test that was killed is started again with the same command, on any number of processes.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from slowfast_mvit import builders
from slowfast_mvit.config import Config
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.loading.loader import part_of
from slowfast_mvit.engine.failed_videos import record_failed_videos
from slowfast_mvit.engine.test import score_videos
from slowfast_mvit.errors import ConfigError, MissingViewsError
from slowfast_mvit.evaluation.ensemble import ensemble, views_of_plan
from slowfast_mvit.evaluation.records import (
    Outcome,
    Part,
    begin_records,
    finished_videos,
    join_records,
    record_writer,
    records_folder,
    remove_records,
    run_fingerprint,
)
from slowfast_mvit.jobs.evaluated_checkpoint import load_evaluated_checkpoint
from slowfast_mvit.jobs.report import TestOutput, write_clip_counts, write_results
from slowfast_mvit.jobs.run import APPEARS_WITHIN_S, Run, started, write_config
from slowfast_mvit.runtime.distributed import (
    from_main,
    is_main,
    num_nodes,
    rank,
    require_agreement,
    wait_for_all,
    world_size,
)
from slowfast_mvit.runtime.log import progress
from slowfast_mvit.runtime.stopping import stop_requests
from slowfast_mvit.structures import EvalResult, FailedVideo, VideoScores, ViewPlan, ViewScores

logger = logging.getLogger(__name__)

WHOLE = Part(1, 1)


def parse_part(text: str) -> Part:
    """The second of four parts for "2/4".

    Raises:
        ConfigError: the text is something else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    part = Part(int(match[1]), int(match[2])) if match else Part(0, 0)
    if not 1 <= part.number <= part.num_parts:
        raise ConfigError(
            f"--part {text}: expected the number of a part and how many there are, from 1/4 to 4/4 "
            "for four jobs"
        )
    return part


def test_job(config: Config, part: Part = WHOLE) -> None:
    """Score every view of every video and write results, scores and report.

    For several numbers of clips the videos are read and scored in one pass, and each number gets
    the files that a test of it alone would write, in ``OUTPUT_DIR/test_<n>_clips``.

    Args:
        config: what to test.
        part: of the list. A part leaves its records and no results: ``merge`` joins them.
    """
    with started(config) as run:
        _test(run, part)


def _test(run: Run, part: Part) -> None:
    config, output_dir = run.config, run.output_dir
    videos = builders.build_videos(config, "test")
    torch.manual_seed(config.rng_seed)  # or a test without weights would differ each time
    model = builders.build_model(config)
    weights = load_evaluated_checkpoint(config, output_dir, model)
    fingerprint = run_fingerprint(
        config_digest=config.digest(),
        list_digest=videos.digest(),
        state=model.state_dict(),
        forward_batch=builders.test_forward_batch(config, videos),
        device=run.device,
    )
    require_agreement(fingerprint)
    model.to(run.device)

    folder = records_folder(output_dir, fingerprint)
    plans = builders.test_plans(config)
    if is_main():
        write_config(config, output_dir)
        begin_records(output_dir, fingerprint, weights)
        views = " and ".join(map(str, plans))
        logger.info("testing %d videos, %s each, %s", len(videos), views, weights)
    # Only the main process looks: another might already see what a third one has just written.
    missing = from_main(_missing(videos, folder, all_views(plans), part) if is_main() else None)
    assert missing is not None
    scored = score_videos(
        model,
        builders.build_test_loader(config, videos, *plans, indices=missing.tolist()),
        builders.prepare_views(config),
        device=run.device,
        forward_batch=builders.test_forward_batch(config, videos),
    )
    _record(scored, len(missing), folder, part)
    wait_for_all("the scores of all ranks")
    if part != WHOLE:
        logger.info("part %d of %d is scored: when all are, run slowfast-mvit merge", *part)
    elif is_main():
        outcomes = _join_all(folder, all_views(plans), len(videos))
        require_every_video(outcomes, videos, "Do all nodes write to one shared OUTPUT_DIR?")
        write_test(config, videos, outcomes, weights=weights, output_dir=output_dir)
        remove_records(folder)
    wait_for_all("the results")


def _record(scored: Iterator[Outcome], num_missing: int, folder: Path, part: Part) -> None:
    """Write a record of each video that this rank scores."""
    share = part_of(num_missing, rank(), world_size())
    what = "testing" if world_size() == 1 else f"testing, rank {rank()} of {world_size()}"
    with record_writer(folder, part=part, rank=rank()) as record, stop_requests() as stop:
        for outcome in progress(scored, total=share.stop - share.start, what=what, log_period=200):
            record(outcome)
            stop.raise_if_asked()


def _missing(videos: VideoList, folder: Path, views: np.ndarray, part: Part) -> np.ndarray:
    """The indices of the videos of a part that are not scored yet, ascending."""
    wanted = range(len(videos))[part_of(len(videos), part.number - 1, part.num_parts)]
    finished = finished_videos(folder, views)
    missing = [index for index in wanted if videos[index].video_id not in finished]
    if len(missing) < len(wanted):
        logger.info(
            "%d of them were scored before: going on with %d",
            len(wanted) - len(missing),
            len(missing),
        )
    return np.array(missing, dtype=np.int64)


def _join_all(folder: Path, views: np.ndarray, num_videos: int) -> dict[str, Outcome]:
    """The records of all ranks; those of other nodes may take a while to be seen here."""
    deadline_s = time.monotonic() + (APPEARS_WITHIN_S if num_nodes() > 1 else 0.0)
    while True:
        outcomes = join_records([folder], views)
        if len(outcomes) == num_videos or time.monotonic() > deadline_s:
            return outcomes
        time.sleep(1.0)


def all_views(plans: Sequence[ViewPlan]) -> np.ndarray:
    """(V, 2) int64: the (clip, crop) of the views of all plans, in turn, as records hold them."""
    return torch.cat([plan.views() for plan in plans]).numpy()


def require_every_video(outcomes: Mapping[str, Outcome], videos: VideoList, hint: str) -> None:
    """Refuse to call something a test of a list from which videos are missing.

    Args:
        outcomes: what became of each video.
        videos: the list.
        hint: what to do about it.

    Raises:
        MissingViewsError: names how many and the first.
    """
    missing = [video.video_id for video in videos if video.video_id not in outcomes]
    if missing:
        raise MissingViewsError(
            f"{len(missing):,} of {len(videos):,} videos have no record (first: {missing[0]!r}). "
            f"Nothing was averaged. {hint}"
        )


def write_test(
    config: Config,
    videos: VideoList,
    outcomes: Mapping[str, Outcome],
    *,
    weights: str,
    output_dir: Path,
) -> None:
    """Write the files of a test: into its folder, or with several plans into a folder for each.

    Args:
        config: what was tested.
        videos: the list.
        outcomes: of every video.
        weights: description of the weights that were tested.
        output_dir: of the test.
    """
    plans = builders.test_plans(config)
    ordered = [outcomes[video.video_id] for video in videos]
    results = list[EvalResult]()
    for number, plan in enumerate(plans):
        output = TestOutput(config, plan, videos, output_dir, output_dir, [weights])
        if len(plans) > 1:
            output = replace(
                output,
                config=builders.config_of_plan(config, plan),
                folder=output_dir / f"test_{plan.num_clips}_clips",
            )
            write_config(output.config, output.folder)
        failed = [outcome for outcome in ordered if isinstance(outcome, FailedVideo)]
        record_failed_videos(output.folder / "failed_videos.csv", failed)
        scores = _average(views_of_plan(ordered, plans, number), output, failed)
        results.append(write_results(output, scores, failed))
    if len(plans) > 1:
        write_clip_counts(plans, results, output_dir)


def _average(
    scores: Iterable[ViewScores], output: TestOutput, failed: Sequence[FailedVideo]
) -> VideoScores:
    failed_ids = {video.video_id for video in failed}
    return ensemble(
        scores,
        views=output.plan.views().numpy(),
        video_ids=[v.video_id for v in output.videos if v.video_id not in failed_ids],
        method=output.config.data.ensemble_method,
    )
