"""report.html: what a test found, in one file to open, send or print.

Headline numbers, accuracy of each class, what is taken for what, the hardest videos with the frames
the model saw, the videos that could not be read, training curves, the resolved config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slowfast_mvit.evaluation.charts import (
    Points,
    bar,
    class_bars,
    curves,
    matrix_picture,
    matrix_table,
)
from slowfast_mvit.evaluation.metrics import (
    confidence_interval,
    confusion_matrix,
    hardest_videos,
    mean_class_accuracy,
    per_class_accuracy,
)
from slowfast_mvit.evaluation.page import Section, escaped, folded, page, percent, table
from slowfast_mvit.evaluation.pictures import thumbnail
from slowfast_mvit.evaluation.results import distinct_names
from slowfast_mvit.storage import write_text_atomically
from slowfast_mvit.structures import EvalResult, VideoScores

NUM_HARDEST = 12  # hardest videos shown; the caller needs frames of these only
MAX_FRAMES = 8  # frames shown of each
MANY_CLASSES = 25  # above this, charts show the extremes and fold the rest away
NUM_EXTREMES = 12
NUM_CONFUSED_PAIRS = 15
NUM_BEST = 3


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
        path: where it goes.
        result: what ``summarise`` made of ``scores``.
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
    sections = [
        _classes(scores, names, result.top1),
        _confusion(scores, names),
        _hardest(scores, names, thumbnails),
        *_failed(result),
        *_training(history),
        _config(config_text, result.config_digest),
    ]
    text = page(title, notes=notes, headline=_headline(result, scores), sections=sections)
    return write_text_atomically(path, text)


def views_in_words(views: np.ndarray) -> str:
    """(V, 2) views as "5 clips x 1 crop"."""
    num_clips, num_crops = (len(np.unique(column)) for column in views.T)
    clips = "clip" if num_clips == 1 else "clips"
    crops = "crop" if num_crops == 1 else "crops"
    return f"{num_clips} {clips} x {num_crops} {crops}"


def epoch_curves(history: Sequence[Mapping[str, Any]], key: str) -> dict[str, Points]:
    """The (epoch, value) points of ``key`` in "train" and "val"; the last word on an epoch counts.

    Records that are not of a whole epoch, or hold no number there, are passed over.
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


def _headline(result: EvalResult, scores: VideoScores) -> str:
    low, high = confidence_interval(result.top1, result.num_videos)
    num_classes = scores.probs.shape[1]
    mean_rate = percent(mean_class_accuracy(scores.probs, scores.labels))
    top5_note = f"only {num_classes} classes" if num_classes <= 5 else f"of {num_classes} classes"
    failed_note = "none" if result.failed == 0 else '<a href="#failed">which and why</a>'
    num_classes_tested = len(result.per_class)
    tiles = [
        ("Top-1", percent(result.top1), f"95% interval {low:.1f} to {high:.1f}", "main"),
        ("Top-5", percent(result.top5), top5_note, "main"),
        ("Class mean", mean_rate, f"over {num_classes_tested:,} classes", ""),
        ("Videos", f"{result.num_videos:,}", f"of {result.num_listed:,} in the list", ""),
        ("Views", views_in_words(scores.views), f"{result.num_views} a video", "words"),
        ("Failed", f"{result.failed:,}", failed_note, "alarm" if result.failed else ""),
    ]
    cells = "\n".join(
        f'<div class="tile {kind}"><dt>{label}</dt><dd>{value}</dd><dd>{note}</dd></div>'
        for label, value, note, kind in tiles
    )
    return f'<dl class="tiles">\n{cells}\n</dl>'


def _classes(scores: VideoScores, names: Sequence[str], top1: float) -> Section:
    rates = per_class_accuracy(scores.probs, scores.labels)
    counts = np.bincount(scores.labels, minlength=len(names))
    order = [index for index in np.argsort(-rates, kind="stable").tolist() if counts[index]]

    def bars(chosen: Sequence[int]) -> str:
        return class_bars([names[i] for i in chosen], rates[chosen], counts[chosen], top1)

    body = bars(order)
    if len(order) > MANY_CLASSES:
        body = (
            f'<div class="pair"><div><h3>Weakest</h3>{bars(order[: -NUM_EXTREMES - 1 : -1])}</div>'
            f"<div><h3>Strongest</h3>{bars(order[:NUM_EXTREMES])}</div></div>"
            + folded(f"All {len(order)} classes", bars(order))
        )
    intro = f"Top-1 of the videos of each class. The thin line marks all videos: {percent(top1)}."
    return Section("classes", "Classes", body, intro)


