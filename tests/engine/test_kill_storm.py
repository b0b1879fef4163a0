"""A run that is killed again and again ends as one that was not, to the bit.

Each life of a run is a process forked from one that has imported everything. The run has all that a
real one must remember: mixed clips, dropout and drop path, a moving average, a float16 loss scaler,
videos that cannot be read, checkpoints inside epochs, validations and the best weights.
"""

import contextlib
import os
import signal
import time
from multiprocessing import get_context

import pytest
import torch
from ranks import PRELOADED, RankFailed, hear_signals, run_ranks
from tiny_run import (
    CPU,
    NUM_CLASSES,
    Batches,
    clip_batch,
    prepare_noisy,
    prepare_views,
    tiny_net,
    tiny_train,
)

from slowfast_mvit.data.views.batch_augmentation import mix
from slowfast_mvit.engine.test import validate
from slowfast_mvit.errors import Stopped
from slowfast_mvit.optim.averaging import moving_average
from slowfast_mvit.optim.objectives import Recognition, cross_entropy
from slowfast_mvit.randomness import generator
from slowfast_mvit.runtime.checkpoint import best_path, checkpoint_path, latest_checkpoint
from slowfast_mvit.runtime.distributed import rank, world_size
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.runtime.parallel import evaluation_model, parallelise
from slowfast_mvit.storage import read_torch
from slowfast_mvit.structures import FailedVideo

EPOCHS, STEPS = 5, 10
SETTINGS = {
    "max_epoch": EPOCHS,
    "checkpoint_period": 2,
    "checkpoint_steps": 3,  # also falls on ends of epochs that have no checkpoint of their own
    "eval_period": 2,
    "log_period": 4,
    "clip_norm": 1.0,
    "max_failed_fraction": 0.5,
}
TIMES = {
    "dt",
    "dt_data",
    "dt_net",
    "eta",
    "time_diff",
    "gpu_mem",
    "RAM",
    "clips_per_s",
    "data_share",
}


class Stream:
    """Other batches in each epoch; one video cannot be read, in two epochs."""

    num_videos = 6 * STEPS

    def __init__(self, report):
        self.report = report

    def __len__(self):
        return STEPS

    def epoch(self, epoch, start_step=0):
        for step in range(start_step, STEPS):
            self.report((epoch, step))
            lost = [FailedVideo("lost", "/data/lost.mp4", "truncated")]
            failures = lost if (epoch, step) in ((0, 1), (3, 5)) else []
            number = (epoch * STEPS + step) * world_size() + rank()
            yield clip_batch("abcdef", seed=number, failures=failures)


def prepare_mixed(batch, rng):
    return mix(*prepare_noisy(batch, rng), rng, num_classes=NUM_CLASSES)


def whole_run(
    output_dir, *, report=lambda place: None, strategy="ddp", precision="fp32", **changes
):
    """Train from wherever the run is to its end."""
    model = tiny_net()
    average = moving_average(model, 0.9)
    module = parallelise(model, strategy=strategy, device=CPU)
    if strategy == "fsdp":
        parallelise(average.module, strategy=strategy, device=CPU)
    tiny_train(
        model,
        output_dir,
        module=module,
        objective=Recognition(prepare_mixed, cross_entropy),
        loader=Stream(report),
        average=average,
        validate=lambda epoch, should_stop: validate(
            evaluation_model(average.module, average.module),
            Batches([clip_batch("uvwxyz", seed=1000 + number) for number in range(2)]),
            prepare_views,
            cross_entropy,
            device=CPU,
            forward_batch=6,
            epoch=epoch,
            should_stop=should_stop,
        ),
        resume_from=latest_checkpoint(output_dir),
        precision=precision,
        **SETTINGS | changes,
    )


def live(output_dir, link, kill_at_call, stop_at, changes):
    """Train in another process, and report each step."""

    def report(place):
        link.send(place)
        if place == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    hear_signals()
    torch.set_num_threads(1)
    if kill_at_call:
        die_at_call(kill_at_call)
    try:
        whole_run(output_dir, report=report, **changes)
    except Stopped as stopped:
        os._exit(128 + stopped.signal_number)


def die_at_call(number):
    """Kill this process before the ``number``-th call that changes a folder or empties a cache."""
    calls = iter(range(1, number + 1))

    def lethal(function):
        def call(*args, **kwargs):
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "unlink", "mkdir", "truncate"):
        setattr(os, name, lethal(getattr(os, name)))


class Life:
    """A run in a process of its own."""

    def __init__(self, output_dir, *, kill_at_call=0, stop_at=None, **changes):
        context = get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.link, sender = context.Pipe(duplex=False)
        arguments = (output_dir, sender, kill_at_call, stop_at, changes)
        self.process = context.Process(target=live, args=arguments)
        self.process.start()
        sender.close()
        self.places = []

    def wait_for_steps(self, count):
        """Until it has come to so many steps, or its end."""
        with contextlib.suppress(EOFError):
            while len(self.places) < count:
                self.places.append(self.link.recv())

    def send(self, signal_number):
        with contextlib.suppress(ProcessLookupError):  # it has ended, by its exit status
            os.kill(self.process.pid, signal_number)

    def end(self):
        """Its exit status, once it has ended."""
        self.wait_for_steps(float("inf"))
        self.process.join()
        return self.process.exitcode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()
        self.process.close()


