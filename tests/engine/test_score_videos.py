"""Scores against one plain forward pass of each view."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_run import CPU, Batches, clip_batch, prepare_views, tiny_net
from torch import nn

from slowfast_mvit.engine.test import score_videos, validate
from slowfast_mvit.errors import UserError, WeightsError
from slowfast_mvit.optim.objectives import cross_entropy
from slowfast_mvit.structures import FailedVideo, ViewScores

LOST = FailedVideo("lost", "/data/lost.mp4", "truncated")


def scores_of(batches, *, forward_batch=64, model=None, **options):
    loader = Batches(batches)
    loader.num_videos += sum(len(batch.failures) for batch in batches)  # none took their places
    return list(
        score_videos(
            model or tiny_net(),
            loader,
            prepare_views,
            device=CPU,
            forward_batch=forward_batch,
            **options,
        )
    )


@pytest.mark.parametrize("forward_batch", [1, 2, 4, 5, 64])
def test_every_view_gets_the_probabilities_of_its_forward_pass(forward_batch):
    batches = [clip_batch("ab", num_views=3, seed=1), clip_batch("c", num_views=3, seed=2)]
    model = tiny_net().eval()

    scores = scores_of(batches, forward_batch=forward_batch)

    assert [score.video_id for score in scores] == ["a", "b", "c"]
    labels = [label for batch in batches for label in batch.labels.tolist()]
    assert [score.label for score in scores] == labels
    views = torch.cat([batch.pixels for batch in batches]).float() / 255
    for score, its_views in zip(scores, views, strict=True):
        expected = torch.cat([model(view[None]).softmax(1) for view in its_views])
        np.testing.assert_allclose(score.probs, expected.detach(), rtol=1e-5)
        assert score.probs.dtype == np.float32
        assert score.views.tolist() == [[0, 0], [1, 0], [2, 0]]


def test_scores_do_not_depend_on_neighbours_or_place():
    first = clip_batch("abcd", num_views=3)
    second = clip_batch("efgh", num_views=3, seed=1)
    only_e = clip_batch("efgh", num_views=3, seed=1, failures=[LOST])
    only_e = type(only_e)(
        only_e.pixels[:1], only_e.labels[:1], ("e",), only_e.views, (LOST, LOST, LOST)
    )

    together = scores_of([first, second], forward_batch=4)[4]
    alone = scores_of([only_e], forward_batch=4)[3]

    assert together.video_id == alone.video_id == "e"
    assert np.array_equal(together.probs, alone.probs)


class Counted(nn.Module):
    """A net that remembers how many views each forward pass had."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_net()
        self.num_rows: list[int] = []

    def forward(self, pixels):
        self.num_rows.append(len(pixels))
        return self.net(pixels)


def test_views_of_several_videos_fill_each_forward_pass():
    batches = [clip_batch("ab", num_views=3), clip_batch("cd", num_views=3, seed=1)]
    model = Counted()

    scores_of(batches, forward_batch=5, model=model)

    assert model.num_rows == [5, 5, 5]  # 12 views, and zeros


def test_a_forward_pass_is_read_when_the_next_one_is_under_way():
    batches = [clip_batch(name, num_views=3) for name in "abc"]
    model = Counted()
    scores = score_videos(model, Batches(batches), prepare_views, device=CPU, forward_batch=3)

    num_passes = [len(model.num_rows) for _ in scores]

    assert num_passes == [2, 3, 3]


def test_views_that_share_a_place_share_a_forward_pass():
    batch = clip_batch("ab", num_views=3)
    shared = replace(
        batch,
        views=torch.tensor([[0, 0], [0, 0], [1, 0], [2, 0], [3, 0]]),
        places=torch.tensor([[0, 0, 1, 2, 1], [0, 0, 0, 0, 0]]),  # all views of b are one image
    )
    model = tiny_net()
    num_rows = []
    model.register_forward_hook(lambda _, inputs, __: num_rows.append(len(inputs[0])))

    a, b = scores_of([batch], model=model, forward_batch=2)
    num_rows.clear()
    shared_a, shared_b = scores_of([shared], model=model, forward_batch=2)

    assert num_rows == [2, 2]
    assert np.array_equal(shared_a.probs, a.probs[[0, 0, 1, 2, 1]])
    assert np.array_equal(shared_b.probs, b.probs[[0, 0, 0, 0, 0]])
    assert shared_a.views.tolist() == [[0, 0], [0, 0], [1, 0], [2, 0], [3, 0]]


