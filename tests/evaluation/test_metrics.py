"""Rates against numbers counted by hand, and against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slowfast_mvit.evaluation.metrics import (
    confidence_interval,
    confusion_matrix,
    hardest_videos,
    mean_class_accuracy,
    per_class_accuracy,
    topk_accuracy,
)
from slowfast_mvit.structures import VideoScores

PROBS = np.array(
    [
        [0.7, 0.2, 0.1, 0.0],  # right class 0: first
        [0.4, 0.3, 0.2, 0.1],  # right class 1: second
        [0.1, 0.2, 0.3, 0.4],  # right class 1: third
        [0.1, 0.6, 0.2, 0.1],  # right class 1: first
        [0.3, 0.3, 0.3, 0.1],  # right class 2: third, after two with an equal probability
    ],
    dtype=np.float32,
)
LABELS = np.array([0, 1, 1, 1, 2])


def test_topk_counts_the_videos_whose_class_is_among_the_best():
    assert [topk_accuracy(PROBS, LABELS, k) for k in (1, 2, 3, 4)] == [40, 60, 100, 100]


def test_topk_equals_torch_where_nothing_is_tied():
    probs = torch.rand((200, 50), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 50

    for k in (1, 5, 50):
        expected = (probs.topk(k).indices == labels[:, None]).any(dim=1).double().mean() * 100
        assert topk_accuracy(probs.numpy(), labels.numpy(), k) == pytest.approx(float(expected))


def test_topk_breaks_ties_as_a_stable_sort_does():
    rng = np.random.Generator(np.random.Philox(0))
    probs = rng.integers(0, 3, size=(300, 8)).astype(np.float32)
    labels = rng.integers(0, 8, size=300)

    for k in (1, 3, 5):
        best = np.argsort(-probs, axis=1, kind="stable")[:, :k]
        expected = 100 * np.mean((best == labels[:, None]).any(axis=1))
        assert topk_accuracy(probs, labels, k) == pytest.approx(expected)


def test_top5_of_three_classes_is_everything():
    assert topk_accuracy(PROBS[:2, :3], LABELS[:2], 5) == 100


def test_a_video_without_numbers_is_never_right():
    probs = np.full((1, 8), np.nan, dtype=np.float32)

    assert topk_accuracy(probs, np.array([0]), 5) == 0


def test_confusion_matrix_has_a_row_for_the_truth_and_a_column_for_the_verdict():
    assert confusion_matrix(PROBS, LABELS).tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 1],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_per_class_accuracy_leaves_out_classes_without_videos():
    rates = per_class_accuracy(PROBS, LABELS)

    np.testing.assert_allclose(rates, [100, 100 / 3, 0, np.nan])
    assert mean_class_accuracy(PROBS, LABELS) == pytest.approx((100 + 100 / 3 + 0) / 3)


def test_hardest_videos_have_the_lowest_probability_of_the_right_class():
    view_probs = PROBS[:, None].astype(np.float16)
    ids = tuple("vwxyz")
    scores = VideoScores(ids, LABELS, np.zeros((1, 2), dtype=np.int64), view_probs, PROBS)

    assert hardest_videos(scores, 4).tolist() == [2, 1, 4, 3]
    assert len(hardest_videos(scores, 99)) == 5


@pytest.mark.parametrize(
    ("rate", "num_videos", "low", "high"),
    [(50.0, 100, 40.38, 59.62), (81.0, 19877, 80.45, 81.54), (100.0, 10, 72.25, 100.0)],
)
def test_confidence_interval_is_wilsons(rate, num_videos, low, high):
    interval = confidence_interval(rate, num_videos)

    assert interval == pytest.approx((low, high), abs=0.006)


@pytest.mark.parametrize("labels", [[0, 1, 1, 1, 4], [-1, 0, 0, 0, 0], [0, 1]])
def test_labels_that_fit_no_class_are_refused(labels):
    with pytest.raises(ValueError, match="labels"):
        topk_accuracy(PROBS, np.array(labels), 1)
