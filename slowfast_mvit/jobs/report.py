"""The files of a test: results, scores, and the report with the frames that the model saw."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slowfast_mvit import builders
from slowfast_mvit.config import Config
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.engine.failed_videos import failures_of_training
from slowfast_mvit.errors import DecodeError, UserError
from slowfast_mvit.evaluation.files import explained_damage, read_json, read_limited
from slowfast_mvit.evaluation.metrics import hardest_videos
from slowfast_mvit.evaluation.provenance import Provenance, load_provenance, save_provenance
from slowfast_mvit.evaluation.report import NUM_HARDEST, write_report
from slowfast_mvit.evaluation.results import (
    load_results,
    load_scores,
    save_results,
    save_scores,
    summarise,
)
from slowfast_mvit.evaluation.thumbnails import Film, film_of, load_thumbnails, save_thumbnails
from slowfast_mvit.runtime.log import StatsLog, setup_logging, stats_line
from slowfast_mvit.storage import output_folder, write_text_atomically
from slowfast_mvit.structures import EvalResult, FailedVideo, VideoScores, ViewPlan

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
RESULTS_FILE = "test_results.json"
SCORES_FILE = "test_scores.npz"
REPORT_FILE = "report.html"
CLASSES_FILE = "test_classes.json"
CLIP_COUNTS_FILE = "test_clip_counts.json"
MAX_CONFIG_BYTES = 1_000_000
_ONE_OF_SEVERAL = re.compile(r"test_\d+_clips")  # a folder of ``jobs.test``


@dataclass(frozen=True)
class TestOutput:
    """The test of one view plan, and the folder for its files.

    Attributes:
        config: of the test.
        plan: the views of each video.
        videos: the list.
        folder: gets the files.
        run_dir: of the whole test, whose log gets the accuracy.
        provenance: weights, time and machine of the test.
        thumbnail_bytes: limit of the file of frames.
    """

    config: Config
    plan: ViewPlan
    videos: VideoList
    folder: Path
    run_dir: Path
    provenance: Provenance
    thumbnail_bytes: int


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
    save_thumbnails(_films_of_hardest(output, scores), output.folder, output.thumbnail_bytes)
    save_provenance(output.provenance, output.folder)
    save_scores(scores, output.folder / SCORES_FILE)
    save_results(result, output.folder / RESULTS_FILE)
    stats = {"split": "test_final"}  # PySlowFast's line, for programs that read its logs
    stats |= {f"top{k}_acc": f"{rate:.2f}" for k, rate in ((1, result.top1), (5, result.top5))}
    StatsLog(output.run_dir).write(stats)
    logger.info("%s", stats_line(stats).rstrip())
    report = _write_report(output.folder, result, scores)
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
    names = _class_names(folder)
    if names is not None:
        videos.class_names = names
    return videos


def _class_names(folder: Path) -> tuple[str, ...] | None:
    """Return the classes of a test in ``folder``; None where they have no names, or no file."""
    path = folder / CLASSES_FILE
    if not path.exists():
        return None
    with explained_damage(path, CLASSES_FILE):
        names = read_json(path)
        if names is None:
            return None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("it is not a list of names")
        return tuple(names)


def report_job(output_dir: str) -> None:
    """Write the report again from the files of a test; ``output_dir`` may be remote.

    Neither the videos nor what the config names is read, so the folder may have been moved, or be
    of another machine.

    Raises:
        UserError: there are no results, or a file is damaged.
    """
    setup_logging()
    with output_folder(output_dir) as folder:
        if not (folder / RESULTS_FILE).is_file():
            raise UserError(
                f"{folder}: no {RESULTS_FILE} there. Give the OUTPUT_DIR of a finished test"
            )
        result = load_results(folder / RESULTS_FILE)
        scores = load_scores(folder / SCORES_FILE)
        if (result.num_videos, result.num_views) != scores.view_probs.shape[:2]:
            raise UserError(
                f"{folder}: {RESULTS_FILE} and {SCORES_FILE} are of different tests: "
                f"{result.num_videos} videos with {result.num_views} views, and "
                f"{len(scores.video_ids)} with {len(scores.views)}. Run the test again"
            )
        logger.info("report: %s", _write_report(folder, result, scores))


def _write_report(folder: Path, result: EvalResult, scores: VideoScores) -> Path:
    """Write the report of the test in ``folder`` from its files alone."""
    provenance, films = load_provenance(folder), load_thumbnails(folder)
    missing = [
        what
        for what, is_missing in {
            "weights, clip, time, machine and versions": provenance is None,
            "frames of videos": films is None,
            "class names": not (folder / CLASSES_FILE).exists(),
            "config": not (folder / CONFIG_FILE).exists(),
        }.items()
        if is_missing
    ]
    notes = _notes(provenance)
    if missing:
        notes.append(f"Not recorded, as by earlier versions: {'; '.join(missing)}")
    return write_report(
        folder / REPORT_FILE,
        result=result,
        scores=scores,
        class_names=_class_names(folder),
        thumbnails=films or {},
        config_text=_config_text(folder),
        title=f"{folder.resolve().name}: test of {result.num_listed:,} videos",
        notes=[*notes, *failures_of_training(_run_folder(folder))],
        history=StatsLog(_run_folder(folder)).read("train_epoch", "val_epoch"),
    )


def _notes(provenance: Provenance | None) -> list[str]:
    """Return the lines of the head; those that a test of an earlier version lacks are left out."""
    if provenance is None:
        return []
    weights, clip, time, machine, versions = provenance
    tested = f"tested {time}, on {machine}" if time else ""
    return [line for line in (clip and f"clips of {clip}", weights, tested, versions) if line]


def _config_text(folder: Path) -> str:
    """Return the config as it was written; it is not interpreted, so nothing that it names is."""
    path = folder / CONFIG_FILE
    if not path.exists():
        return ""
    with explained_damage(path, CONFIG_FILE):
        return read_limited(path, MAX_CONFIG_BYTES).decode(errors="replace")


def _run_folder(folder: Path) -> Path:
    """Return the OUTPUT_DIR of a run whose test is in ``folder``, which may be one of several."""
    is_one = _ONE_OF_SEVERAL.fullmatch(folder.resolve().name)
    return folder.resolve().parent if is_one and not StatsLog(folder).path.is_file() else folder


def _films_of_hardest(output: TestOutput, scores: VideoScores) -> Mapping[str, Film]:
    """Return frames of the middle view of the hardest videos, the hardest first."""
    wanted = [scores.video_ids[row] for row in hardest_videos(scores, NUM_HARDEST)]
    records = {video.video_id: video for video in output.videos if video.video_id in wanted}
    films = {}
    for video_id in wanted:
        try:
            frames = builders.frames_seen(output.config, records[video_id], output.plan)
            films[video_id] = film_of(frames)
        except DecodeError as error:
            logger.warning("no frames in the report: %s", error)
    return films
