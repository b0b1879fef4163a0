"""Batches in page-locked memory: copied one ahead, in their order, errors and ends included."""

from __future__ import annotations

import pytest
import torch
from videos import write_video

from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.loading.items import EvalVideos
from slowfast_mvit.data.loading.loader import eval_loader, pinned
from slowfast_mvit.data.loading.worker_pool import WorkerSettings
from slowfast_mvit.errors import DecodeError
from slowfast_mvit.structures import ClipSpec, ViewPlan


class Batch:
    """Stands in for a ClipBatch where there is no device to pin for."""

    def __init__(self, number, log):
        self.number, self.log = number, log

    def pin_memory(self):
        self.log.append(self.number)
        return self


def batches(log, *, broken_at=None):
    try:
        for number in range(5):
            if number == broken_at:
                raise DecodeError("a video cannot be read")
            yield Batch(number, log)
    finally:
        log.append("closed")


def test_every_batch_is_pinned_once_and_in_order():
    log = []

    assert [batch.number for batch in pinned(batches(log))] == [0, 1, 2, 3, 4]
    assert log == [0, 1, 2, 3, 4, "closed"]


def test_an_error_comes_after_the_batches_before_it():
    log = []

    with pytest.raises(DecodeError, match="cannot be read"):
        list(pinned(batches(log, broken_at=2)))

    assert log == [0, 1, "closed"]


def test_an_epoch_that_is_left_closes_what_it_reads_from():
    log = []
    reading = pinned(batches(log))

    next(reading)
    reading.close()

    assert log in ([0, "closed"], [0, 1, "closed"])  # at most one ahead


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_on_a_cuda_machine_are_page_locked_and_the_same(tmp_path, num_workers):
    names = [write_video(tmp_path / f"{number}.mp4", 6).name for number in range(5)]
    listed = VideoList(names, [0] * 5, folder=tmp_path, source="l")
    plan = ViewPlan(num_clips=2, num_crops=1, scale_px=16, crop_px=16)
    dataset = EvalVideos(listed, ClipSpec(num_frames=2, sampling_rate=2), plan)
    expected = list(eval_loader(dataset, batch_size=2).epoch(0))

    loader = eval_loader(
        dataset, batch_size=2, workers=WorkerSettings(num_workers, pin_memory=True)
    )

    for batch, same in zip(loader.epoch(0), expected, strict=True):
        assert batch.pixels.is_pinned() and batch.labels.is_pinned()
        on_device = batch.to("cuda", non_blocking=True)
        assert torch.equal(on_device.pixels.cpu(), same.pixels)
        assert batch.video_ids == same.video_ids