def assert_equal(actual, expected, where="checkpoint"):
    """Return whether two trees of dicts and lists are equal, tensors to the bit."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for name in expected:
            assert_equal(actual[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), where
        for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_equal(one, other, f"{where}[{number}]")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected), where
    else:
        assert actual == expected, where


def assert_same_run(broken, unbroken, num_epochs=EPOCHS):
    """Weights, averages, optimizer, log, lists and names of files of two runs are the same."""
    for path in (checkpoint_path("", num_epochs - 1), best_path("")):
        assert_equal(read_torch(broken / path), read_torch(unbroken / path), path.name)
    logs = [
        [{k: v for k, v in record.items() if k not in TIMES} for record in StatsLog(folder).read()]
        for folder in (broken, unbroken)
    ]
    assert logs[0] == logs[1]
    lists = [(folder / "failed_videos.csv").read_text() for folder in (broken, unbroken)]
    assert lists[0] == lists[1]
    files = [
        sorted(path.relative_to(folder) for path in folder.rglob("*"))
        for folder in (broken, unbroken)
    ]
    assert files[0] == files[1]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """An uninterrupted run of each precision."""
    folder = tmp_path_factory.mktemp("unbroken")
    for precision in ("fp32", "fp16"):
        with Life(folder / precision, precision=precision) as life:
            assert life.end() == 0
    return folder


@pytest.mark.parametrize("num_kills", [5, pytest.param(20, marks=pytest.mark.nightly)])
def test_kills_at_random_instants_change_no_bit(tmp_path, unbroken, num_kills):
    rng = generator(4, 0, 0, 0)
    for _ in range(num_kills):
        with Life(tmp_path, precision="fp16") as life:
            life.wait_for_steps(int(rng.integers(0, 5)))
            time.sleep(rng.uniform(0, 0.005))  # to anywhere within a step or a checkpoint
            life.send(signal.SIGKILL)
            assert life.end() == -signal.SIGKILL

    with Life(tmp_path, precision="fp16") as last:
        assert last.end() == 0

    assert_same_run(tmp_path, unbroken / "fp16")


@pytest.mark.parametrize("num_epochs", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_kills_before_each_step_of_writing_change_no_bit(tmp_path, num_epochs):
    changes = {"max_epoch": num_epochs, "eval_period": 1, "checkpoint_period": 1}
    with Life(tmp_path / "unbroken", **changes) as life:
        assert life.end() == 0
    calls, status = 0, -signal.SIGKILL

    while status == -signal.SIGKILL:
        calls += 1
        with Life(tmp_path / "broken", kill_at_call=calls, **changes) as life:
            status = life.end()

    assert status == 0 and calls > 5
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken", num_epochs=num_epochs)


def test_unfinished_checkpoints_of_a_killed_run_are_deleted(tmp_path):
    path = tmp_path / "mid_epoch" / ".tmp-1-epoch_00001_step_00000003.pyth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")

    tiny_train(tiny_net(), tmp_path, max_epoch=1)

    assert not any(tmp_path.glob("mid_epoch/*"))


def test_a_stopped_run_loses_no_step(tmp_path, unbroken):
    rng, places = generator(5, 0, 0, 0), []
    for _ in range(5):
        with Life(tmp_path) as life:
            life.wait_for_steps(int(rng.integers(1, 12)))
            life.send(signal.SIGTERM)
            assert life.end() == 128 + signal.SIGTERM
            places += life.places

    with Life(tmp_path) as last:
        assert last.end() == 0
        places += last.places

    assert places == [(epoch, step) for epoch in range(EPOCHS) for step in range(STEPS)]
    assert_same_run(tmp_path, unbroken / "fp32")


def test_a_run_stopped_in_its_last_step_saves_the_same_checkpoint(tmp_path, unbroken):
    last_step = (EPOCHS - 1, STEPS - 1)
    with Life(tmp_path, stop_at=last_step) as life:
        assert life.end() == 128 + signal.SIGTERM

    with Life(tmp_path) as life:
        assert life.end() == 0
        assert life.places == []

    assert_same_run(tmp_path, unbroken / "fp32")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_of_which_one_is_killed_resume_to_the_same_bits(tmp_path, strategy):
    run_ranks(live_as_rank, 2, tmp_path / "unbroken", None, strategy)

    for place in ((0, 5), (1, 8)):
        # Rank 0 may notice that rank 1 is gone before this process does.
        with pytest.raises((RankFailed, RuntimeError), match=r"rank 1 ended|by peer"):
            run_ranks(live_as_rank, 2, tmp_path / "broken", place, strategy)
    run_ranks(live_as_rank, 2, tmp_path / "broken", None, strategy)

    assert_same_run(tmp_path / "broken", tmp_path / "unbroken", num_epochs=2)


def live_as_rank(output_dir, place_of_death, strategy):
    """One life of one of two ranks; the second kills itself when it comes to a step."""

    def die(place):
        if place == place_of_death and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    whole_run(output_dir, report=die, strategy=strategy, max_epoch=2)
