"""Views come in any order, each exactly once, and give one verdict a video."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slowfast_mvit.errors import ConfigError, MissingViewsError, UserError
from slowfast_mvit.evaluation.ensemble import ensemble
from slowfast_mvit.structures import ViewPlan, ViewScores

VIEWS = ViewPlan(num_clips=2, num_crops=3, scale_px=64, crop_px=64).views().numpy()
VIDEO_IDS = ("b.mp4", "a.mp4", "c d.mp4")


def one_piece_per_view(num_classes=7):
    rng = np.random.Generator(np.random.Philox(0))
    logits = torch.from_numpy(rng.normal(size=(len(VIDEO_IDS), len(VIEWS), num_classes)))
    probs = logits.float().softmax(dim=-1).numpy()
    return [
        ViewScores(video_id, label, VIEWS[view : view + 1], probs[label, view : view + 1])
        for label, video_id in enumerate(VIDEO_IDS)
        for view in range(len(VIEWS))
    ]


def test_sums_the_probabilities_of_the_views():
    probs = np.array([[0.5, 0.25, 0.25], [0.0, 0.75, 0.25]], dtype=np.float32)
    two_views = np.array([[0, 0], [1, 0]])

    scores = ensemble([ViewScores("a", 2, two_views, probs)], views=two_views, video_ids=["a"])

    assert scores.video_ids == ("a",)
    assert scores.labels.tolist() == [2]
    assert scores.probs.dtype == np.float32
    assert scores.probs.tolist() == [[0.25, 0.5, 0.25]]
    assert scores.view_probs.dtype == np.float16
    assert scores.view_probs.tolist() == [probs.tolist()]


def test_takes_the_highest_probability_of_each_class():
    probs = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]], dtype=np.float32)
    two_views = np.array([[0, 0], [1, 0]])
    piece = ViewScores("a", 2, two_views, probs)

    scores = ensemble([piece], views=two_views, video_ids=["a"], method="max")

    np.testing.assert_allclose(scores.probs, [[0.5 / 1.75, 0.5 / 1.75, 0.75 / 1.75]], rtol=1e-7)


@pytest.mark.parametrize("method", ["sum", "max"])
def test_does_not_depend_on_the_order_of_arrival(method):
    pieces = one_piece_per_view()
    expected = ensemble(pieces, views=VIEWS, video_ids=VIDEO_IDS, method=method)

    for seed in range(5):
        shuffled = np.random.Generator(np.random.Philox(seed)).permutation(len(pieces))
        actual = ensemble(
            (pieces[i] for i in shuffled), views=VIEWS, video_ids=VIDEO_IDS, method=method
        )

        assert actual.video_ids == VIDEO_IDS
        assert actual.probs.tobytes() == expected.probs.tobytes()
        assert actual.view_probs.tobytes() == expected.view_probs.tobytes()
        np.testing.assert_allclose(actual.probs.sum(axis=1), 1, rtol=1e-6)


def test_averages_before_rounding_to_half_precision():
    probs = np.array([[1e-6, 1 - 1e-6], [3e-6, 1 - 3e-6]], dtype=np.float32)
    two_views = np.array([[0, 0], [1, 0]])

    scores = ensemble([ViewScores("a", 0, two_views, probs)], views=two_views, video_ids=["a"])

    np.testing.assert_allclose(scores.probs[0, 0], 2e-6, rtol=1e-6)


def test_refuses_missing_views_and_names_the_first():
    pieces = one_piece_per_view()
    pieces = [piece for i, piece in enumerate(pieces) if i not in (7, 13)]

    with pytest.raises(MissingViewsError) as caught:
        ensemble(pieces, views=VIEWS, video_ids=VIDEO_IDS)

    assert str(caught.value) == (
        "2 of 3 videos lack views (first: 'a.mp4', has 5 of 6). Scores were not averaged."
    )


def test_refuses_a_view_that_comes_twice():
    pieces = one_piece_per_view()

    with pytest.raises(MissingViewsError, match=r"1 of 3 videos have a view more than once .*'c d"):
        ensemble([*pieces, pieces[-1]], views=VIEWS, video_ids=VIDEO_IDS)


def test_refuses_a_view_that_comes_twice_within_one_piece():
    twice = np.array([[0, 0], [0, 0]])
    probs = np.full((2, 2), 0.5, dtype=np.float32)

    with pytest.raises(MissingViewsError, match=r"'a', has one 2 times"):
        ensemble([ViewScores("a", 0, twice, probs)], views=twice[:1], video_ids=["a"])


@pytest.mark.parametrize(
    ("video_id", "view"),
    [("elsewhere.mp4", [0, 0]), ("b.mp4", [2, 0])],
    ids=["a video that is not listed", "a clip that was not asked for"],
)
def test_refuses_strangers(video_id, view):
    stranger = ViewScores(video_id, 0, np.array([view]), np.full((1, 7), 1 / 7, dtype=np.float32))

    with pytest.raises(MissingViewsError, match=f"1 scored videos are not .*{video_id}"):
        ensemble([*one_piece_per_view(), stranger], views=VIEWS, video_ids=VIDEO_IDS)


def test_refuses_probabilities_that_are_not_numbers():
    pieces = one_piece_per_view()
    pieces[9].probs[0, 3] = np.nan

    with pytest.raises(UserError, match=r"1 of 3 videos .* not numbers .*'a\.mp4'"):
        ensemble(pieces, views=VIEWS, video_ids=VIDEO_IDS)


def test_refuses_an_unknown_method_and_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'sun'.* Did you mean 'sum'"):
        ensemble([], views=VIEWS, video_ids=VIDEO_IDS, method="sun")


def test_of_no_videos_there_are_no_scores():
    scores = ensemble([], views=VIEWS, video_ids=())

    assert scores.video_ids == ()
    assert scores.probs.shape == (0, 0)
