"""report.html: the results of a test in one file to open, send or print.

Headline numbers, training curves, accuracy of each class, confusions, a table of all videos, the
hardest ones with the frames the model saw, those that could not be read, the resolved config.

    scores -> the records below: content and order -> report.html.jinja: the page
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slowfast_mvit.evaluation import metrics
from slowfast_mvit.evaluation.charts import Mark, Points, class_marks, confusion_pixels, curves
from slowfast_mvit.evaluation.page import address_of, lossless, render, script_and_hash
from slowfast_mvit.evaluation.results import distinct_names
from slowfast_mvit.evaluation.thumbnails import Film
from slowfast_mvit.evaluation.video_table import video_table
from slowfast_mvit.runtime.log import Record, done_of
from slowfast_mvit.storage import write_text_atomically
from slowfast_mvit.structures import EvalResult, VideoScores, views_as_text

NUM_HARDEST = 12  # hardest videos shown; the caller needs frames of these only
MANY_CLASSES = 25  # above this, charts show the extremes and fold the rest away
MAX_IMAGE_CLASSES = 2000  # above this, there is no image of the confusion matrix
NUM_EXTREMES = 12
NUM_CONFUSED_PAIRS = 15
NUM_BEST = 3
MAX_VALUE = 1e30  # of a point of a curve


class ClassAccuracy(NamedTuple):
    """Top-1 in percent of the videos of one class."""

    number: int  # index of the class
    name: str
    top1: float
    num_videos: int


class Cell(NamedTuple):
    """A cell of the confusion matrix with its class indices, and its share of the row."""

    true: int
    predicted: int
    num_videos: int
    share: float


class ConfusedPair(NamedTuple):
    """A true class, and another that some of its videos were predicted as."""

    true: int
    predicted: int
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
    frames: list[tuple[int, str]]  # number in the view, counted from 1; address of the thumbnail
    num_frames: int


def write_report(
    path: str | Path,
    *,
    result: EvalResult,
    scores: VideoScores,
    class_names: Sequence[str] | None,
    thumbnails: Mapping[str, Film],
    config_text: str,
    title: str,
    notes: Sequence[str] = (),
    history: Sequence[Record] = (),
) -> Path:
    """Write the report, atomically.

    Args:
        path: of the report.
        result: of ``summarise``.
        scores: every scored video.
        class_names: K names, or None to call them "class 17" and the like.
        thumbnails: frames that the model saw, by video id. Those of the first ``NUM_HARDEST`` of
            ``hardest_videos`` are shown.
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
    script, script_hash = script_and_hash("videos.js")
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
        max_image_classes=MAX_IMAGE_CLASSES,
        confusion=_confusion(scores, names),
        hardest=[
            _hard_video(scores, row, names, thumbnails.get(scores.video_ids[row], Film(0, ())))
            for row in metrics.hardest_videos(scores, NUM_HARDEST)
        ],
        config_text=config_text,
        names=names,
        videos=video_table(scores, names),
        script=script,
        script_hash=script_hash,
    )
    return write_text_atomically(path, text)


def epoch_curves(history: Sequence[Record], key: str) -> dict[str, Points]:
    """Return the (epoch, value) points of ``key`` in "train" and "val".

    The last record of an epoch counts. Records that are not of a whole epoch, or have no finite
    number there, are skipped.
    """
    lines: dict[str, Points] = {}
    for name in ("train", "val"):
        values: dict[int, float] = {}
        for record in history:
            value = record.get(key)
            is_number = isinstance(value, int | float) and abs(value) < MAX_VALUE  # NaN is not
            if record.get("_type") == f"{name}_epoch" and is_number:
                values[done_of(record, "epoch")] = float(record[key])
        if values:
            lines[name] = sorted(values.items())
    return lines


def _classes(scores: VideoScores, names: Sequence[str]) -> list[ClassAccuracy]:
    """The classes that have videos, best first."""
    rates = metrics.per_class_accuracy(scores.probs, scores.labels)
    counts = np.bincount(scores.labels, minlength=len(names)).tolist()
    order = np.argsort(-rates, kind="stable").tolist()
    return [ClassAccuracy(i, names[i], float(rates[i]), counts[i]) for i in order if counts[i]]


def _confusion(scores: VideoScores, names: Sequence[str]) -> Confusion:
    # Counted by pair, as a matrix of 20,000 classes would have 3 GB.
    labels = scores.labels.tolist()
    pairs = Counter(zip(labels, scores.probs.argmax(axis=1).tolist(), strict=True))
    num_true = Counter(labels)
    confused = _confused_pairs(pairs, num_true)
    present = sorted({index for pair in pairs for index in pair})
    if len(present) <= MANY_CLASSES:
        rows = []
        for true in present:
            whole = max(1, num_true[true])
            counts = [(predicted, pairs[true, predicted]) for predicted in present]
            cells = [Cell(true, predicted, count, count / whole) for predicted, count in counts]
            rows.append((names[true], cells))
        return Confusion(confused, rows)
    if len(names) > MAX_IMAGE_CLASSES:
        return Confusion(confused, [])
    matrix = metrics.confusion_matrix(scores.probs, scores.labels)
    return Confusion(confused, [], lossless(confusion_pixels(matrix)), class_marks(len(names)))


def _confused_pairs(
    pairs: Mapping[tuple[int, int], int], num_true: Mapping[int, int]
) -> list[ConfusedPair]:
    """The pairs with the most videos first."""
    mistakes = [(-count, pair) for pair, count in pairs.items() if pair[0] != pair[1]]
    return [
        ConfusedPair(true, predicted, -count, num_true[true])
        for count, (true, predicted) in sorted(mistakes)[:NUM_CONFUSED_PAIRS]
    ]


def _hard_video(scores: VideoScores, row: int, names: Sequence[str], film: Film) -> HardVideo:
    probs, label = scores.probs[row], int(scores.labels[row])
    best = np.argsort(-probs, kind="stable")[:NUM_BEST].tolist()
    shown = best if label in best else [*best, label]
    guesses = [Guess(names[i], 100 * float(probs[i]), i == label) for i in shown]
    frames = [(number, address_of(jpeg)) for number, jpeg in film.thumbnails]
    return HardVideo(scores.video_ids[row], names[label], guesses, frames, film.num_frames)
