"""Validation on several ranks gives all of them the numbers of one process, to the bit."""

import csv
import hashlib

import pytest
import torch
from ranks import run_ranks
from tiny_run import CPU, Batches, clip_batch, prepare_views, tiny_net, tiny_train

from slowfast_mvit.data.loading.loader import part_of
from slowfast_mvit.engine.test import validate
from slowfast_mvit.errors import Stopped, UserError
from slowfast_mvit.optim.objectives import cross_entropy
from slowfast_mvit.runtime.distributed import rank, world_size
from slowfast_mvit.runtime.parallel import parallelise
from slowfast_mvit.structures import ClipBatch, FailedVideo

NUM_VIDEOS = 13
UNREADABLE = {2, 11, 12}


def my_part(batch_size=4):
    """This rank's part of 13 videos, three of which cannot be read."""
    every = clip_batch([f"v{index}" for index in range(NUM_VIDEOS)], seed=5)
    indices = range(NUM_VIDEOS)[part_of(NUM_VIDEOS, rank(), world_size())]
    batches = []
    for start in range(0, len(indices), batch_size):
        listed = indices[start : start + batch_size]
        kept = [index for index in listed if index not in UNREADABLE]
        failures = [failed(index) for index in listed if index in UNREADABLE]
        batches.append(
            ClipBatch(
                every.pixels[kept],
                every.labels[kept],
                tuple(every.video_ids[index] for index in kept),
                every.views,
                tuple(failures),
            )
        )
    return Batches(batches)


def failed(index):
    return FailedVideo(f"v{index}", f"/data/v{index}.mp4", "truncated")


def measured(failed_path=None, **options):
    return validate(
        tiny_net(),
        my_part(),
        prepare_views,
        cross_entropy,
        device=CPU,
        forward_batch=4,
        failed_path=failed_path,
        epoch=0,
        **options,
    )


def test_every_rank_gets_the_numbers_of_one_process_to_the_bit(tmp_path):
    single = measured(tmp_path / "1.csv")
    rows = list(csv.reader((tmp_path / "1.csv").read_text().splitlines()))

    assert (single["num_videos"], single["num_failed"]) == (10, 3)
    assert [row[0] for row in rows[1:]] == ["v2", "v11", "v12"]
    for num_ranks in (2, 3, 4):
        path = tmp_path / f"{num_ranks}.csv"
        assert run_ranks(measured, num_ranks, path) == [single] * num_ranks
        assert list(csv.reader(path.read_text().splitlines())) == rows


def test_a_rank_without_a_video_takes_part():
    assert run_ranks(measured_one_video, 3) == [measured_one_video()] * 3


def measured_one_video():
    batches = my_part().batches if rank() == 0 else []
    return validate(
        tiny_net(),
        Batches(batches[:1]),
        prepare_views,
        cross_entropy,
        device=CPU,
        forward_batch=4,
    )


def test_every_rank_raises_if_no_video_could_be_read():
    with pytest.raises(UserError, match="2 of 2 videos to validate on could not be read"):
        run_ranks(measured_nothing, 2)


def measured_nothing():
    nothing = Batches([clip_batch("", failures=[failed(rank())])])
    return validate(tiny_net(), nothing, prepare_views, cross_entropy, device=CPU, forward_batch=4)


def test_validation_can_be_stopped_between_two_batches():
    asked = []

    def stop_at_the_third():
        asked.append(1)
        if len(asked) == 3:
            raise Stopped(15)

    model = tiny_net().train()
    with pytest.raises(Stopped):
        validate(
            model, my_part(), prepare_views, cross_entropy, device=CPU, forward_batch=4,
            should_stop=stop_at_the_third,
        )  # fmt: skip

    assert model.training and not torch.is_inference_mode_enabled()


def trained_weights(output_dir, validates):
    """A digest of the weights after four epochs of a net with dropout and drop path."""
    model = tiny_net()

    def measure(epoch, should_stop):
        return validate(
            model, my_part(), prepare_views, cross_entropy, device=CPU, forward_batch=4,
            should_stop=should_stop,
        )  # fmt: skip

    module = parallelise(model, strategy="ddp", device=CPU)
    tiny_train(model, output_dir, module=module, validate=measure if validates else None)
    state = model.state_dict()
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in state.values())).hexdigest()


def test_two_ranks_train_to_the_same_weights_with_and_without_validation(tmp_path):
    with_it = run_ranks(trained_weights, 2, tmp_path / "with", True)
    without = run_ranks(trained_weights, 2, tmp_path / "without", False)

    assert set(with_it) == set(without) and len(set(with_it)) == 1
