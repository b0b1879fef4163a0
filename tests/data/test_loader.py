"""Batches: the same for any workers and any point of resuming, complete, and honest on failures."""

from __future__ import annotations

import hashlib
import itertools
import random

import numpy as np
import pytest
import torch
from videos import write_video

from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.loading.items import EvalVideos, TrainVideos
from slowfast_mvit.data.loading.loader import eval_loader, train_loader
from slowfast_mvit.data.loading.worker_pool import WorkerSettings
from slowfast_mvit.data.views.train_views import TrainTransform
from slowfast_mvit.errors import DecodeError, ListError
from slowfast_mvit.structures import ClipSpec, ViewPlan

CLIP = ClipSpec(num_frames=2, sampling_rate=4)
PLAN = ViewPlan(num_clips=2, num_crops=1, scale_px=16, crop_px=16)
TRANSFORM = TrainTransform(
    crop_px=16, scales_px=(16, 20), randaugment="rand-m7-n4-mstd0.5-inc1", interpolation="bilinear"
)
NUM_VIDEOS = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS):
        write_video(folder / f"{number}.mp4", 6 + number, size=(20, 26))
    (folder / "broken.mp4").write_bytes(b"this is not a video")
    return folder


def videos(folder, names=range(NUM_VIDEOS)):
    return VideoList(
        [f"{name}.mp4" for name in names], range(len(names)), folder=folder, source="l"
    )


def train(folder, *, batch_size=3, names=range(NUM_VIDEOS), num_workers=0, method="", **settings):
    workers = WorkerSettings(num_workers, start_method=method)
    dataset = TrainVideos(videos(folder, names), CLIP, transform=TRANSFORM, num_views=2, seed=5)
    return train_loader(dataset, batch_size=batch_size, seed=5, workers=workers, **settings)


def evaluate(folder, names=range(NUM_VIDEOS), batch_size=4, num_workers=0, **settings):
    workers = WorkerSettings(num_workers)
    return eval_loader(
        EvalVideos(videos(folder, names), CLIP, PLAN),
        batch_size=batch_size,
        workers=workers,
        **settings,
    )


def digest(batches):
    total = hashlib.sha256()
    for batch in batches:
        total.update(batch.pixels.numpy().tobytes())
        total.update(repr((batch.labels.tolist(), batch.video_ids, batch.failures)).encode())
    return total.hexdigest()


def ids(batches):
    return [video_id for batch in batches for video_id in batch.video_ids]


@pytest.mark.parametrize(
    ("num_workers", "start_method"),
    [(1, "fork"), (2, "fork"), (3, "forkserver"), (1, "spawn")],
    ids=str,
)
def test_batches_do_not_depend_on_the_workers(folder, num_workers, start_method):
    names = [0, 1, 2, "broken", *range(3, NUM_VIDEOS)]
    here = train(folder, names=names)
    elsewhere = train(folder, names=names, num_workers=num_workers, method=start_method)

    expected = [digest(here.epoch(epoch)) for epoch in (0, 1)]

    assert [digest(elsewhere.epoch(epoch)) for epoch in (0, 1)] == expected
    assert digest(elsewhere.epoch(1, start_step=2)) == digest(here.epoch(1, start_step=2))
    assert expected[0] != expected[1]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_test_batches_do_not_depend_on_the_workers(folder, num_workers):
    expected = digest(evaluate(folder).epoch(0))  # short videos leave some of their places empty

    loader = evaluate(folder, num_workers=num_workers)

    assert [digest(loader.epoch(0)) for _ in range(3)] == [expected] * 3


def test_batches_do_not_depend_on_the_number_of_threads(folder):
    before, digests = torch.get_num_threads(), set()
    for num_threads in (1, 3):
        torch.set_num_threads(num_threads)
        digests.add((digest(train(folder).epoch(0)), digest(evaluate(folder).epoch(0))))
    torch.set_num_threads(before)

    assert len(digests) == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_epoch_goes_on_where_it_was(folder, num_workers):
    loader = train(folder, num_workers=num_workers)

    whole = list(loader.epoch(4))
    rest = list(loader.epoch(4, start_step=2))

    assert len(whole) == len(loader) == 3
    assert digest(rest) == digest(whole[2:])
    assert list(loader.epoch(4, start_step=3)) == []


def test_memory_is_used_again_and_never_under_a_batch_that_is_held(folder):
    loader = train(folder, num_workers=1, batch_size=1)
    expected = [digest(train(folder, batch_size=1).epoch(epoch)) for epoch in range(3)]

    passed_on = digest(loader.epoch(0))
    held = list(loader.epoch(1))
    passed_on_again = digest(loader.epoch(2))

    assert [passed_on, digest(held), passed_on_again] == expected
    addresses = {batch.pixels.data_ptr() for batch in held}
    assert len(addresses) == NUM_VIDEOS
    del held
    again = {batch.pixels.data_ptr() for batch in loader.epoch(3)}
    assert again <= addresses and len(again) <= 4  # two read ahead, one in use, one to write


