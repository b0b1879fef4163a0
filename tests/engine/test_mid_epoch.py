"""A run that is interrupted inside an epoch resumes there; the checkpoints on the way."""

import os
import signal

import pytest
import torch
from tiny_run import Batches, clip_batch, prepare_noisy, tiny_batches, tiny_net, tiny_train

from slowfast_mvit.engine.meter import EpochMeter
from slowfast_mvit.errors import ListError, Stopped
from slowfast_mvit.optim.averaging import moving_average
from slowfast_mvit.optim.objectives import Recognition, cross_entropy
from slowfast_mvit.runtime.checkpoint import best_path, checkpoint_path, latest_checkpoint
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.storage import read_torch
from slowfast_mvit.structures import FailedVideo

NUM_STEPS = 4
TIMES = {"dt", "dt_data", "dt_net", "eta", "time_diff", "RAM", "clips_per_s"}


def run(output_dir, *, ema=0.9, **changes):
    """A run with a moving average, accumulation and a failed video; gives model and average."""
    lost = FailedVideo("lost", "/data/lost.mp4", "truncated")
    failures = [(), (lost,), (), (), (), (), (), ()]
    batches = [clip_batch("abcdef", seed=seed, failures=lost) for seed, lost in enumerate(failures)]
    model = tiny_net()
    average = moving_average(model, ema)
    settings = {"max_epoch": 2, "accum_steps": 2, "log_period": 3, "max_failed_fraction": 0.5}
    settings |= {"loader": Batches(batches), "average": average, "checkpoint_period": 10}
    tiny_train(model, output_dir, **settings | changes)
    return model, average


def log_of(output_dir):
    """The records of the log but for what depends on the time of day."""
    shares = {name for record in StatsLog(output_dir).read() for name in record if "share" in name}
    return [
        {name: value for name, value in record.items() if name not in TIMES | shares}
        for record in StatsLog(output_dir).read()
    ]


def same_weights(a, b):
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(name == other and torch.equal(x, y) for (name, x), (other, y) in pairs)


class StopAt(Batches):
    """Sends this process a signal while it gives out one of its batches."""

    def __init__(self, batches, at, number=signal.SIGTERM):
        super().__init__(batches)
        self.at = at
        self.number = number

    def epoch(self, epoch, start_step=0):
        for number in range(start_step, len(self.batches)):
            if (epoch, number) == self.at:
                os.kill(os.getpid(), self.number)
            yield self.batches[number]


@pytest.mark.parametrize("step", range(2 * NUM_STEPS))
def test_a_run_stopped_at_any_step_resumes_after_it(tmp_path, step):
    whole, whole_average = run(tmp_path / "whole")
    epoch, number = divmod(step, NUM_STEPS)
    batches = [clip_batch("abcdef", seed=seed) for seed in range(8)]
    batches[1] = clip_batch(
        "abcdef", seed=1, failures=[FailedVideo("lost", "/data/lost.mp4", "truncated")]
    )
    folder = tmp_path / "broken"

    with pytest.raises(Stopped) as caught:
        run(folder, loader=StopAt(batches, at=(epoch, 2 * number + 1)))
    resumed, average = run(folder, resume_from=latest_checkpoint(folder))

    assert caught.value.signal_number == signal.SIGTERM
    assert same_weights(resumed, whole)
    assert same_weights(average, whole_average)
    assert log_of(folder) == log_of(tmp_path / "whole")
    states = [read_torch(checkpoint_path(place, 1)) for place in (folder, tmp_path / "whole")]
    for index, expected in states[1]["optimizer_state"]["state"].items():
        for name, tensor in expected.items():
            assert torch.equal(states[0]["optimizer_state"]["state"][index][name], tensor)
    assert not (folder / "mid_epoch").exists()


