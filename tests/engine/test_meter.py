"""The numbers of training: the same, whatever the number of ranks and micro-batches."""

import json
import math

import pytest
import torch
from ranks import run_ranks

from slowfast_mvit.engine import meter as meter_module
from slowfast_mvit.engine.meter import EpochMeter
from slowfast_mvit.optim.objectives import Outcome, cross_entropy
from slowfast_mvit.runtime import distributed

CPU = torch.device("cpu")
NUM_STEPS = 4
NUM_CLASSES = 8
CLOCKS = {"dt", "dt_data", "dt_net", "eta", "clips_per_s", "time_diff", "RAM", "gpu_mem"}


def epoch_meter(**changes):
    arguments = {"epoch": 1, "max_epoch": 3, "num_steps": NUM_STEPS, "device": CPU}
    return EpochMeter(**arguments | changes)


def samples(step):
    """The logits and labels of the 8 samples of a step."""
    generator = torch.Generator().manual_seed(step)
    logits = torch.randn(8, NUM_CLASSES, generator=generator, dtype=torch.float64)
    return logits, torch.randint(NUM_CLASSES, (8,), generator=generator)


def measure(meter, step, *, part=slice(None), num_batches=1, spoil=1.0, grad_norm=None):
    """Measure a part of the samples of a step, in micro-batches."""
    logits, labels = (tensor[part] for tensor in samples(step))
    names = [f"video {place}" for place in range(8)][part]
    for batch in range(num_batches):
        some = slice(batch * len(labels) // num_batches, (batch + 1) * len(labels) // num_batches)
        loss = cross_entropy(logits[some], labels[some]) * spoil
        meter.data_stall.start()
        meter.data_stall.stop()
        meter.add(Outcome(loss, logits[some], labels[some]), names[some])
    meter.end_step(
        step, 0.1 / (step + 1), torch.tensor(step + 1.0 if grad_norm is None else grad_norm)
    )


def settle(meter, counts=None):
    """Sum over the ranks, as the loop does before a line or a checkpoint; the summed counts."""
    counts = meter.sum_over_ranks(counts or {})
    assert not list(meter.bad_steps())
    return counts


def read(meter, counts=None):
    """The record of a line of the log, with the counts of all ranks."""
    counts = settle(meter, counts)
    return {**meter.line(), **counts}


def without_clocks(record):
    return {name: value for name, value in record.items() if name not in CLOCKS}


def test_a_line_reports_the_steps_since_the_last():
    meter = epoch_meter()
    for step in range(3):
        measure(meter, step)
    losses = [cross_entropy(*samples(step)).item() for step in range(3)]
    correct = sum(int((x.argmax(1) == y).sum()) for x, y in map(samples, range(3)))

    record = read(meter, {"num_failed": 2})

    assert without_clocks(record) == {
        "_type": "train_iter_",
        "epoch": "2/3",
        "iter": "3/4",
        "lr": 0.1 / 3,
        "loss": pytest.approx(sorted(losses)[1], abs=1e-14),
        "grad_norm": 2.0,
        "top1_err": pytest.approx(100 * (1 - correct / 24)),
        "top5_err": record["top5_err"],
        "num_skipped": 0,
        "num_failed": 2,
    }
    measure(meter, 3)
    assert read(meter)["loss"] == pytest.approx(cross_entropy(*samples(3)).item(), abs=1e-14)
    losses.append(cross_entropy(*samples(3)).item())
    assert meter.summary(0.1)["loss"] == pytest.approx(sum(losses) / 4, abs=1e-14)


def records_of_a_rank(num_batches):
    """The records of a rank that gets its share of each step, and the number of its sums."""
    sums = []
    share = 8 // distributed.world_size()
    start = share * distributed.rank()
    meter, records = epoch_meter(), []
    with pytest.MonkeyPatch.context() as patch:
        summed = meter_module.sum_over_ranks
        patch.setattr(meter_module, "sum_over_ranks", lambda x: sums.append(x) or summed(x))
        for step in range(NUM_STEPS):
            measure(meter, step, part=slice(start, start + share), num_batches=num_batches)
            if step % 2:
                records.append(read(meter, {"num_failed": distributed.rank() + step}))
    return [*records, meter.summary(0.1)], len(sums)


def numbers(record):
    return {name: value for name, value in record.items() if not isinstance(value, str)}


@pytest.mark.parametrize("num_batches", [1, 2])
def test_two_ranks_report_the_numbers_of_one(num_batches):
    alone, _ = records_of_a_rank(1)

    (first, num_sums), (second, _) = run_ranks(records_of_a_rank, 2, num_batches)

    assert num_sums == 2  # one for each line
    assert [without_clocks(record) for record in first] == [without_clocks(r) for r in second]
    assert [record.pop("num_failed") for record in first[:-1]] == [3, 7]
    assert [record.pop("num_failed") for record in alone[:-1]] == [1, 3]
    for actual, expected in zip(
        map(without_clocks, first), map(without_clocks, alone), strict=True
    ):
        assert numbers(actual) == pytest.approx(numbers(expected), rel=1e-14)
        assert actual.keys() == expected.keys()


def bad_steps_of_a_rank(spoiled_rank, grad_norm):
    meter = epoch_meter()
    spoil = math.nan if distributed.rank() == spoiled_rank else 1.0
    part = slice(4 * distributed.rank(), 4 * distributed.rank() + 4)
    measure(meter, 0, part=part)
    measure(meter, 1, part=part, spoil=spoil, grad_norm=grad_norm)
    measure(meter, 2, part=part)
    meter.sum_over_ranks({})
    return list(meter.bad_steps())


def test_a_loss_that_is_not_finite_on_one_rank_is_described_with_its_videos():
    (first,), (second,) = run_ranks(bad_steps_of_a_rank, 2, 1, math.nan)

    assert first == second
    assert "epoch 2, step 2 of 4: loss nan, gradient norm nan, learning rate 0.05" in first
    assert "rank 1 (loss nan), videos: video 4, video 5, video 6, video 7" in first
    assert "rank 0" not in first


def test_a_gradient_that_is_not_finite_is_described_with_the_videos_of_all():
    (first,), (second,) = run_ranks(bad_steps_of_a_rank, 2, None, math.inf)

    assert first == second
    assert "gradient norm inf" in first
    assert "rank 0 (loss" in first and "; rank 1 (loss" in first and "video 0, video 1" in first


def test_steps_that_a_loss_scaler_skips_are_counted_and_left_out_of_the_mean():
    meter = epoch_meter(skips_infinite_gradients=True)
    measure(meter, 0, grad_norm=3.0)
    measure(meter, 1, grad_norm=math.inf)
    measure(meter, 2, grad_norm=5.0)

    record = read(meter)

    assert (record["num_skipped"], record["grad_norm"]) == (1, 5.0)
    assert meter.summary(0.1)["grad_norm"] == 4.0


def test_a_step_without_a_finite_loss_is_left_out_of_the_metrics():
    meter, without = epoch_meter(), epoch_meter()
    for step in range(3):
        measure(meter, step, spoil=math.nan if step == 1 else 1.0)
        if step != 1:
            measure(without, step)

    for each in (meter, without):
        each.sum_over_ranks({})
    record, expected = meter.line(), without.line()

    names = ("loss", "top1_err", "top5_err")
    assert [record[name] for name in names] == [expected[name] for name in names]
    assert meter.summary(0.1)["loss"] == without.summary(0.1)["loss"]
    assert record["num_skipped"] == 1
    assert meter.sums.num_samples == 24  # the speed counts all steps


def test_an_interrupted_epoch_is_reported_as_an_uninterrupted_one():
    unbroken, broken = epoch_meter(), epoch_meter()
    for step in range(2):
        measure(unbroken, step)
        measure(broken, step)
        if step == 0:
            read(unbroken)
            read(broken)
    settle(broken)
    state = json.loads(json.dumps(broken.state()))  # plain values, as a checkpoint wants them

    resumed = epoch_meter()
    resumed.restore(state)
    for meter in (unbroken, resumed):
        measure(meter, 2)

    expected, actual = read(unbroken, {"num_failed": 1}), read(resumed, {"num_failed": 1})
    assert without_clocks(actual) == without_clocks(expected)
    assert without_clocks(resumed.summary(0.1)) == without_clocks(unbroken.summary(0.1))
    assert actual["iter"] == "3/4"
    assert resumed.sums.seconds >= broken.sums.seconds + state["seconds"]


def test_waiting_for_data_is_the_time_without_a_batch(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    meter = epoch_meter()
    for step in range(2):
        meter.data_stall.start()
        now[0] += 0.25  # waiting
        meter.data_stall.stop()
        meter.add(Outcome(torch.tensor(1.0), *samples(step)), ["a"])
        now[0] += 1.0  # working
        meter.end_step(step, 0.1, torch.tensor(1.0))
        now[0] += 0.75  # saving

    record = read(meter)

    assert (record["dt"], record["dt_data"], record["dt_net"]) == (2.0, 0.25, 1.75)
    assert record["clips_per_s"] == 4.0
    assert record["eta"] == "0:00:12"  # 2 steps of this epoch, 4 of the next
    assert meter.summary(0.1)["time_diff"] == 4.0
