"""Views of several tests from one pass, against tests of one number of clips each."""

from __future__ import annotations

import contextlib

import av
import numpy as np
import pytest
import torch
from crops import eval_views
from videos import REAL_VIDEOS, sequential_frames, write_video

from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.loading import items
from slowfast_mvit.data.loading.items import EvalVideos, ItemKey, read_views
from slowfast_mvit.data.loading.loader import eval_loader
from slowfast_mvit.data.loading.worker_pool import WorkerSettings
from slowfast_mvit.data.views.sampling import at_even_rate, eval_indices
from slowfast_mvit.structures import ClipSpec, VideoRecord, ViewPlan

CLIP = ClipSpec(num_frames=4, sampling_rate=4, offset_sampling=True)
OLD_COUNTS = (1, 3, 5, 7, 10)  # of NUM_ENSEMBLE_VIEWS -1


def plans_of(counts, num_crops=1, scale_px=32):
    return [ViewPlan(count, num_crops, scale_px=scale_px, crop_px=24) for count in counts]


def record_of(path):
    return VideoRecord(path.name, str(path), 0)


def views_of_sequential_frames(path, clip, plan, fps):
    """The reference: every frame decoded in turn, each view cut by itself."""
    frames = torch.stack(sequential_frames(path))
    clips = eval_indices(clip, len(frames), fps, plan.num_clips)
    return torch.cat([eval_views(frames[indices], plan) for indices in clips])


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    return write_video(path, 90, options={"g": "12"})


@pytest.mark.parametrize("num_crops", [1, 3])
@pytest.mark.parametrize("counts", [(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), OLD_COUNTS, (5, 1)])
def test_each_plan_gets_the_views_that_it_gets_alone(video, counts, num_crops):
    plans = plans_of(counts, num_crops)

    pixels, places = read_views(record_of(video), CLIP, *plans)

    views_of_each = pixels[places].split([plan.num_views for plan in plans])
    for plan, views in zip(plans, views_of_each, strict=True):
        alone, its_places = read_views(record_of(video), CLIP, plan)
        assert torch.equal(views, alone[its_places])
        assert torch.equal(views, views_of_sequential_frames(video, CLIP, plan, 30.0))


def test_a_clip_that_two_plans_share_is_there_once(video):
    pixels, places = read_views(record_of(video), CLIP, *plans_of((1, 3, 5)))

    starts = [37, 0, 37, 74, 0, 18, 36, 54, 72]  # of 90 - 16 frames, steps rounded down
    assert len(pixels) == 7 == len(set(starts))
    assert places.tolist() == [list(dict.fromkeys(starts)).index(start) for start in starts]


def test_several_plans_open_and_decode_a_video_once(video, monkeypatch):
    asked, open_reader = [], items.open_reader

    class Asking:
        def __init__(self, path, backend):
            asked.append("open")
            self.opened = open_reader(path, backend)

        def __enter__(self):
            reader = self.opened.__enter__()
            frames = reader.frames
            reader.frames = lambda indices: asked.append(list(indices)) or frames(indices)
            return reader

        def __exit__(self, *error):
            return self.opened.__exit__(*error)

    monkeypatch.setattr(items, "open_reader", Asking)

    read_views(record_of(video), CLIP, *plans_of(OLD_COUNTS))

    first, indices = asked
    assert first == "open" and indices == sorted(set(indices))


def test_the_three_crops_of_a_square_picture_are_one(tmp_path):
    square = write_video(tmp_path / "square.mp4", 40, size=(48, 48))
    (plan,) = plans_of([2], num_crops=3, scale_px=24)

    pixels, places = read_views(record_of(square), CLIP, plan)

    assert len(pixels) == 2
    assert places.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(pixels[places], views_of_sequential_frames(square, CLIP, plan, 30.0))


@pytest.mark.parametrize("size", [(48, 64), (64, 48)], ids=["wide", "tall"])
def test_three_crops_of_another_picture_differ(tmp_path, size):
    path = write_video(tmp_path / "a.mp4", 40, size=size)

    pixels, places = read_views(record_of(path), CLIP, *plans_of([2], num_crops=3))

    assert len(pixels) == 6 and places.tolist() == list(range(6))


def test_the_clips_of_a_short_video_are_one(tmp_path):
    short = write_video(tmp_path / "short.mp4", 7)

    pixels, places = read_views(record_of(short), CLIP, *plans_of(OLD_COUNTS))

    assert len(pixels) == 1
    assert places.tolist() == [0] * 26


def test_what_is_not_needed_of_the_room_given_is_left_alone(video):
    plans = plans_of((1, 3))
    room = torch.full((4, 3, 4, 24, 24), 7, dtype=torch.uint8)

    pixels, places = read_views(record_of(video), CLIP, *plans, out=room)

    assert len(pixels) == 3 and pixels.data_ptr() == room.data_ptr()
    assert (room[3] == 7).all()
    assert torch.equal(pixels[places], read_views(record_of(video), CLIP, *plans)[0][places])


