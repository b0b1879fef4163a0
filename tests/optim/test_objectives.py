"""Losses against their formula, and the accuracy of mixed samples by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from slowfast_mvit.optim.objectives import LOSSES, Recognition, cross_entropy, one_label_each
from slowfast_mvit.structures import ClipBatch

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])


def test_soft_targets_give_the_formula_of_pyslowfast():
    targets = torch.tensor([[0.7, 0.2, 0.2], [0.0, 0.5, 0.5]])  # the first sums to 1.1: kept

    loss = LOSSES["soft_cross_entropy"](LOGITS, targets)

    expected = -(targets * LOGITS.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_class_indices_give_the_same_as_their_one_hot_shares():
    labels = torch.tensor([2, 1])

    loss = cross_entropy(LOGITS, labels)

    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    torch.testing.assert_close(loss, cross_entropy(LOGITS, one_hot))


@pytest.mark.parametrize(
    ("logits_dtype", "loss_dtype"),
    [(torch.bfloat16, torch.float32), (torch.float32,) * 2, (torch.float64,) * 2],
)
def test_the_loss_has_float32_precision_at_least(logits_dtype, loss_dtype):
    loss = cross_entropy(LOGITS.to(logits_dtype), torch.tensor([2, 1]))

    assert loss.dtype == loss_dtype


def test_recognition_prepares_with_the_generator_it_is_given():
    batch = ClipBatch(
        pixels=torch.zeros(2, 1, 3, 1, 4, 4, dtype=torch.uint8),
        labels=torch.tensor([0, 1]),
        video_ids=("a", "b"),
        views=torch.zeros(1, 2, dtype=torch.int64),
    )
    model = nn.Linear(1, 3)

    def prepare(batch, rng):
        return torch.full((2, 1), rng.random(), dtype=torch.float32), batch.labels

    outcome = Recognition(prepare, cross_entropy)(model, batch, np.random.default_rng(5))

    expected = model(torch.full((2, 1), np.random.default_rng(5).random(), dtype=torch.float32))
    assert torch.equal(outcome.logits, expected)
    assert not outcome.logits.requires_grad
    assert torch.equal(outcome.targets, batch.labels)
    outcome.loss.backward()
    assert model.weight.grad is not None


def test_a_mixed_sample_counts_as_its_larger_class():
    logits = torch.tensor([[1.0, 5.0, 2.0, 3.0]])
    targets = torch.tensor([[0.6, 0.3, 0.05, 0.05]])

    merged, labels = one_label_each(logits, targets)

    assert merged.tolist() == [[6.0, 0.0, 2.0, 3.0]]
    assert labels.tolist() == [0]


def test_a_smoothed_but_unmixed_sample_keeps_its_logits():
    logits = torch.tensor([[1.0, 5.0, 2.0]])
    targets = torch.tensor([[0.9, 0.05, 0.05]])

    merged, labels = one_label_each(logits, targets)

    assert torch.equal(merged, logits)
    assert labels.tolist() == [0]


@pytest.mark.parametrize("num_classes", [1, 2])
def test_one_or_two_classes_are_no_trouble(num_classes):
    logits = torch.ones(1, num_classes)
    targets = torch.full((1, num_classes), 1 / num_classes)

    merged, _ = one_label_each(logits, targets)

    assert merged.shape == logits.shape
