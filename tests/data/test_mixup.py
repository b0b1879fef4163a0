"""Mixup and CutMix against PySlowFast's own numbers (tests/reference)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from slowfast_mvit.data.views import batch_augmentation
from slowfast_mvit.data.views.batch_augmentation import mix, smooth

REFERENCE = Path(__file__).parents[1] / "reference" / "sampling_and_schedules.json"
GOLDEN = json.loads(REFERENCE.read_text())["mixup_numpy_seeded"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"seed {case['seed']}")
def test_mixes_as_pyslowfast_does_under_the_same_draws(case):
    clips = torch.arange(128.0).view(4, 1, 2, 4, 4)
    draws = np.random.RandomState(case["seed"])

    mixed, targets = mix(clips, torch.arange(4), draws, num_classes=5)

    torch.testing.assert_close(mixed.flatten(), torch.tensor(case["x"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(targets, torch.tensor(case["target"]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [(7, 5), (1, 1), (8, 8)])
def test_targets_are_the_shares_of_the_pixels(seed, size):
    clips = torch.stack([torch.zeros(3, 2, *size), torch.ones(3, 2, *size)])

    mixed, targets = mix(
        clips, torch.tensor([0, 1]), np.random.default_rng(seed), num_classes=2, label_smoothing=0
    )

    share_of_1 = mixed.mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(targets[:, 1], share_of_1, rtol=0, atol=1e-5)
    torch.testing.assert_close(targets.sum(1), torch.ones(2))
    assert torch.equal(clips[1], torch.ones_like(clips[1]))  # the clips given are untouched


def test_without_mixing_labels_are_only_smoothed():
    clips = torch.rand(3, 3, 1, 4, 4)

    mixed, targets = mix(
        clips, torch.tensor([0, 1, 1]), np.random.default_rng(0), num_classes=4, prob=0.0
    )

    assert mixed is clips
    assert targets[0].tolist() == pytest.approx([0.925, 0.025, 0.025, 0.025])
    assert torch.equal(targets, smooth(torch.tensor([0, 1, 1]), 4, 0.1))


@pytest.mark.parametrize(("alpha", "cutmix_alpha"), [(0.8, 0.0), (0.0, 1.0)])
def test_either_can_be_switched_off(alpha, cutmix_alpha):
    clips = torch.stack([torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8)])

    mixed, _ = mix(
        clips,
        torch.tensor([0, 1]),
        np.random.default_rng(1),
        num_classes=2,
        alpha=alpha,
        cutmix_alpha=cutmix_alpha,
    )

    whole = ((mixed == 0) | (mixed == 1)).all()
    assert bool(whole) == (cutmix_alpha > 0)


def test_both_switched_off_leaves_the_clips_alone():
    clips = torch.rand(2, 3, 1, 4, 4)

    mixed, _ = mix(
        clips,
        torch.tensor([0, 1]),
        np.random.default_rng(1),
        num_classes=2,
        alpha=0.0,
        cutmix_alpha=0.0,
    )

    assert mixed is clips


def test_a_lone_clip_is_kept_and_one_warning_given(caplog):
    batch_augmentation._warn_of_lone_clip.cache_clear()
    clips = torch.rand(1, 3, 1, 4, 4)

    for seed in range(5):
        mixed, targets = mix(clips, torch.tensor([2]), np.random.default_rng(seed), num_classes=4)

        assert mixed is clips
        assert torch.equal(targets, smooth(torch.tensor([2]), 4, 0.1))
    assert len(caplog.records) == 1
