"""Items: one video with all its views, and what happens when it cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crops import eval_views
from PIL import Image
from torch.utils.data import DataLoader
from videos import REAL_VIDEOS, picture, sequential_frames, write_video

from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.lists.catalog import open_list
from slowfast_mvit.data.loading import items
from slowfast_mvit.data.loading.items import (
    EvalVideos,
    ItemKey,
    TrainVideos,
    batch_shape,
    read_batch,
)
from slowfast_mvit.data.views.sampling import eval_indices
from slowfast_mvit.data.views.train_views import TrainTransform
from slowfast_mvit.errors import DecodeError
from slowfast_mvit.structures import ClipSpec, ViewPlan

CLIP = ClipSpec(num_frames=4, sampling_rate=4, offset_sampling=True)
PLAN = ViewPlan(num_clips=2, num_crops=3, scale_px=32, crop_px=24)
TRANSFORM = TrainTransform(
    crop_px=24, scales_px=(24, 32), area_range=(0.3, 1.0), aspect_range=(0.75, 1.3333)
)


@pytest.fixture
def folder(tmp_path):
    """Three good videos of different lengths, a broken one and a missing one."""
    for number, num_frames in enumerate((30, 20, 1)):
        write_video(tmp_path / f"good_{number}.mp4", num_frames, options={"g": "8"})
    (tmp_path / "broken.mp4").write_bytes(b"this is not a video")
    return tmp_path


def videos(folder, *names):
    return VideoList(names, range(len(names)), folder=folder, source="list.csv")


def train(folder, *names, **settings):
    settings = {"transform": TRANSFORM, "num_views": 2, "seed": 3, **settings}
    return TrainVideos(videos(folder, *names), CLIP, **settings)


def test_a_test_item_holds_every_crop_of_every_clip(folder):
    item = EvalVideos(videos(folder, "good_0.mp4"), CLIP, PLAN)[ItemKey(0, 0, 0)]

    frames = torch.stack(sequential_frames(folder / "good_0.mp4"))
    clips = [frames[indices] for indices in eval_indices(CLIP, 30, 30.0, num_clips=2)]
    assert torch.equal(item.pixels, torch.cat([eval_views(clip, PLAN) for clip in clips]))
    assert item.pixels.shape == (PLAN.num_views, 3, 4, 24, 24)
    assert item.record.video_id == "good_0.mp4"


def test_a_test_video_is_opened_and_decoded_once(folder, monkeypatch):
    calls = []
    open_reader = items.open_reader

    class Counting:
        def __init__(self, reader):
            self.reader = reader
            self.num_frames, self.fps, self.times_s = reader.num_frames, reader.fps, reader.times_s

        def frames(self, indices):
            calls.append(list(indices))
            return self.reader.frames(indices)

    class Opening:
        def __init__(self, path, backend):
            calls.append("open")
            self.opened = open_reader(path, backend)

        def __enter__(self):
            return Counting(self.opened.__enter__())

        def __exit__(self, *error):
            return self.opened.__exit__(*error)

    monkeypatch.setattr(items, "open_reader", Opening)

    EvalVideos(videos(folder, "good_0.mp4"), CLIP, PLAN)[ItemKey(0, 0, 0)]

    assert calls[0] == "open" and len(calls) == 2
    assert calls[1] == sorted(set(calls[1]))  # each frame once


def test_training_views_share_a_clip_and_differ_in_their_draws(folder):
    seen = []

    class Watch:
        crop_px = 24

        def __call__(self, frames, rng, out=None):
            seen.append((frames, rng.random()))
            return out.zero_()

    item = train(folder, "good_0.mp4", transform=Watch())[ItemKey(0, 0, 0)]

    (first, first_draw), (second, second_draw) = seen
    assert item.pixels.shape == (2, 3, 4, 24, 24)
    assert torch.equal(first, second)
    assert first_draw != second_draw


def test_a_training_item_depends_on_its_place_and_on_nothing_else(folder):
    dataset = train(folder, "good_0.mp4", "good_1.mp4")
    key = ItemKey(epoch=2, position=7, index=1)

    before = dataset[key].pixels
    dataset[ItemKey(0, 0, 0)]
    after = dataset[key].pixels

    assert torch.equal(before, after)
    for other in (ItemKey(3, 7, 1), ItemKey(2, 8, 1)):
        assert not torch.equal(before, dataset[other].pixels)
    assert not torch.equal(before, train(folder, "good_1.mp4", seed=4)[ItemKey(2, 7, 0)].pixels)


def test_an_unreadable_training_video_is_replaced_by_the_same_one_each_time(folder):
    dataset = train(folder, "broken.mp4", "good_0.mp4", "good_1.mp4", "good_2.mp4")
    keys = [ItemKey(0, position, 0) for position in range(8)]

    items = [dataset[key] for key in keys]
    again = [dataset[key] for key in keys]

    assert {item.record.video_id for item in items} == {"good_0.mp4", "good_1.mp4", "good_2.mp4"}
    for item, same in zip(items, again, strict=True):
        assert item.record == same.record and torch.equal(item.pixels, same.pixels)
        assert item.record.label > 0  # the label is that of the video seen
        assert {failure.video_id for failure in item.failures} == {"broken.mp4"}
        assert str(folder / "broken.mp4") in item.failures[0].message


def test_a_readable_video_is_found_among_many_that_are_not(folder):
    dataset = train(folder, *["missing.mp4"] * 9, "good_0.mp4")

    items = [dataset[ItemKey(0, position, 0)] for position in range(40)]

    assert {item.record.video_id for item in items} == {"good_0.mp4"}
    assert max(len(item.failures) for item in items) > 10


def test_training_stops_when_nothing_can_be_read(folder):
    dataset = train(folder, "broken.mp4", "missing.mp4")

    with pytest.raises(DecodeError, match="in a row, with 2 different videos") as caught:
        dataset[ItemKey(0, 0, 0)]

    assert {failure.video_id for failure in caught.value.failures} == {"broken.mp4", "missing.mp4"}
    assert "broken.mp4: the reader 'pyav' cannot read it" in str(caught.value)


def test_a_batch_is_written_into_the_tensor_it_is_given(folder):
    dataset = train(folder, "good_0.mp4", "broken.mp4", "good_1.mp4")
    keys = [ItemKey(0, position, position) for position in range(3)]
    out = torch.zeros(batch_shape(dataset, keys), dtype=torch.uint8)

    batch = read_batch(dataset, keys, out)

    assert batch.pixels.data_ptr() == out.data_ptr() and batch.pixels.shape == out.shape
    for pixels, key in zip(out, keys, strict=True):
        assert torch.equal(pixels, dataset[key].pixels)
    assert [failure.video_id for failure in batch.failures] == ["broken.mp4"]


def test_videos_that_fail_leave_no_gap_in_a_test_batch(folder):
    dataset = EvalVideos(videos(folder, "good_0.mp4", "broken.mp4", "good_1.mp4"), CLIP, PLAN)
    keys = [ItemKey(0, position, position) for position in range(3)]

    batch = read_batch(dataset, keys)

    assert batch.video_ids == ("good_0.mp4", "good_1.mp4")
    for pixels, key in zip(batch.pixels, (keys[0], keys[2]), strict=True):
        assert torch.equal(pixels, dataset[key].pixels)


def test_torchs_own_loader_takes_the_data_set_as_it_is(folder):
    dataset = train(folder, "good_0.mp4", "good_1.mp4")
    keys = [ItemKey(0, position, position) for position in range(2)]

    (batch,) = DataLoader(
        dataset, batch_sampler=[keys], collate_fn=lambda batch: batch, generator=torch.Generator()
    )

    assert torch.equal(batch.pixels, read_batch(dataset, keys).pixels)
    assert batch.video_ids == ("good_0.mp4", "good_1.mp4")


def test_an_unreadable_test_video_is_a_failure_and_not_replaced(folder):
    dataset = EvalVideos(videos(folder, "good_0.mp4", "missing.mp4"), CLIP, PLAN)

    item = dataset[ItemKey(0, 1, 1)]

    assert item.record is None and item.pixels is None
    (failure,) = item.failures
    assert (failure.video_id, failure.path) == ("missing.mp4", str(folder / "missing.mp4"))
    assert "No such file" in failure.reason


@pytest.mark.parametrize("policy", ["interval", "segments"])
def test_videos_of_one_frame_and_images_work(folder, policy):
    Image.fromarray(picture(0)).save(folder / "image.png")
    (folder / "frames").mkdir()
    Image.fromarray(picture(1)).save(folder / "frames" / "1.png")
    clip = ClipSpec(num_frames=4, sampling_rate=4, policy=policy)
    names = ("good_2.mp4", "image.png", "frames")

    tested = EvalVideos(videos(folder, *names), clip, PLAN)
    trained = TrainVideos(videos(folder, *names), clip, transform=TRANSFORM)

    for index in range(len(names)):
        item = tested[ItemKey(0, index, index)]
        assert item.failures == ()
        assert torch.equal(item.pixels, item.pixels[:, :, :1].expand_as(item.pixels))
        assert trained[ItemKey(0, index, index)].pixels.shape == (1, 3, 4, 24, 24)


def test_single_images_are_clips_of_one_frame(folder):
    Image.fromarray(picture(0)).save(folder / "image.png")
    clip = ClipSpec(num_frames=1, sampling_rate=1)
    plan = ViewPlan(num_clips=1, num_crops=1, scale_px=48, crop_px=48)

    item = EvalVideos(videos(folder, "image.png"), clip, plan)[ItemKey(0, 0, 0)]

    expected = picture(0)[:, 8:56].transpose(2, 0, 1)
    assert np.array_equal(item.pixels[0, :, 0].numpy(), expected)


@pytest.mark.skipif(
    not (REAL_VIDEOS / "edge_cases/good").is_dir(), reason="the real clips are not on this machine"
)
@pytest.mark.parametrize("policy", ["interval", "segments"])
def test_odd_real_files_go_through_a_list_and_a_test(tmp_path, policy):
    files = sorted((REAL_VIDEOS / "edge_cases/good").iterdir())
    (tmp_path / "val.csv").write_text("".join(f"{file.name}\t0\n" for file in files))
    listed = open_list("kinetics", "test", data_dir=tmp_path, path_prefix=str(files[0].parent))
    clip = ClipSpec(num_frames=4, sampling_rate=4, policy=policy)

    tested = EvalVideos(listed, clip, PLAN)
    items = [tested[ItemKey(0, index, index)] for index in range(len(files))]

    assert [item.failures for item in items] == [()] * len(files)
    assert [item.record.video_id for item in items] == [file.name for file in files]
