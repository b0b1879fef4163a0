"""Videos that kill or hang a worker: found, named, replaced; the batches stay what they were."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import time

import pytest
from lethal_reader import times_opened
from videos import write_video

from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.loading.items import EvalVideos, TrainVideos
from slowfast_mvit.data.loading.loader import eval_loader, train_loader
from slowfast_mvit.data.loading.worker_pool import WorkerSettings
from slowfast_mvit.data.views.train_views import TrainTransform
from slowfast_mvit.errors import ConfigError, DecodeError
from slowfast_mvit.structures import ClipSpec, ViewPlan

CLIP = ClipSpec(num_frames=2, sampling_rate=4)
PLAN = ViewPlan(num_clips=2, num_crops=1, scale_px=16, crop_px=16)
TRANSFORM = TrainTransform(crop_px=16, scales_px=(16, 20), randaugment="rand-m7-n4-mstd0.5-inc1")
GOOD = [f"{number}.mp4" for number in range(9)]
FAST_S = 3.0  # far above what a good video takes, even on a busy machine


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(GOOD):
        write_video(tmp_path / name, 6 + number, size=(20, 26))
    for name in ("kills.mp4", "sleeps.mp4", "kills_too.mp4"):
        (tmp_path / name).write_bytes(b"not a video")
    (tmp_path / "broken.mp4").write_bytes(b"not a video either")
    return tmp_path


def videos(folder, names):
    return VideoList(names, range(len(names)), folder=folder, source="l")


def train(folder, names, *, transform=TRANSFORM, batch_size=3, timeout_s=60.0, **settings):
    dataset = TrainVideos(
        videos(folder, names),
        CLIP,
        transform=transform,
        num_views=2,
        seed=5,
        backend="lethal_reader:open_lethal",
    )
    workers = WorkerSettings(timeout_s=timeout_s, **settings)
    return train_loader(dataset, batch_size=batch_size, seed=5, workers=workers)


def seen(batches):
    """The batches of a training, and the videos that failed."""
    total = hashlib.sha256()
    for batch in batches:
        total.update(batch.pixels.numpy().tobytes())
        failed = [failure.video_id for failure in batch.failures]
        total.update(repr((batch.labels.tolist(), batch.video_ids, failed)).encode())
    return total.hexdigest()


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_a_video_that_kills_its_reader_is_replaced_and_never_opened_again(
    folder, caplog, start_method
):
    names = [*GOOD[:4], "kills.mp4", "broken.mp4", *GOOD[4:], "kills_too.mp4"]
    expected = [seen(train(folder, names).epoch(epoch)) for epoch in range(3)]
    before = times_opened(folder / "kills.mp4")

    loader = train(folder, names, num_workers=2, start_method=start_method)
    batches = [list(loader.epoch(epoch)) for epoch in range(3)]

    assert [seen(of_epoch) for of_epoch in batches] == expected
    assert times_opened(folder / "kills.mp4") == before + 2  # once, and once alone to be sure
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert sorted(record.getMessage().split(":")[0] for record in warnings) == [
        str(folder / "kills.mp4"),
        str(folder / "kills_too.mp4"),
    ]
    failures = [failure for batch in batches[2] for failure in batch.failures]
    (message,) = {failure.message for failure in failures if failure.video_id == "kills.mp4"}
    assert message.startswith(f"{folder / 'kills.mp4'}: crashes the process that reads it")


def test_a_video_that_hangs_its_reader_is_replaced(folder, caplog):
    names = [*GOOD[:4], "sleeps.mp4", *GOOD[4:]]
    expected = seen(train(folder, names).epoch(0))

    loader = train(folder, names, num_workers=2, timeout_s=FAST_S)

    assert seen(loader.epoch(0)) == expected
    assert "sleeps.mp4: not read within DATA_LOADER.TIMEOUT_S" in caplog.text


def test_a_test_video_that_kills_its_reader_is_listed_as_failed(folder):
    names = [GOOD[0], "kills.mp4", *GOOD[1:4]]
    dataset = EvalVideos(videos(folder, names), CLIP, PLAN, backend="lethal_reader:open_lethal")

    batches = list(eval_loader(dataset, batch_size=2, workers=WorkerSettings(1)).epoch(0))

    assert [batch.video_ids for batch in batches] == [("0.mp4",), ("1.mp4", "2.mp4"), ("3.mp4",)]
    (failure,) = batches[0].failures
    assert failure.video_id == "kills.mp4"
    assert "crashes the process that reads it" in failure.reason


class KilledOnce:
    """A transform in a process that the kernel picks when memory is short: the first one only."""

    crop_px = 16

    def __init__(self, note):
        self.note = note

    def __call__(self, frames, rng, out=None):
        if not self.note.exists():
            self.note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return TRANSFORM(frames, rng, out)


def test_a_worker_that_died_by_bad_luck_costs_no_video(folder, caplog):
    caplog.set_level("INFO")
    expected = seen(train(folder, GOOD).epoch(0))
    unlucky = train(folder, GOOD, transform=KilledOnce(folder / "killed"), num_workers=2)

    assert seen(unlucky.epoch(0)) == expected
    assert "a worker that reads videos was killed by SIGKILL while it read" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_worker_killed_from_outside_while_it_waits_is_replaced(folder):
    loader = train(folder, GOOD, num_workers=1, batch_size=1)
    expected = seen(train(folder, GOOD, batch_size=1).epoch(1))
    list(loader.epoch(0))

    loader._pool._workers[0]._process.kill()

    assert seen(loader.epoch(1)) == expected


class KillsItsWorker:
    """A transform that behaves as a decoder that crashes on everything."""

    crop_px = 16

    def __call__(self, frames, rng, out=None):
        os.kill(os.getpid(), signal.SIGKILL)


def test_when_every_video_kills_its_worker_the_run_ends_with_a_clear_error(folder):
    loader = train(folder, GOOD, transform=KillsItsWorker(), num_workers=1)

    with pytest.raises(
        DecodeError, match="6 workers that read videos died or were stuck"
    ) as caught:
        list(loader.epoch(0))

    assert "was killed by SIGKILL while it read" in str(caught.value)
    assert "lower DATA_LOADER.NUM_WORKERS" in str(caught.value)


class Unwelcome:
    """A transform that its worker cannot load."""

    crop_px = 16

    def __reduce__(self):
        return _fail_to_load, ()


def _fail_to_load():
    raise ImportError("a library is not there")


def test_a_worker_that_cannot_start_ends_the_run_at_once(folder):
    loader = train(folder, GOOD, transform=Unwelcome(), num_workers=1)

    with pytest.raises(DecodeError, match="while it started"):
        list(loader.epoch(0))


def test_an_unknown_start_method_is_refused(folder):
    with pytest.raises(ConfigError, match="no start method named 'spoon'"):
        train(folder, GOOD, num_workers=1, start_method="spoon")


def test_workers_end_with_their_loader(folder):
    loader = train(folder, GOOD, num_workers=2)
    list(loader.epoch(0))
    processes = [worker._process for worker in loader._pool._workers]
    assert all(process.is_alive() for process in processes)

    del loader

    deadline_s = time.monotonic() + 30
    while any(process.is_alive() for process in processes):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