def _confusion(scores: VideoScores, names: Sequence[str]) -> Section:
    matrix = confusion_matrix(scores.probs, scores.labels)
    present = np.flatnonzero(matrix.sum(axis=0) + matrix.sum(axis=1))
    heading = "Confusion matrix"
    if len(present) <= MANY_CLASSES:
        chart = matrix_table(matrix[np.ix_(present, present)], [names[i] for i in present.tolist()])
        body = f'<div class="beside">{chart}{_confused_pairs(matrix, names)}</div>'
        intro = "Rows are the true class, columns what the model said; numbers count videos."
        return Section("confusion", heading, body, intro)
    body = f'<div class="pair">{_confused_pairs(matrix, names)}{matrix_picture(matrix)}</div>'
    intro = (
        "The most frequent mistakes, and all of them at a glance: the stronger a dot, the larger "
        "its share of the true class. Classes are in the order of their indices."
    )
    return Section("confusion", heading, body, intro)


def _confused_pairs(matrix: np.ndarray, names: Sequence[str]) -> str:
    mistakes = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-mistakes, axis=None, kind="stable")[:NUM_CONFUSED_PAIRS]
    rows = []
    for place in order.tolist():
        true, predicted = divmod(place, len(names))
        count = mistakes[true, predicted]
        if count:
            rows.append(
                (
                    _name(names[true]),
                    _name(names[predicted]),
                    f"{count:,} of {matrix[true].sum():,}",
                )
            )
    if not rows:
        return "<p>No video is taken for another class.</p>"
    return table(["True class", "Taken for", "Videos"], rows, "numbers-last")


def _hardest(
    scores: VideoScores, names: Sequence[str], thumbnails: Mapping[str, Sequence[np.ndarray]]
) -> Section:
    cards = [
        _video_card(scores, row, names, thumbnails.get(scores.video_ids[row], ()))
        for row in hardest_videos(scores, NUM_HARDEST)
    ]
    body = '<div class="cards">\n' + "\n".join(cards) + "\n</div>"
    intro = "Lowest probability of the right class first, with frames that the model saw."
    return Section("hardest", "Hardest videos", body, intro)


def _video_card(
    scores: VideoScores, row: int, names: Sequence[str], frames: Sequence[np.ndarray]
) -> str:
    probs, label = scores.probs[row], int(scores.labels[row])
    best = np.argsort(-probs, kind="stable")[:NUM_BEST].tolist()
    verdict = "right" if best[0] == label else "wrong"
    shown = best if label in best else [*best, label]
    guesses = "\n".join(
        f'<li class="{"right" if index == label else "wrong"}">{_name(names[index])}'
        f"{bar(100 * float(probs[index]))}<span>{percent(100 * float(probs[index]))}</span></li>"
        for index in shown
    )
    return f"""<article class="card">
{_film_strip(frames)}
<h3>{escaped(scores.video_ids[row])}</h3>
<p><span class="tag">true</span> {_name(names[label])}</p>
<p><span class="tag {verdict}">predicted</span> {_name(names[best[0]])}</p>
<ul class="guesses">
{guesses}
</ul>
</article>"""


def _film_strip(frames: Sequence[np.ndarray]) -> str:
    if len(frames) == 0:
        return '<p class="film missing">no frames kept</p>'
    count = min(MAX_FRAMES, len(frames))
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int).tolist()
    pictures = "\n".join(
        f'<img src="{thumbnail(frames[index])}" alt="frame {index + 1} of {len(frames)}">'
        for index in chosen
    )
    return f'<div class="film">\n{pictures}\n</div>'


def _failed(result: EvalResult) -> list[Section]:
    if not result.failed_videos:
        return []
    rows = [
        (f"<code>{escaped(failed.video_id)}</code>", escaped(failed.reason))
        for failed in result.failed_videos
    ]
    intro = f"Not counted in the rates: {result.failed:,} of {result.num_listed:,} listed videos."
    return [Section("failed", "Failed videos", table(["Video", "Reason"], rows, "failed"), intro)]


def _training(history: Sequence[Mapping[str, Any]]) -> list[Section]:
    charts = [
        curves(title, lines)
        for title, key in (("Loss", "loss"), ("Top-1 error, %", "top1_err"))
        if (lines := epoch_curves(history, key))
    ]
    if not charts:
        return []
    body = '<div class="pair">' + "\n".join(charts) + "</div>"
    return [
        Section("training", "Training", body, "By epoch. Validation sees the centre view only.")
    ]


def _config(config_text: str, digest: str) -> Section:
    body = folded("Show the resolved config", f"<pre>{escaped(config_text)}</pre>")
    intro = f"Digest of the keys that decide the numbers: {digest}"
    return Section("config", "Config", body, intro)


def _name(name: str) -> str:
    return f'<span class="name" title="{escaped(name)}">{escaped(name)}</span>'
