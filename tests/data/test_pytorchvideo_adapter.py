"""Clip samplers and data sets of pytorchvideo, against pytorchvideo's own reading of the files."""

from __future__ import annotations

import random
import re
import runpy
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, SequentialSampler
from videos import sequential_frames, write_video

from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.loading.items import EvalVideos, ItemKey
from slowfast_mvit.data.loading.pytorchvideo_adapter import (
    clip_batch,
    labeled_video_dataset,
    read_sampled_clips,
    spread_frames,
)
from slowfast_mvit.data.views.eval_views import scaled_planes
from slowfast_mvit.errors import ConfigError, DecodeError
from slowfast_mvit.structures import ClipSpec, VideoRecord, ViewPlan

ptv = pytest.importorskip("pytorchvideo.data", reason="pytorchvideo is not installed")

HALF_A_SECOND = Fraction(1, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", 60, options={"g": "12"})
    write_video(folder / "b.mp4", 45, options={"g": "12"})
    (folder / "broken.mp4").write_bytes(b"this is not a video")
    return folder


def videos(folder, *names):
    return VideoList(names, range(5, 5 + len(names)), folder=folder, source="list.csv")


def subsample(item, num_frames=8):
    """pytorchvideo's UniformTemporalSubsample, which does not import here."""
    frames = item["video"]  # (3, any number, H, W)
    steps = torch.linspace(0, frames.shape[1] - 1, num_frames).clamp(0, frames.shape[1] - 1)
    return {**item, "video": frames[:, steps.long()]}


SAMPLERS = {
    "uniform": ("uniform", HALF_A_SECOND),
    "overlapping": ("uniform", HALF_A_SECOND, Fraction(1, 3), True),
    "random": ("random", HALF_A_SECOND),
    "constant": ("constant_clips_per_video", HALF_A_SECOND, 3),
    "constant, two augmentations": ("constant_clips_per_video", HALF_A_SECOND, 2, 2),
    "several random": ("random_multi", HALF_A_SECOND, 3),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_data_set_gives_the_items_that_pytorchvideo_gives(folder, name):
    listed = videos(folder, "a.mp4", "b.mp4")
    paths = [(video.path, {"label": video.label}) for video in listed]
    several = name == "several random"
    random.seed(0)
    theirs = ptv.LabeledVideoDataset(
        paths,
        ptv.make_clip_sampler(*SAMPLERS[name]),
        SequentialSampler,
        None if several else subsample,
        decode_audio=False,
    )
    expected = list(theirs)
    random.seed(0)

    ours = labeled_video_dataset(
        listed,
        ptv.make_clip_sampler(*SAMPLERS[name]),
        num_frames=8,
        video_sampler=SequentialSampler,
    )
    items = list(ours)

    assert len(items) == len(expected) > 1
    for item, wanted in zip(items, expected, strict=True):
        for key in ("video_name", "video_index", "clip_index", "aug_index", "label"):
            assert item[key] == wanted[key]
        if several:
            wanted = {"video": [subsample({"video": part})["video"] for part in wanted["video"]]}
            assert all(map(torch.equal, map(torch.Tensor.float, item["video"]), wanted["video"]))
        else:
            assert item["video"].dtype == torch.uint8
            assert torch.equal(item["video"].float(), wanted["video"])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_clip_sampler_chooses_clips_for_our_readers(folder, name):
    frames = torch.stack(sequential_frames(folder / "a.mp4"))
    record = VideoRecord("a", str(folder / "a.mp4"), 0)
    random.seed(1)

    clips = read_sampled_clips(record, ptv.make_clip_sampler(*SAMPLERS[name]), num_frames=8)

    num_clips = {"uniform": 4, "overlapping": 6, "random": 1, "constant": 3}.get(name, len(clips))
    assert len(clips) == num_clips
    for clip in clips:
        numbers = (clip.times_s * 30).round().long()
        assert torch.equal(clip.frames, frames[numbers])
        assert 0 <= numbers[-1] - numbers[0] <= 15 and (numbers.diff() > 0).all()
    if name == "uniform":
        starts = [clip.times_s[0].item() for clip in clips]
        assert starts == pytest.approx([0.0, 0.5, 1.0, 1.5])


def test_frames_are_those_shown_within_the_clip():
    times_s = np.arange(60) / 30

    assert spread_frames(times_s, 1, 1.5, 15) == list(range(30, 45))
    assert spread_frames(times_s, 1, 1.5, 4) == [30, 34, 39, 44]
    assert spread_frames(times_s, 1.95, 3, 4) == [59, 59, 59, 59]
    assert spread_frames(times_s, 2.5, 3, 4) == []


def test_an_unreadable_video_is_named_and_passed_over(folder, caplog):
    dataset = labeled_video_dataset(
        videos(folder, "a.mp4", "broken.mp4", "b.mp4"),
        ptv.make_clip_sampler("constant_clips_per_video", HALF_A_SECOND, 1),
        num_frames=4,
        video_sampler=SequentialSampler,
    )

    items = list(dataset)

    assert [item["label"] for item in items] == [5, 7]
    assert "broken.mp4: the reader 'pyav'" in caplog.text


def test_a_sampler_that_cuts_behind_the_end_is_told_so(folder):
    record = VideoRecord("a", str(folder / "a.mp4"), 0)

    class BehindTheEnd(ptv.ClipSampler):
        def __call__(self, last_s, duration_s, annotation):
            return duration_s + 1, duration_s + 2, 0, 0, True

    with pytest.raises(DecodeError, match="shows nothing at the times of a sampled clip"):
        read_sampled_clips(record, BehindTheEnd(1), num_frames=4)


def test_items_become_the_batches_that_our_data_sets_give(folder):
    listed = videos(folder, "a.mp4", "b.mp4")
    plan = ViewPlan(num_clips=1, num_crops=1, scale_px=32, crop_px=24)
    spec = ClipSpec(
        num_frames=5, sampling_rate=3, offset_sampling=False
    )  # 15 frames from the first

    def centre_crop(item):
        frames = item["video"].permute(1, 2, 3, 0)  # (T, H, W, 3)
        return {**item, "video": scaled_planes(frames, plan)[0]}

    dataset = labeled_video_dataset(
        listed,
        ptv.make_clip_sampler("constant_clips_per_video", HALF_A_SECOND, 1),
        num_frames=5,
        transform=centre_crop,
        video_sampler=SequentialSampler,
    )
    (batch,) = DataLoader(dataset, batch_size=2, collate_fn=clip_batch)

    ours = EvalVideos(listed, spec, plan)
    expected = torch.stack([ours[ItemKey(0, index, index)].pixels for index in range(2)])
    assert batch.video_ids == ("a.mp4", "b.mp4")
    assert batch.labels.tolist() == [5, 6]
    assert torch.equal(batch.pixels, expected)


def test_the_clips_of_a_multi_clip_item_are_views():
    clips = torch.arange(6, dtype=torch.uint8).view(3, 2, 1, 1, 1, 1).expand(-1, -1, 3, 4, 8, 8)
    items = [
        {"video": list(its), "label": 2, "video_name": f"{n}.mp4"} for n, its in enumerate(clips)
    ]

    batch = clip_batch(items)

    assert torch.equal(batch.pixels, clips)
    assert batch.views.tolist() == [[0, 0], [1, 0]]


def test_float_pixels_are_taken_and_normalised_ones_refused():
    pixels = torch.arange(48.0).view(3, 1, 4, 4)

    batch = clip_batch([{"video": pixels, "label": 3, "video_index": 9}])

    assert torch.equal(batch.pixels[0, 0].float(), pixels)
    assert batch.video_ids == ("9",)
    with pytest.raises(ConfigError, match="whole numbers from 0 to 255"):
        clip_batch([{"video": pixels / 255, "label": 3, "video_index": 9}])


def test_the_example_in_the_documentation_runs(folder, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (example,) = re.findall(r"```python\n(from pytorchvideo.*?)```", text, re.DOTALL)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "val.csv").write_text(f"{folder}/a.mp4 0\n{folder}/b.mp4 1\n")
    monkeypatch.chdir(tmp_path)

    (tmp_path / "example.py").write_text(example)
    names = runpy.run_path(str(tmp_path / "example.py"))

    assert names["inputs"].shape[1:] == (3, 16, 224, 224)
    assert names["batch"].pixels.dtype == torch.uint8
