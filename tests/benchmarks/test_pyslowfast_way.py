"""The PySlowFast way of the benchmark does the same work as ours: no man of straw."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from crops import eval_views

from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.data.views.sampling import eval_indices, train_indices
from slowfast_mvit.data.views.train_views import TrainTransform
from slowfast_mvit.randomness import generator
from slowfast_mvit.structures import ClipSpec, ViewPlan

pytest.importorskip("timm", reason="its operations on PIL images are the reference")

from benchmarks import pyslowfast_way, videos
from benchmarks.videos import write_video

CLIP = ClipSpec(num_frames=4, sampling_rate=3)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "video.mp4"
    write_video(path, videos.scenes(0, 60, 72, 96), Fraction(30), {"crf": "18"})
    return path


def as_levels(clip: torch.Tensor) -> torch.Tensor:
    """A normalised clip (3, T, S, S) on the scale from 0 to 255."""
    mean, std = (values.view(3, 1, 1, 1) for values in (pyslowfast_way.MEAN, pyslowfast_way.STD))
    return 255 * (clip * std + mean)


def test_it_reads_the_frames_of_the_window(video):
    with open_reader(video) as reader:
        indices = train_indices(CLIP, reader.num_frames, reader.fps, generator(1, 0, 0, 0))
        expected = reader.frames(indices)

    frames = pyslowfast_way.read_clip(video, indices)

    assert torch.equal(frames, expected)


@pytest.mark.parametrize("position", range(12))
def test_its_training_view_is_ours_in_the_exact_order(video, position):
    with open_reader(video) as reader:
        frames = reader.frames([3, 5, 20, 31])
    ours = TrainTransform(
        crop_px=64,
        scales_px=(64, 80),
        area_range=(0.08, 1.0),
        aspect_range=(0.75, 1.3333),
        randaugment="rand-m7-n4-mstd0.5-inc1",
    )

    expected = ours(frames, generator(1, 0, position, 0)).float()
    view = pyslowfast_way.train_view(frames, 64, generator(1, 0, position, 0), erase_prob=0.0)

    # Ours rounds to whole levels, and by timm's arithmetic for bicubic weights within one of them.
    difference = (as_levels(view) - expected).abs()
    assert difference.mean() < 0.6
    assert difference.max() < 4


def test_its_test_views_are_ours(video):
    plan = ViewPlan(num_clips=2, num_crops=1, scale_px=64, crop_px=64)
    with open_reader(video) as reader:
        clips = eval_indices(CLIP, reader.num_frames, reader.fps, plan.num_clips)
        expected = torch.cat([eval_views(reader.frames(indices), plan) for indices in clips])

    views = [pyslowfast_way.test_view(video, indices, short_px=64, side=64) for indices in clips]

    levels = torch.stack([as_levels(view) for view in views])
    assert (levels - expected.float()).abs().max() < 1.01  # ours rounds
