"""Metrics of a test. Rates are in percent; N videos, K classes.

Of two classes with the same probability, the one with the lower index ranks first, as in
``numpy.argsort(-probs, kind="stable")``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from slowfast_mvit.structures import VideoScores


def topk_accuracy(probs: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of videos whose correct class is among their k best classes.

    Args:
        probs: (N, K), any scores of which higher is better.
        labels: (N,) class indices.
        k: 1 or more; above K it counts as K, so that top-5 exists for 3 classes.
    """
    _check(probs, labels)
    correct = probs[np.arange(len(labels)), labels][:, None]
    tied_later = (probs == correct) & (np.arange(probs.shape[1]) > labels[:, None])
    # Counted from "not worse" rather than "better": so a NaN ranks its video last, never first.
    place = (~(probs < correct)).sum(axis=1) - tied_later.sum(axis=1)
    return 100.0 * float(np.mean(place <= k))


def confusion_matrix(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (K, K) int64: videos of the row's class that are predicted as the column's class."""
    _check(probs, labels)
    matrix = np.zeros((probs.shape[1], probs.shape[1]), dtype=np.int64)
    np.add.at(matrix, (labels, probs.argmax(axis=1)), 1)
    return matrix


def per_class_accuracy(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (K,) float64: top-1 of the videos of each class; NaN where a class has no video."""
    _check(probs, labels)
    num_classes = probs.shape[1]
    num_videos = np.bincount(labels, minlength=num_classes)
    correct = np.bincount(labels[probs.argmax(axis=1) == labels], minlength=num_classes)
    rates = np.full(num_classes, np.nan)
    np.divide(100.0 * correct, num_videos, out=rates, where=num_videos > 0)
    return rates


def mean_class_accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of ``per_class_accuracy`` over the classes that have videos."""
    return float(np.nanmean(per_class_accuracy(probs, labels)))


def hardest_videos(scores: VideoScores, count: int) -> np.ndarray:
    """Return (count,) int64: rows of ``scores``, lowest probability of the correct class first.

    Fewer than ``count`` where there are fewer videos. Equal probabilities stay in the list's order.
    """
    correct = scores.probs[np.arange(len(scores.labels)), scores.labels]
    return np.argsort(correct, kind="stable")[:count]


# Each is a number of test_results.json, under its name here, and a tile of the report.
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "top1": partial(topk_accuracy, k=1),
    "top5": partial(topk_accuracy, k=5),
}


def confidence_interval(rate: float, num_videos: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate measured on ``num_videos``, in percent.

    Wilson's score interval (Journal of the American Statistical Association 22, 1927): unlike the
    plain normal one it stays within 0 to 100 and has a width at 0 and 100 too.
    """
    z = 1.959963984540054  # 97.5 % point of the normal distribution
    share = rate / 100.0
    scale = 1.0 / (1.0 + z * z / num_videos)
    centre = scale * (share + z * z / (2 * num_videos))
    spread = share * (1 - share) / num_videos + z * z / (4 * num_videos**2)
    reach = scale * z * math.sqrt(spread)
    return 100.0 * max(0.0, centre - reach), 100.0 * min(1.0, centre + reach)


def _check(probs: np.ndarray, labels: np.ndarray) -> None:
    if probs.ndim != 2 or labels.shape != probs.shape[:1] or len(labels) == 0:
        raise ValueError(
            "expected scores (N, K) and labels (N,) of at least one video, "
            f"got {probs.shape} and {labels.shape}"
        )
    num_classes = probs.shape[1]
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels must be from 0 to {num_classes - 1} with {num_classes} classes, "
            f"got {labels.min()} to {labels.max()}"
        )