def test_a_view_scores_the_same_whichever_other_views_its_video_has():
    many = clip_batch("abcde", num_views=7)
    few = replace(many, pixels=many.pixels[:, [4, 2]], views=many.views[[4, 2]])

    in_many = scores_of([many], forward_batch=4)
    in_few = scores_of([few], forward_batch=4)

    for actual, expected in zip(in_few, in_many, strict=True):
        assert np.array_equal(actual.probs, expected.probs[[4, 2]])


def test_a_failed_video_is_passed_on_and_never_scored():
    nothing_read = clip_batch("", num_views=2, failures=[LOST])

    results = scores_of([clip_batch("a", num_views=2), nothing_read], forward_batch=2)

    assert results[0] == LOST  # as soon as it is met; "a" was still being scored
    assert [type(result) for result in results] == [FailedVideo, ViewScores]


def test_the_model_is_left_in_the_mode_it_was_in():
    model = tiny_net().train()
    modes = []
    model.register_forward_hook(lambda *_: modes.append(model.training))

    scores = score_videos(
        model, Batches([clip_batch("ab")]), prepare_views, device=CPU, forward_batch=1
    )
    next(scores)
    scores.close()

    assert not any(modes)
    assert model.training


def test_gradients_can_be_taken_between_two_scores():
    scores = score_videos(
        tiny_net(), Batches([clip_batch("ab")]), prepare_views, device=CPU, forward_batch=1
    )

    next(scores)

    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_low_precision_gives_nearly_the_same_float32_probabilities():
    batches = [clip_batch("abc", num_views=2)]

    exact, rough = scores_of(batches), scores_of(batches, precision="bf16")

    for a, b in zip(exact, rough, strict=True):
        assert b.probs.dtype == np.float32
        np.testing.assert_allclose(b.probs, a.probs, atol=0.02)
        np.testing.assert_allclose(b.probs.sum(1), 1.0, atol=1e-6)


def test_scores_that_are_not_finite_are_refused():
    model = tiny_net()
    nn.init.constant_(model.head.bias, float("nan"))

    with pytest.raises(WeightsError, match="a: the model's scores are not finite"):
        scores_of([clip_batch("ab")], model=model)


def test_scoring_and_validating_draw_nothing_at_random():
    model = tiny_net()
    before = torch.get_rng_state()

    scores_of([clip_batch("ab")], model=model)
    validate(
        model,
        Batches([clip_batch("ab")]),
        prepare_views,
        cross_entropy,
        device=CPU,
        forward_batch=4,
    )

    assert torch.equal(torch.get_rng_state(), before)


def test_validation_measures_every_video_once():
    batches = [clip_batch("abcd", seed=1), clip_batch("ef", seed=2, failures=[LOST])]
    model = tiny_net().eval()
    logits = torch.cat([model(prepare_views(batch)) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])

    measured = validate(
        model, Batches(batches), prepare_views, cross_entropy, device=CPU, forward_batch=4
    )

    wrong = (logits.argmax(1) != labels).float().mean().item()
    assert measured["top1_err"] == pytest.approx(100 * wrong)
    assert measured["top5_err"] == 0.0  # there are 4 classes
    assert measured["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert (measured["num_videos"], measured["num_failed"]) == (6, 1)


def test_validation_logs_the_failed_videos(caplog):
    batches = [clip_batch("ab", failures=[LOST])]

    validate(
        tiny_net(), Batches(batches), prepare_views, cross_entropy, device=CPU, forward_batch=4
    )

    assert "1 of 3 videos to validate on could not be read" in caplog.text
    assert "/data/lost.mp4: truncated" in caplog.text


def test_validation_without_a_readable_video_is_an_error():
    nothing_read = clip_batch("", failures=[LOST])

    with pytest.raises(UserError, match="1 of 1 videos"):
        validate(
            tiny_net(),
            Batches([nothing_read]),
            prepare_views,
            cross_entropy,
            device=CPU,
            forward_batch=4,
        )