def test_checkpoints_come_every_so_many_steps_and_the_newest_two_stay(tmp_path):
    class Crashing(Batches):
        def epoch(self, epoch, start_step=0):
            for number, batch in enumerate(self.batches):
                if (epoch, number) == (1, 9):
                    raise OSError("the node went away")
                yield batch

    batches = tiny_batches(10).batches

    with pytest.raises(OSError, match="went away"):
        tiny_train(tiny_net(), tmp_path, loader=Crashing(batches), checkpoint_steps=4)

    names = sorted(path.name for path in (tmp_path / "mid_epoch").iterdir())
    assert names == ["epoch_00002_step_00000002.pyth", "epoch_00002_step_00000006.pyth"]
    assert latest_checkpoint(tmp_path).name == names[-1]
    content = read_torch(tmp_path / "mid_epoch" / names[-1])
    assert (content["epoch"], content["slowfast_mvit"]["step"]) == (0, 6)


def test_a_damaged_file_inside_an_epoch_falls_back_to_the_one_before(tmp_path, caplog):
    loader = StopAt(tiny_batches(6).batches, at=(1, 3))
    with pytest.raises(Stopped):
        tiny_train(tiny_net(), tmp_path, loader=loader, checkpoint_steps=2)
    newest = latest_checkpoint(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-100])

    assert latest_checkpoint(tmp_path) != newest
    assert str(newest) in caplog.text


@pytest.mark.parametrize("checkpoint_period", [1, 10])
def test_an_interrupted_validation_is_repeated(tmp_path, checkpoint_period):
    def validate(epoch, should_stop):
        if epoch == 1 and asks:
            os.kill(os.getpid(), signal.SIGUSR1)
        should_stop()
        return {"top1_err": 10.0 - epoch, "top5_err": 0.0}

    settings = {"validate": validate, "checkpoint_period": checkpoint_period}
    asks = False
    whole = tiny_train(tiny_net(), tmp_path / "whole", **settings)
    asks = True
    folder = tmp_path / "broken"

    with pytest.raises(Stopped):
        tiny_train(tiny_net(), folder, **settings)
    asks = False
    resumed = tiny_train(tiny_net(), folder, resume_from=latest_checkpoint(folder), **settings)

    assert same_weights(resumed, whole)
    assert log_of(folder) == log_of(tmp_path / "whole")


def test_a_run_that_diverged_is_not_saved_inside_its_epoch(tmp_path):
    def loss(logits, targets):
        return cross_entropy(logits, targets) * float("nan")

    with pytest.raises(ValueError, match="training diverged"):
        tiny_train(
            tiny_net(),
            tmp_path,
            objective=Recognition(prepare_noisy, loss),
            checkpoint_steps=1,
            log_period=100,
        )

    assert latest_checkpoint(tmp_path) is None


def test_the_moving_average_is_the_one_of_the_formula(tmp_path, monkeypatch):
    states = []
    model = tiny_net()
    average = moving_average(model, 0.8)
    update = average.update_parameters

    def noting(model, is_skipped):
        states.append({name: p.detach().clone() for name, p in model.named_parameters()})
        update(model, is_skipped)

    monkeypatch.setattr(average, "update_parameters", noting)

    tiny_train(model, tmp_path, average=average)

    assert len(states) == 12
    expected = states[0]  # the first step is copied
    for state in states[1:]:
        expected = {name: 0.8 * expected[name] + 0.2 * state[name] for name in expected}
    for name, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-5, atol=1e-6)


def test_the_best_weights_are_those_of_the_moving_average(tmp_path):
    errors = iter([5.0, 3.0, 4.0, 3.0])
    averages = []

    def validate(epoch, should_stop):
        averages.append({n: p.clone() for n, p in average.module.state_dict().items()})
        return {"top1_err": next(errors), "top5_err": 0.0}

    model = tiny_net()
    average = moving_average(model, 0.9)

    tiny_train(model, tmp_path, average=average, validate=validate)

    best = read_torch(best_path(tmp_path))
    assert best["epoch"] == 1
    assert all(torch.equal(best["model_state"][n], averages[1][n]) for n in averages[1])
    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 3)


