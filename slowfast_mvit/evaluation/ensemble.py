"""Ensembling of the views of a video.

    ViewScores, in any order  ->  (N, V, K) grid, every cell filled exactly once  ->  VideoScores

A video that lacks a view or has one twice is not averaged. So a lost batch or a padded sampler
gives an error here, and no accuracy that is slightly different.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from slowfast_mvit.errors import MissingViewsError, UserError, pick
from slowfast_mvit.structures import FailedVideo, VideoScores, ViewPlan, ViewScores

# The paper's sum of the views' probabilities, or the highest probability of each class.
METHODS: dict[str, np.ufunc] = {"sum": np.add, "max": np.maximum}


def ensemble(
    scores: Iterable[ViewScores],
    *,
    views: np.ndarray,
    video_ids: Sequence[str],
    method: str = "sum",
) -> VideoScores:
    """Gather the views of each video and combine them.

    Args:
        scores: views of videos, in any order; those of one video may be in several pieces.
        views: (V, 2) int64, the (clip, crop) that every video must have.
        video_ids: N required videos, in the order of the list, without those that could not be
            read.
        method: "sum" or "max" over the views, a key of ``METHODS``; then scaled to sum to 1.

    Returns:
        The scores of the N videos in the order of ``video_ids``. Bitwise independent of the order
        of ``scores``.

    Raises:
        MissingViewsError: a view is missing or duplicate, or belongs to no listed video.
        UserError: the model gave probabilities that are not numbers.
    """
    combine = pick(METHODS, method, "way to combine views")
    labels, view_probs = _gather(scores, np.asarray(views), video_ids)
    _check_finite(view_probs, video_ids)
    # V arrays (N, K), one after the other, so that sums are rounded in a fixed order.
    in_order = (view_probs[:, view].astype(np.float64) for view in range(view_probs.shape[1]))
    total = reduce(combine, in_order)
    probs = total / total.sum(axis=1, keepdims=True)
    return VideoScores(
        video_ids=tuple(video_ids),
        labels=labels,
        views=np.asarray(views, dtype=np.int64),
        view_probs=view_probs.astype(np.float16),
        probs=probs.astype(np.float32),
    )


def views_of_plan(
    outcomes: Iterable[ViewScores | FailedVideo], plans: Sequence[ViewPlan], number: int
) -> Iterator[ViewScores]:
    """Yield the views of one plan, from scores with the views of all ``plans`` in order.

    Videos that could not be read are skipped.
    """
    first = sum(plan.num_views for plan in plans[:number])
    of_plan = slice(first, first + plans[number].num_views)
    for outcome in outcomes:
        if isinstance(outcome, ViewScores):
            yield replace(outcome, views=outcome.views[of_plan], probs=outcome.probs[of_plan])


def _gather(
    scores: Iterable[ViewScores], views: np.ndarray, video_ids: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels (N,) int64 and the probabilities (N, V, K) float32, each view once."""
    row_of = {video_id: row for row, video_id in enumerate(video_ids)}
    column_of = {tuple(view): column for column, view in enumerate(views.tolist())}
    times_seen = np.zeros((len(video_ids), len(views)), dtype=np.int64)
    labels = np.full(len(video_ids), -1, dtype=np.int64)
    view_probs: np.ndarray | None = None
    unlisted: dict[str, None] = {}  # a set that keeps its order
    for piece in scores:
        columns = [column_of.get(tuple(view)) for view in piece.views.tolist()]
        row = row_of.get(piece.video_id)
        if row is None or None in columns:
            unlisted[piece.video_id] = None
            continue
        if view_probs is None:
            view_probs = np.zeros((*times_seen.shape, piece.probs.shape[1]), dtype=np.float32)
        labels[row] = piece.label
        for column, probs in zip(columns, piece.probs, strict=True):
            times_seen[row, column] += 1
            view_probs[row, column] = probs
    _check_every_view_once(times_seen, video_ids, unlisted)
    if view_probs is None:
        view_probs = np.zeros((*times_seen.shape, 0), dtype=np.float32)
    return labels, view_probs


def _check_every_view_once(
    times_seen: np.ndarray, video_ids: Sequence[str], unlisted: Iterable[str]
) -> None:
    num_videos, num_views = times_seen.shape
    problems = []
    incomplete = np.flatnonzero((times_seen == 0).any(axis=1))
    if len(incomplete):
        num_seen = np.count_nonzero(times_seen[incomplete[0]])
        problems.append(
            f"{len(incomplete):,} of {num_videos:,} videos lack views "
            f"(first: {video_ids[incomplete[0]]!r}, has {num_seen} of {num_views})."
        )
    doubled = np.flatnonzero((times_seen > 1).any(axis=1))
    if len(doubled):
        most = times_seen[doubled[0]].max()
        problems.append(
            f"{len(doubled):,} of {num_videos:,} videos have a view more than once "
            f"(first: {video_ids[doubled[0]]!r}, has one {most} times)."
        )
    unknown = list(unlisted)
    if unknown:
        problems.append(
            f"{len(unknown):,} scored videos are not in the list, or have a view that was not "
            f"requested (first: {unknown[0]!r})."
        )
    if problems:
        raise MissingViewsError(" ".join([*problems, "Scores were not averaged."]))


def _check_finite(view_probs: np.ndarray, video_ids: Sequence[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(view_probs).all(axis=(1, 2)))
    if len(bad):
        raise UserError(
            f"{len(bad):,} of {len(video_ids):,} videos got probabilities that are not numbers "
            f"(first: {video_ids[bad[0]]!r}). The weights contain NaN or infinity, or the "
            "precision is too low: test with TRAIN.PRECISION fp32, or another checkpoint"
        )
