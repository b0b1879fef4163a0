"""The files of a test: results, scores, and the report with the frames that the model saw."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slowfast_mvit import builders
from slowfast_mvit.config import Config, load_config
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.errors import DecodeError, UserError
from slowfast_mvit.evaluation.metrics import hardest_videos
from slowfast_mvit.evaluation.report import NUM_HARDEST, write_report
from slowfast_mvit.evaluation.results import (
    load_results,
    load_scores,
    save_results,
    save_scores,
    summarise,
)
from slowfast_mvit.runtime.log import StatsLog, setup_logging
from slowfast_mvit.storage import is_remote, output_folder, write_text_atomically
from slowfast_mvit.structures import EvalResult, FailedVideo, VideoScores, ViewPlan

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
RESULTS_FILE = "test_results.json"
SCORES_FILE = "test_scores.npz"
REPORT_FILE = "report.html"
CLASSES_FILE = "test_classes.json"
CLIP_COUNTS_FILE = "test_clip_counts.json"


@dataclass(frozen=True)
class TestOutput:
    """The test of one view plan, and the folder for its files.

    Attributes:
        config: of the test.
        plan: the views of each video.
        videos: the list.
        folder: gets the files.
        run_dir: of the training run whose curves the report shows.
        notes: lines for the head of the report, such as the evaluated weights.
    """

    config: Config
    plan: ViewPlan
    videos: VideoList
    folder: Path
    run_dir: Path
    notes: Sequence[str] = ()


def write_results(
    output: TestOutput, scores: VideoScores, failed: Sequence[FailedVideo]
) -> EvalResult:
    """Write all files of a test, and log its accuracy."""
    result = summarise(
        scores,
        class_names=output.videos.class_names,
        failed_videos=failed,
        num_listed=len(output.videos),
        config_digest=output.config.digest(),
    )
    save_results(result, output.folder / RESULTS_FILE)
    save_scores(scores, output.folder / SCORES_FILE)
    report = _write_report(output, result, scores)
    logger.info(
        "top-1 %.2f %%, top-5 %.2f %% of %d videos, %s%s",
        result.top1,
        result.top5,
        result.num_videos,
        output.plan,
        f"; {result.failed} videos could not be read" if result.failed else "",
    )
    logger.info("report: %s", report)
    return result


def write_clip_counts(
    plans: Sequence[ViewPlan], results: Sequence[EvalResult], folder: Path
) -> None:
    """Write accuracy against the number of clips into ``folder``, and log it as a table."""
    rows, lines = list[dict[str, float]](), [f"{'views':>18}   top-1 %   top-5 %"]
    for plan, result in zip(plans, results, strict=True):
        top1, top5 = result.top1, result.top5
        views = {"num_clips": plan.num_clips, "num_crops": plan.num_crops}
        rows.append({**views, "top1": top1, "top5": top5})
        lines.append(f"{plan!s:>18}   {top1:7.2f}   {top5:7.2f}")
    write_text_atomically(folder / CLIP_COUNTS_FILE, json.dumps(rows, indent=2) + "\n")
    logger.info("accuracy by number of clips:\n%s", "\n".join(lines))


def write_classes(class_names: Sequence[str] | None, folder: Path) -> None:
    """Write the classes of a test, in the order of the model's outputs."""
    text = json.dumps(class_names, indent=2, ensure_ascii=False)
    write_text_atomically(folder / CLASSES_FILE, text + "\n")


def with_classes_of_test(videos: VideoList, folder: Path) -> VideoList:
    """Give a list the class names of its test, which may be in the order of the weights.

    Raises:
        UserError: the file of the classes is damaged.
    """
    path = folder / CLASSES_FILE
    if path.is_file():
        try:
            names = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: is not JSON ({error}). Run the test again") from error
        if names is not None:
            videos.class_names = tuple(map(str, names))
    return videos


def report_job(output_dir: str) -> None:
    """Write the report again from the files of a test; ``output_dir`` may be remote."""
    setup_logging()
    with output_folder(output_dir) as folder:
        if not (folder / RESULTS_FILE).is_file():
            raise UserError(
                f"{folder}: no {RESULTS_FILE} there. Give the OUTPUT_DIR of a finished test"
            )
        config = load_config(folder / CONFIG_FILE)
        result = load_results(folder / RESULTS_FILE)
        scores = load_scores(folder / SCORES_FILE)
        clips, crops = (len(np.unique(column)) for column in scores.views.T)
        plan = builders.view_plan(config, num_clips=clips, num_crops=crops)
        videos = with_classes_of_test(builders.build_videos(config, "test"), folder)
        has_curves = StatsLog(folder).path.is_file() or is_remote(config.output_dir)
        run_dir = folder if has_curves else Path(config.output_dir)
        report = _write_report(TestOutput(config, plan, videos, folder, run_dir), result, scores)
        logger.info("report: %s", report)


def _write_report(output: TestOutput, result: EvalResult, scores: VideoScores) -> Path:
    config, folder = output.config, output.folder
    clip = builders.clip_spec(config, config.test.dataset)
    return write_report(
        folder / REPORT_FILE,
        result=result,
        scores=scores,
        class_names=output.videos.class_names,
        thumbnails=_frames_of_hardest(output, scores),
        config_text=config.to_yaml(),
        title=f"{folder.resolve().name}: test of {result.num_listed:,} videos",
        notes=[f"{output.plan}, each clip {clip}", *output.notes],
        history=StatsLog(output.run_dir).read(),
    )


def _frames_of_hardest(output: TestOutput, scores: VideoScores) -> Mapping[str, list[np.ndarray]]:
    """Return the frames of the middle view of the hardest videos."""
    wanted = {scores.video_ids[row] for row in hardest_videos(scores, NUM_HARDEST)}
    frames = {}
    for video in output.videos:
        if video.video_id in wanted:
            try:
                frames[video.video_id] = builders.frames_seen(output.config, video, output.plan)
            except DecodeError as error:
                logger.warning("no thumbnails in the report: %s", error)
    return frames