def test_a_checkpoint_without_an_average_starts_it_over(tmp_path, caplog):
    tiny_train(tiny_net(), tmp_path, max_epoch=1)
    model = tiny_net()
    average = moving_average(model, 0.0)

    tiny_train(model, tmp_path, average=average, resume_from=latest_checkpoint(tmp_path))

    assert "no moving average; it starts over" in caplog.text
    assert same_weights(average.module, model)


def test_a_run_stops_when_it_gets_no_better_and_stays_stopped(tmp_path, caplog):
    caplog.set_level("INFO")
    errors = {0: 5.0, 1: 3.0, 2: 4.0, 3: 3.0, 4: 1.0}

    def validate(epoch, should_stop):
        return {"top1_err": errors[epoch], "top5_err": 0.0}

    settings = {"validate": validate, "max_epoch": 9, "early_stopping": 2}
    stopped = tiny_train(tiny_net(), tmp_path, checkpoint_period=9, **settings)

    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 3)
    assert "early stopping: top-1 has not improved in the last 2 validations" in caplog.text
    again = tiny_train(tiny_net(), tmp_path, resume_from=latest_checkpoint(tmp_path), **settings)
    assert same_weights(again, stopped)


def test_two_batches_a_step_give_the_gradients_of_one_twice_as_large(tmp_path):
    def plain(batch, rng):
        return batch.pixels.flatten(0, 1).float() / 255, batch.labels

    def without_masks():
        model = tiny_net()
        model.dropout.p = model.drop_path.p = 0.0
        return model

    parts = [clip_batch("abc", seed=seed) for seed in range(4)]
    joined = [
        type(a)(
            torch.cat([a.pixels, b.pixels]),
            torch.cat([a.labels, b.labels]),
            a.video_ids + b.video_ids,
            a.views,
        )
        for a, b in (parts[:2], parts[2:])
    ]
    settings = {"objective": Recognition(plain, cross_entropy), "clip_norm": 0.1}

    small = tiny_train(
        without_masks(), tmp_path / "a", loader=Batches(parts), accum_steps=2, **settings
    )
    large = tiny_train(without_masks(), tmp_path / "b", loader=Batches(joined), **settings)

    for actual, expected in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    steps = [StatsLog(tmp_path / name).read("train_iter_") for name in "ab"]
    for actual, expected in zip(*steps, strict=True):
        assert actual["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert actual["iter"] == expected["iter"] == "2/2"


def test_fewer_batches_than_one_step_needs_are_an_error(tmp_path):
    with pytest.raises(ListError, match="3 batches, fewer than the 4 of one step"):
        tiny_train(tiny_net(), tmp_path, accum_steps=4)


def test_another_batch_size_resumes_at_the_same_video_and_is_logged(tmp_path, caplog):
    with pytest.raises(Stopped):
        tiny_train(tiny_net(), tmp_path, loader=StopAt(tiny_batches(6).batches, at=(0, 3)))
    asked = []

    class Halved(Batches):
        def epoch(self, epoch, start_step=0):
            asked.append((epoch, start_step))
            return super().epoch(epoch, start_step)

    halves = [clip_batch("abc", seed=seed) for seed in range(12)]
    newest = latest_checkpoint(tmp_path)
    tiny_train(tiny_net(), tmp_path, loader=Halved(halves), resume_from=newest, max_epoch=1)

    assert asked == [(0, 8)]  # 4 steps of 6 videos are 8 of 3
    assert "the number of videos a step was 6 and is now 3" in caplog.text


def test_a_meter_without_steps_sums_counts_alone():
    meter = EpochMeter(epoch=0, max_epoch=1, num_steps=1, device=torch.device("cpu"))

    counts = meter.sum_over_ranks({"num_tried": 3.0})
    assert not list(meter.bad_steps())

    assert counts == {"num_tried": 3.0}
