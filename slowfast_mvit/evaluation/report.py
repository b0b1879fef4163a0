"""report.html: the results of a test in one file to open, send or print.

Headline numbers, training curves, accuracy of each class, confusions, the hardest videos with the
frames the model saw, the videos that could not be read, the resolved config.

    scores -> the records below: content and order -> report.html.jinja: the page
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slowfast_mvit.evaluation import metrics
from slowfast_mvit.evaluation.charts import Mark, Points, class_marks, confusion_pixels, curves
from slowfast_mvit.evaluation.page import lossless, render, thumbnail
from slowfast_mvit.evaluation.results import distinct_names
from slowfast_mvit.storage import write_text_atomically
from slowfast_mvit.structures import EvalResult, VideoScores, views_as_text

NUM_HARDEST = 12  # hardest videos shown; the caller needs frames of these only
MAX_FRAMES = 8  # frames shown of each
MANY_CLASSES = 25  # above this, charts show the extremes and fold the rest away
NUM_EXTREMES = 12
NUM_CONFUSED_PAIRS = 15
NUM_BEST = 3


class ClassAccuracy(NamedTuple):
    """Top-1 in percent of the videos of one class."""

    name: str
    top1: float
    num_videos: int


class Cell(NamedTuple):
    """A cell of the confusion matrix, and its share of the row."""

    num_videos: int
    share: float
    is_correct: bool


class ConfusedPair(NamedTuple):
    """A true class, and another that some of its videos were predicted as."""

    true: str
    predicted: str
    num_videos: int
    num_true: int


class Confusion(NamedTuple):
    """The confusion matrix: as rows, or with many classes as an image with numbered axes."""

    pairs: list[ConfusedPair]
    rows: list[tuple[str, list[Cell]]]  # true class, cells
    image: str = ""
    marks: Sequence[Mark] = ()


class Guess(NamedTuple):
    """A class and the probability of it, in percent."""

    name: str
    percent: float
    is_correct: bool


class HardVideo(NamedTuple):
    """A video with a low probability of its class; the guesses begin with the predicted class."""

    video_id: str
    true: str
    guesses: list[Guess]
    frames: list[tuple[int, str]]  # number in the view, counted from 1; thumbnail
    num_frames: int


def write_report(
    path: str | Path,
    *,
    result: EvalResult,
    scores: VideoScores,
    class_names: Sequence[str] | None,
    thumbnails: Mapping[str, Sequence[np.ndarray]],
    config_text: str,
    title: str,
    notes: Sequence[str] = (),
    history: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write the report, atomically.

    Args:
        path: of the report.
        result: of ``summarise``.
        scores: every scored video.
        class_names: K names, or None to call them "class 17" and the like.
        thumbnails: frames (H, W, 3) uint8 RGB that the model saw, by video id. Those of the first
            ``NUM_HARDEST`` of ``hardest_videos`` are shown, at most 8 each, evenly spaced.
        config_text: the resolved config as YAML.
        title: such as "motion: MViTv2".
        notes: lines under the title: model, checkpoint, data.
        history: records of json_stats.log; those of whole epochs become the training curves.
    """
    names = distinct_names(class_names, scores.probs.shape[1])
    charts = [
        curves(chart_title, lines)
        for chart_title, key in (("Loss", "loss"), ("Top-1 error, %", "top1_err"))
        if (lines := epoch_curves(history, key))
    ]
    text = render(
        "report.html.jinja",
        title=title,
        notes=notes,
        result=result,
        top1_interval=metrics.confidence_interval(result.top1, result.num_videos),
        class_mean=metrics.mean_class_accuracy(scores.probs, scores.labels),
        num_classes=len(names),
        views=views_as_text(*(len(np.unique(column)) for column in scores.views.T)),
        charts=charts,
        classes=_classes(scores, names),
        many_classes=MANY_CLASSES,
        num_extremes=NUM_EXTREMES,
        confusion=_confusion(scores, names),
        hardest=[
            _hard_video(scores, row, names, thumbnails.get(scores.video_ids[row], ()))
            for row in metrics.hardest_videos(scores, NUM_HARDEST)
        ],
        config_text=config_text,
    )
    return write_text_atomically(path, text)


def epoch_curves(history: Sequence[Mapping[str, Any]], key: str) -> dict[str, Points]:
    """Return the (epoch, value) points of ``key`` in "train" and "val".

    The last record of an epoch counts. Records that are not of a whole epoch, or have no number
    there, are skipped.
    """
    lines: dict[str, Points] = {}
    for name in ("train", "val"):
        values: dict[int, float] = {}
        for record in history:
            if record.get("_type") == f"{name}_epoch" and isinstance(record.get(key), int | float):
                values[int(str(record["epoch"]).split("/")[0])] = float(record[key])
        if values:
            lines[name] = sorted(values.items())
    return lines


def _classes(scores: VideoScores, names: Sequence[str]) -> list[ClassAccuracy]:
    """The classes that have videos, best first."""
    rates = metrics.per_class_accuracy(scores.probs, scores.labels)
    counts = np.bincount(scores.labels, minlength=len(names)).tolist()
    order = np.argsort(-rates, kind="stable").tolist()
    return [ClassAccuracy(names[i], float(rates[i]), counts[i]) for i in order if counts[i]]


def _confusion(scores: VideoScores, names: Sequence[str]) -> Confusion:
    matrix = metrics.confusion_matrix(scores.probs, scores.labels)
    pairs = _confused_pairs(matrix, names)
    present = np.flatnonzero(matrix.sum(axis=0) + matrix.sum(axis=1)).tolist()
    if len(present) > MANY_CLASSES:
        return Confusion(pairs, [], lossless(confusion_pixels(matrix)), class_marks(len(names)))
    rows = []
    for true in present:
        num_true = max(1, int(matrix[true].sum()))
        counts = [(predicted, int(matrix[true, predicted])) for predicted in present]
        cells = [Cell(count, count / num_true, predicted == true) for predicted, count in counts]
        rows.append((names[true], cells))
    return Confusion(pairs, rows)


def _confused_pairs(matrix: np.ndarray, names: Sequence[str]) -> list[ConfusedPair]:
    """The pairs with the most videos first."""
    mistakes = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-mistakes, axis=None, kind="stable")[:NUM_CONFUSED_PAIRS]
    cells = (divmod(place, len(names)) for place in order.tolist())
    return [
        ConfusedPair(names[true], names[predicted], int(count), int(matrix[true].sum()))
        for true, predicted in cells
        if (count := mistakes[true, predicted])
    ]


def _hard_video(
    scores: VideoScores, row: int, names: Sequence[str], frames: Sequence[np.ndarray]
) -> HardVideo:
    probs, label = scores.probs[row], int(scores.labels[row])
    best = np.argsort(-probs, kind="stable")[:NUM_BEST].tolist()
    shown = best if label in best else [*best, label]
    guesses = [Guess(names[i], 100 * float(probs[i]), i == label) for i in shown]
    return HardVideo(
        scores.video_ids[row], names[label], guesses, _evenly_spaced(frames), len(frames)
    )


def _evenly_spaced(frames: Sequence[np.ndarray]) -> list[tuple[int, str]]:
    chosen = np.linspace(0, len(frames) - 1, min(MAX_FRAMES, len(frames))).round()
    return [(index + 1, thumbnail(frames[index])) for index in chosen.astype(int).tolist()]
