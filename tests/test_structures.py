"""The records refuse what does not fit, and print shapes instead of values."""

import numpy as np
import pytest
import torch

from slowfast_mvit.errors import MissingViewsError
from slowfast_mvit.structures import ClipBatch, ClipSpec, EvalResult, VideoScores, ViewPlan


def test_views_run_over_crops_first():
    plan = ViewPlan(num_clips=2, num_crops=3, scale_px=224, crop_px=224)

    assert plan.num_views == 6
    assert plan.views().tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert str(plan) == "2 clips x 3 crops"


@pytest.mark.parametrize(
    "change", [{"num_clips": 0}, {"num_crops": 2}, {"crop_px": 300}, {"crop_px": 0}]
)
def test_an_impossible_view_plan_is_refused(change):
    plan = {"num_clips": 1, "num_crops": 1, "scale_px": 256, "crop_px": 224} | change

    with pytest.raises(ValueError, match=next(iter(change))):
        ViewPlan(**plan)


def test_segments_do_not_speak_of_a_sampling_rate():
    assert str(ClipSpec(16, 4)) == "16 x 4 at 30 fps"
    assert "whole video" in str(ClipSpec(16, 4, policy="segments"))


def batch(**change):
    return ClipBatch(
        **{
            "pixels": torch.zeros(2, 1, 3, 4, 8, 8, dtype=torch.uint8),
            "labels": torch.zeros(2, dtype=torch.int64),
            "video_ids": ("a", "b"),
            "views": torch.zeros(1, 2, dtype=torch.int64),
        }
        | change
    )


def test_a_batch_prints_shapes():
    assert "pixels=uint8[2, 1, 3, 4, 8, 8]" in repr(batch())


@pytest.mark.parametrize(
    "change",
    [
        {"pixels": torch.zeros(2, 1, 3, 4, 8, 8)},  # not uint8
        {"pixels": torch.zeros(2, 1, 3, 4, 8, 9, dtype=torch.uint8)},  # not square
        {"pixels": torch.zeros(2, 1, 1, 4, 8, 8, dtype=torch.uint8)},  # not three channels
        {"labels": torch.zeros(3, dtype=torch.int64)},
        {"video_ids": ("a",)},
        {"views": torch.zeros(3, 2, dtype=torch.int64)},
    ],
)
def test_a_batch_whose_parts_do_not_fit_is_refused(change):
    with pytest.raises(ValueError, match="must be"):
        batch(**change)


def test_an_empty_batch_is_allowed_since_every_video_of_it_may_have_failed():
    empty = batch(
        pixels=torch.zeros(0, 1, 3, 4, 8, 8, dtype=torch.uint8),
        labels=torch.zeros(0, dtype=torch.int64),
        video_ids=(),
    )

    assert len(empty.video_ids) == 0


def test_a_video_scored_twice_is_refused():
    with pytest.raises(MissingViewsError, match="twice"):
        VideoScores(
            video_ids=("a", "a"),
            labels=np.zeros(2, np.int64),
            views=np.zeros((1, 2), np.int64),
            view_probs=np.zeros((2, 1, 3), np.float16),
            probs=np.zeros((2, 3), np.float32),
        )


def test_a_result_that_lost_a_video_is_refused():
    with pytest.raises(MissingViewsError, match=r"9 videos scored and 0 failed, but .* 10"):
        EvalResult({"top1": 50.0, "top5": 90.0}, 9, 0, 10, 6, {}, "")