def test_shifted_segments_show_other_frames_of_the_whole_video(tmp_path):
    path = write_video(tmp_path / "segments.mp4", 49, fps=12)
    same = ClipSpec(num_frames=4, sampling_rate=1, policy="segments")
    shifted = ClipSpec(num_frames=4, sampling_rate=1, policy="segments", segment_clips="shifted")
    frames = torch.stack(sequential_frames(path))
    (plan,) = plans_of([3])

    one, same_places = read_views(record_of(path), same, plan)
    three, shifted_places = read_views(record_of(path), shifted, plan)

    assert len(one) == 1 and same_places.tolist() == [0, 0, 0]
    assert len(three) == 3 and shifted_places.tolist() == [0, 1, 2]
    expected = [[2, 14, 26, 38], [6, 18, 30, 42], [10, 22, 34, 46]]  # of parts of 12 frames
    assert torch.equal(three, torch.cat([eval_views(frames[e], plan) for e in expected]))
    assert torch.equal(one[0], three[1])  # of three the middle one is the only one of one


def frames_at_even_rate(path, rate):
    """The reference: what ffmpeg's filter makes of a video, frames left out and repeated."""
    with av.open(str(path)) as container:
        graph = av.filter.Graph()
        source = graph.add_buffer(template=container.streams.video[0])
        even = graph.add("fps", f"fps={rate}:round=near")
        sink = graph.add("buffersink")
        source.link_to(even)
        even.link_to(sink)
        graph.configure()
        for frame in [*container.decode(video=0), None]:
            graph.push(frame)
            with contextlib.suppress(BlockingIOError, EOFError):
                while True:
                    yield torch.from_numpy(graph.pull().to_ndarray(format="rgb24"))


def test_a_clip_of_uneven_rate_shows_what_is_shown_at_its_moments(tmp_path):
    shown_at = [*range(20), *range(50, 90)]  # in 1/30 s: frame 19 stands still for a second
    path = write_video(tmp_path / "uneven.mkv", 60, pts=shown_at)
    even = torch.stack(list(frames_at_even_rate(path, "1770/89")))[:60]  # 59 steps in 89 / 30 s
    clip = ClipSpec(num_frames=8, sampling_rate=3)

    with items.open_reader(path) as reader:
        numbers = at_even_rate(range(60), reader.times_s)
        meant = eval_indices(clip, 60, reader.fps, num_clips=3)
    (plan,) = plans_of([3])
    views, places = read_views(record_of(path), clip, plan)

    assert numbers.count(19) == 20  # a second of three
    assert torch.equal(torch.stack(sequential_frames(path))[numbers], even)
    for place, indices in zip(places, meant, strict=True):
        assert torch.equal(views[place], eval_views(even[indices], plan)[0])


@pytest.mark.parametrize(("suffix", "codec"), [("webm", "libvpx"), ("mp4", "libx264")])
def test_a_clip_spans_its_time_whatever_rate_the_file_claims(tmp_path, suffix, codec):
    gaps_ms = np.random.default_rng(0).integers(40, 90, 100)
    shown_at_ms = [0, *np.cumsum(gaps_ms).tolist()]  # 15 frames a second; WebM says 1000
    path = write_video(tmp_path / f"recorded.{suffix}", 101, fps=1000, pts=shown_at_ms, codec=codec)
    clip = ClipSpec(num_frames=16, sampling_rate=4, offset_sampling=True)

    with items.open_reader(path) as reader:
        meant = eval_indices(clip, reader.num_frames, reader.fps, num_clips=3)
        times_s = [reader.times_s[at_even_rate(indices, reader.times_s)] for indices in meant]

    for shown_s in times_s:
        assert shown_s[-1] - shown_s[0] == pytest.approx(63 / 30, abs=0.15)
    assert [shown_s[0] for shown_s in times_s] == pytest.approx([0.0, 2.2, 4.4], abs=0.2)


def test_batches_keep_their_places_through_workers(tmp_path, video):
    write_video(tmp_path / "short.mp4", 7)
    write_video(tmp_path / "long.mp4", 60)
    (tmp_path / "broken.mp4").write_bytes(b"this is not a video")
    names = ("short.mp4", "broken.mp4", "long.mp4")
    videos = VideoList(names, range(3), folder=tmp_path, source="list.csv")
    plans = plans_of((1, 3), num_crops=3)
    dataset = EvalVideos(videos, CLIP, *plans)

    for num_workers in (0, 1):
        (batch,) = eval_loader(dataset, batch_size=3, workers=WorkerSettings(num_workers)).epoch(0)

        assert batch.video_ids == ("short.mp4", "long.mp4")
        assert batch.views.tolist() == torch.cat([plan.views() for plan in plans]).tolist()
        assert batch.pixels.shape == (2, 9, 3, 4, 24, 24)  # 3 clips that differ, 12 views in all
        for row, index in enumerate((0, 2)):
            item = dataset[ItemKey(0, index, index)]
            assert torch.equal(batch.places[row], item.places)
            assert torch.equal(batch.pixels[row, batch.places[row]], item.pixels[item.places])


@pytest.mark.skipif(
    not (REAL_VIDEOS / "clips").is_dir(), reason="the real clips are not on this machine"
)
@pytest.mark.parametrize("policy", ["interval", "segments"])
def test_real_clips_get_the_same_views_in_one_pass(policy):
    path = next((REAL_VIDEOS / "clips").rglob("*.mp4"))
    clip = ClipSpec(16, 4, policy=policy, offset_sampling=True, segment_clips="shifted")
    plans = plans_of((1, 5), num_crops=3)

    pixels, places = read_views(record_of(path), clip, *plans)

    for plan, views in zip(plans, pixels[places].split([3, 15]), strict=True):
        alone, its_places = read_views(record_of(path), clip, plan)
        assert torch.equal(views, alone[its_places])