def test_an_epoch_that_was_left_does_not_leak_into_the_next(folder):
    loader = train(folder, num_workers=2)
    expected = digest(train(folder).epoch(1))

    for _ in loader.epoch(0):
        break

    assert digest(loader.epoch(1)) == expected


def test_an_epoch_that_is_still_held_gives_way_to_the_next(folder):
    loader = train(folder, num_workers=2)
    expected = digest(train(folder).epoch(1))
    held = loader.epoch(0)
    next(held)

    assert digest(loader.epoch(1)) == expected
    with pytest.raises(RuntimeError, match="epoch 0 ended when another one was started"):
        next(held)
    assert digest(loader.epoch(1)) == expected


def test_a_video_looks_the_same_in_any_company(folder):
    small = list(train(folder, batch_size=2).epoch(0))
    large = list(train(folder, batch_size=5).epoch(0))

    assert ids(small) == ids(large)
    together = [torch.cat([batch.pixels for batch in batches]) for batches in (small, large)]
    assert torch.equal(*together)


def test_an_epoch_shows_each_video_once_in_an_order_of_its_own(folder):
    loader = train(folder, batch_size=1)

    first, second = ids(loader.epoch(0)), ids(loader.epoch(1))

    assert len(set(first)) == NUM_VIDEOS
    assert sorted(first) == sorted(second)
    assert first != second and first != sorted(first)


def test_the_last_partial_batch_is_left_out_of_training_and_kept_in_testing(folder):
    training, testing = train(folder, batch_size=4), evaluate(folder, batch_size=4)

    assert [len(batch.video_ids) for batch in training.epoch(0)] == [4, 4]
    assert [len(batch.video_ids) for batch in testing.epoch(0)] == [4, 4, 3]
    assert (len(training), training.num_videos) == (2, 8)
    assert (len(testing), testing.num_videos) == (3, NUM_VIDEOS)


def test_ranks_share_the_positions_of_an_epoch(folder):
    alone = ids(train(folder, batch_size=4).epoch(0))
    ranks = [ids(train(folder, batch_size=2, rank=r, world_size=2).epoch(0)) for r in (0, 1)]

    assert ranks == [alone[0::2], alone[1::2]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 13])
def test_test_ranks_take_parts_of_the_list_in_its_order(folder, world_size):
    parts = [
        ids(evaluate(folder, rank=rank, world_size=world_size).epoch(0))
        for rank in range(world_size)
    ]

    assert list(itertools.chain(*parts)) == [f"{number}.mp4" for number in range(NUM_VIDEOS)]


def test_a_list_shorter_than_a_batch_is_refused(folder):
    with pytest.raises(ListError, match="l: 11 videos do not fill one batch of 12"):
        train(folder, batch_size=6, world_size=2)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_failures_of_a_test_are_named_and_nothing_takes_their_place(folder, num_workers):
    loader = evaluate(folder, ["broken", "missing", 3, 4], batch_size=2, num_workers=num_workers)

    none_read, all_read = loader.epoch(0)

    assert none_read.pixels.shape == (0, 2, 3, 2, 16, 16)
    assert none_read.labels.shape == (0,)
    assert [failure.video_id for failure in none_read.failures] == ["broken.mp4", "missing.mp4"]
    assert all_read.video_ids == ("3.mp4", "4.mp4")
    assert all_read.labels.tolist() == [2, 3]
    assert all_read.failures == ()
    assert all_read.views.tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_on_nothing_but_broken_videos_ends_in_one_clear_error(folder, num_workers):
    loader = train(folder, names=["broken", "missing"], batch_size=1, num_workers=num_workers)

    with pytest.raises(DecodeError, match="in a row, with 2 different videos") as caught:
        list(loader.epoch(0))

    assert len(caught.value.failures) == 101
    assert "Traceback" not in str(caught.value)


class Broken:
    """A transform with a mistake of ours in it."""

    crop_px = 16

    def __call__(self, frames, rng, out=None):
        raise RuntimeError("a bug")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_our_own_mistakes_are_not_taken_for_lost_workers(folder, num_workers):
    dataset = TrainVideos(videos(folder), CLIP, transform=Broken())
    loader = train_loader(dataset, batch_size=2, seed=0, workers=WorkerSettings(num_workers))

    with pytest.raises(RuntimeError, match="a bug") as caught:
        list(loader.epoch(0))

    assert str(caught.value).count("Traceback") == num_workers


@pytest.mark.parametrize("num_workers", [0, 1])
def test_reading_draws_nothing_from_the_global_generators(folder, num_workers):
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())

    list(train(folder, num_workers=num_workers).epoch(0))
    list(evaluate(folder, num_workers=num_workers).epoch(0))

    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), repr(np.random.get_state())) == before[1:]
