"""Testing, and merging the parts of a test, from a config to the files in ``OUTPUT_DIR``.

    videos without a record -> a contiguous part of them on each rank -> a record each
    -> (when all ranks have finished, on the main one) results, scores and report of each plan

A killed test resumes with the same command, on any number of processes.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

from slowfast_mvit import builders
from slowfast_mvit.config import Config, load_config
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.loading.loader import part_of
from slowfast_mvit.engine.failed_videos import record_failed_videos
from slowfast_mvit.engine.test import score_videos
from slowfast_mvit.errors import MissingViewsError, UserError, in_one_message
from slowfast_mvit.evaluation.ensemble import ensemble, views_of_plan
from slowfast_mvit.evaluation.provenance import Provenance
from slowfast_mvit.evaluation.records import (
    DIGEST_LENGTH,
    Outcome,
    Part,
    Records,
    begin_records,
    differences,
    finished_videos,
    join_records,
    part_numbers,
    record_writer,
    records_folder,
    records_in,
    remove_records,
    run_fingerprint,
)
from slowfast_mvit.evaluation.thumbnails import MAX_THUMBNAIL_BYTES
from slowfast_mvit.jobs.agreement import (
    in_order_of_weights,
    warn_of_preprocessing,
    with_names_next_to_it,
)
from slowfast_mvit.jobs.checkpoints import load_evaluated_checkpoint
from slowfast_mvit.jobs.model_info import log_model_info
from slowfast_mvit.jobs.report import (
    CONFIG_FILE,
    TestOutput,
    with_classes_of_test,
    write_classes,
    write_clip_counts,
    write_results,
)
from slowfast_mvit.jobs.run import APPEARS_WITHIN_S, Run, started, write_config
from slowfast_mvit.runtime.distributed import (
    is_main,
    num_nodes,
    on_main,
    rank,
    require_agreement,
    wait_for_all,
    world_size,
)
from slowfast_mvit.runtime.log import Progress, setup_logging
from slowfast_mvit.runtime.machine import describe_machine, describe_versions
from slowfast_mvit.runtime.output_lock import output_lock
from slowfast_mvit.runtime.stopping import stop_requests
from slowfast_mvit.storage import output_folder, register_path_handlers
from slowfast_mvit.structures import EvalResult, FailedVideo, ViewPlan

logger = logging.getLogger(__name__)

WHOLE = Part(1, 1)


def test_job(config: Config, part: Part = WHOLE, *, takeover: bool = False) -> None:
    """Score every view of every video and write results, scores and report.

    For several numbers of clips the videos are read and scored in one pass, and each number gets
    the files that a test of it alone would write, in ``OUTPUT_DIR/test_<n>_clips``.

    Args:
        config: what to test.
        part: of the list. A part leaves its records and no results: ``merge`` joins them.
        takeover: test although another process seems to test the same part in ``OUTPUT_DIR``.
    """
    writer = f"test-{part.number}-of-{part.num_parts}"
    name = "" if part == WHOLE else f"part-{part.number}-of-{part.num_parts}"
    with started(config, writer, takeover=takeover, part=name) as run:
        _test(run, part)


def _test(run: Run, part: Part) -> None:
    config, output_dir = run.config, run.output_dir
    videos = builders.build_videos(config, "test")
    torch.manual_seed(config.rng_seed)  # or a test without weights would differ each time
    model = builders.build_model(config)
    weights, path, spec = load_evaluated_checkpoint(config, output_dir, model)
    list_digest = videos.digest()
    if spec is not None:
        if spec["class_names"]:
            videos = with_names_next_to_it(videos, config.data.path_to_data_dir)
        videos = in_order_of_weights(videos, spec["class_names"], path)
        warn_of_preprocessing(config, spec, path)
    fingerprint = run_fingerprint(
        config_digest=config.digest(),
        list_digest=list_digest,
        state=model.state_dict(),
        forward_batch=builders.test_forward_batch(config, videos),
        device=run.device,
    )
    require_agreement(fingerprint)
    provenance = _provenance(run, weights)
    model.to(run.device)
    log_model_info(config, model, crop_px=config.data.test_crop_size)

    folder = records_folder(output_dir, fingerprint)
    plans = builders.test_plans(config)
    if is_main():
        write_config(config, output_dir)
        write_classes(videos.class_names, output_dir)
        begin_records(output_dir, fingerprint, provenance)
        views = " and ".join(map(str, plans))
        logger.info("testing %d videos, %s each, %s", len(videos), views, weights)
    # Only the main process reads the records: others could see later ones of a third process.
    missing = on_main(lambda: _missing(videos, folder, _all_views(plans), part))
    scored = score_videos(
        model,
        builders.build_test_loader(config, videos, *plans, indices=missing.tolist()),
        builders.prepare_views(config),
        device=run.device,
        forward_batch=builders.test_forward_batch(config, videos),
    )
    _record(scored, len(missing), folder, part)
    wait_for_all("the scores of all ranks")
    run.require_lock()
    if part != WHOLE:
        logger.info("part %d of %d is scored; after the last run slowfast-mvit merge", *part)
    elif is_main():
        outcomes = _join_all(folder, _all_views(plans), len(videos))
        _require_every_video(outcomes, videos, "Do all nodes write to one shared OUTPUT_DIR?")
        _write_test(config, videos, outcomes, provenance=provenance, output_dir=output_dir)
        remove_records(folder)
    wait_for_all("the results")


def _provenance(run: Run, weights: str) -> Provenance:
    """Return what a report needs to know of a test that begins now."""
    return Provenance(
        weights=weights,
        clip=str(builders.clip_spec(run.config, run.config.test.dataset)),
        time=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        machine=describe_machine(run.device),
        versions=describe_versions(),
    )


def _record(scored: Iterator[Outcome], num_missing: int, folder: Path, part: Part) -> None:
    """Write a record of each video that this rank scores."""
    share = part_of(num_missing, rank(), world_size())
    what = "testing" if world_size() == 1 else f"testing, rank {rank()} of {world_size()}"
    with record_writer(folder, part=part, rank=rank()) as record, stop_requests() as stop:
        for outcome in Progress(scored, total=share.stop - share.start, what=what, log_period=200):
            record(outcome)
            stop.raise_if_requested()


def _missing(videos: VideoList, folder: Path, views: np.ndarray, part: Part) -> np.ndarray:
    """Return the indices of the videos of a part that are not scored yet, ascending."""
    wanted = range(len(videos))[part_of(len(videos), part.number - 1, part.num_parts)]
    finished = finished_videos(folder, views)
    missing = [index for index in wanted if videos[index].video_id not in finished]
    if len(missing) < len(wanted):
        logger.info(
            "%d of them were scored before: resuming with %d",
            len(wanted) - len(missing),
            len(missing),
        )
    return np.array(missing, dtype=np.int64)


def _join_all(folder: Path, views: np.ndarray, num_videos: int) -> dict[str, Outcome]:
    """Return the records of all ranks; those of other nodes may take a while to appear here."""
    deadline_s = time.monotonic() + (APPEARS_WITHIN_S if num_nodes() > 1 else 0.0)
    while True:
        outcomes = join_records([folder], views)
        if len(outcomes) == num_videos or time.monotonic() > deadline_s:
            return outcomes
        time.sleep(1.0)


def _all_views(plans: Sequence[ViewPlan]) -> np.ndarray:
    """Return (V, 2) int64, the (clip, crop) of the views of all plans, in the order of records."""
    return torch.cat([plan.views() for plan in plans]).numpy()


def _require_every_video(outcomes: Mapping[str, Outcome], videos: VideoList, hint: str) -> None:
    """Require an outcome of every video of the list.

    Raises:
        MissingViewsError: names the number of missing videos and the first, and adds ``hint``.
    """
    missing = [video.video_id for video in videos if video.video_id not in outcomes]
    if missing:
        raise MissingViewsError(
            f"{len(missing):,} of {len(videos):,} videos have no record (first: {missing[0]!r}). "
            f"Nothing was averaged. {hint}"
        )


def _write_test(
    config: Config,
    videos: VideoList,
    outcomes: Mapping[str, Outcome],
    *,
    provenance: Provenance,
    output_dir: Path,
) -> None:
    """Write the files of a test into ``output_dir``; of several plans into a folder for each."""
    plans = builders.test_plans(config)
    ordered = [outcomes[video.video_id] for video in videos]
    results, thumbnail_bytes = list[EvalResult](), MAX_THUMBNAIL_BYTES // len(plans)
    for number, plan in enumerate(plans):
        output = TestOutput(
            config, plan, videos, output_dir, output_dir, provenance, thumbnail_bytes
        )
        if len(plans) > 1:
            folder = output_dir / f"test_{plan.num_clips}_clips"
            output = replace(output, config=builders.config_of_plan(config, plan), folder=folder)
            write_config(output.config, folder)
        write_classes(videos.class_names, output.folder)
        failed = [outcome for outcome in ordered if isinstance(outcome, FailedVideo)]
        record_failed_videos(output.folder / "failed_videos.csv", failed)
        failed_ids = {video.video_id for video in failed}
        scores = ensemble(
            views_of_plan(ordered, plans, number),
            views=plan.views().numpy(),
            video_ids=[v.video_id for v in videos if v.video_id not in failed_ids],
            method=output.config.data.ensemble_method,
        )
        results.append(write_results(output, scores, failed))
    if len(plans) > 1:
        write_clip_counts(plans, results, output_dir)


def merge_job(output_dirs: Sequence[str], *, takeover: bool = False) -> None:
    """Write the results of a test whose parts are in one or several folders, into the first.

    The records are not deleted.

    Args:
        output_dirs: each the ``OUTPUT_DIR`` of one or several jobs; may be remote.
        takeover: merge although another process seems to merge in the first of them.

    Raises:
        OutputInUse: another process merges in the first of them.
        UserError: there are no records, or those of different tests.
        MissingViewsError: videos are missing, or have two different results.
    """
    setup_logging()
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(output_folder(path)) for path in dict.fromkeys(output_dirs)]
        stack.enter_context(output_lock(folders[0], "merge", takeover=takeover))
        _merge(folders)


def _merge(output_dirs: Sequence[Path]) -> None:
    tests = list[Records]()
    for folder in output_dirs:
        records = records_in(folder)
        if not records:
            raise UserError(
                f"{folder}: no records of a test there. Give the OUTPUT_DIR of jobs that were "
                "started with slowfast-mvit test --part; a test of the whole list needs no merge"
            )
        tests += records
    first, fingerprint = output_dirs[0], tests[0].fingerprint
    problems = [
        f"{folder} differs in {name}: {other.get(name)}, not {fingerprint.get(name)}"
        for folder, other, _ in tests[1:]
        for name in differences(fingerprint, other)
    ]
    if problems:
        headline = f"{tests[0].folder} and others contain records of different tests, never joined"
        raise UserError(
            in_one_message(headline, problems) + "\nDelete the folders of the test that is not "
            "wanted, or run its parts again with equal settings"
        )
    config = load_config(first / CONFIG_FILE)
    register_path_handlers(config.path_handlers)
    videos = with_classes_of_test(builders.build_videos(config, "test"), first)
    today = {"config": config.digest(), "list": videos.digest()[:DIGEST_LENGTH]}
    changed = differences({name: fingerprint[name] for name in today}, today)
    if changed:
        raise UserError(
            f"{first / CONFIG_FILE}: changed since the test: {' and '.join(changed)}. Restore the "
            "config and the list, or test again"
        )

    folders = [test.folder for test in tests]
    outcomes = join_records(folders, _all_views(builders.test_plans(config)))
    command = ["slowfast-mvit", "test", "--cfg", str(first / CONFIG_FILE)]
    if Path(config.output_dir) != first:  # the folder was moved, or named from another one
        command += ["OUTPUT_DIR", str(first)]
    hint = _what_to_run(shlex.join(command), folders, videos, outcomes)
    _require_every_video(outcomes, videos, hint)
    logger.info(
        "joined the records of %d videos from %d files of parts", len(outcomes), len(folders)
    )
    _write_test(config, videos, outcomes, provenance=tests[0].provenance, output_dir=first)
    logger.info(
        "the records are not deleted; when they are no longer needed, delete %s",
        ", ".join(str(folder.parent) for folder in folders),
    )


def _what_to_run(
    command: str, folders: Sequence[Path], videos: VideoList, outcomes: Mapping[str, Outcome]
) -> str:
    """Return the commands that score the missing videos, from that of the whole test."""
    missing = {i for i, video in enumerate(videos) if video.video_id not in outcomes}
    numbers = {part.num_parts for part in part_numbers(folders)}
    if len(numbers) != 1 or numbers == {1}:  # a test of the whole list scores what is missing
        return f"Run: {command}"
    num_parts = numbers.pop()
    lines = [
        f"  {command} --part {number + 1}/{num_parts}"
        for number in range(num_parts)
        if missing.intersection(range(len(videos))[part_of(len(videos), number, num_parts)])
    ]
    return "\n".join(["Run these, then merge again:", *lines])
