"""A step whose loss or gradient is not finite changes nothing, on no rank, and is reported."""

import logging
import math
from tempfile import TemporaryDirectory
from unittest import mock

import pytest
import torch
from ranks import run_ranks
from tiny_run import CPU, prepare_noisy, tiny_batches, tiny_net, tiny_train

from slowfast_mvit.engine import train as loop
from slowfast_mvit.errors import UserError
from slowfast_mvit.optim.averaging import moving_average
from slowfast_mvit.optim.objectives import Outcome, cross_entropy
from slowfast_mvit.optim.params import build_optimizer, parameter_groups
from slowfast_mvit.runtime.checkpoint import checkpoint_path
from slowfast_mvit.runtime.distributed import rank
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.runtime.parallel import parallelise, whole_optimizer_state, whole_state
from slowfast_mvit.storage import read_torch

# Faults of a step, as a function of the logits and the loss.
SPOILED = {
    "loss, not its gradient": lambda logits, loss: loss + math.nan,
    "loss, and no gradient": lambda logits, loss: torch.where(loss > 0, math.inf, loss),
    "both": lambda logits, loss: loss * math.nan,
    "gradient, not its loss": lambda logits, loss: (
        loss + (logits - logits.detach()).abs().sum().sqrt()  # infinite slope at 0
    ),
}


class Objective:
    """Cross-entropy, spoiled in some micro-batches of a rank."""

    def __init__(self, spoil, *, batches=(), on_rank=0):
        self.spoil, self.batches, self.on_rank = SPOILED[spoil], batches, on_rank
        self.num_batches = 0

    def __call__(self, model, batch, rng):
        inputs, labels = prepare_noisy(batch, rng)
        logits = model(inputs)
        loss = cross_entropy(logits, labels)
        if self.num_batches in self.batches and rank() == self.on_rank:
            loss = self.spoil(logits, loss)
        self.num_batches += 1
        return Outcome(loss, logits.detach(), labels)


def states(
    *,
    strategy=None,
    method="adamw",
    momentum=0.9,
    dampening=0.0,
    left_out=None,
    **settings,
):
    """Everything that two epochs of training change; the step ``left_out`` is not taken at all."""
    model = tiny_net()
    average = moving_average(model, 0.8)
    module = parallelise(model, strategy=strategy, device=CPU) if strategy else model
    if strategy == "fsdp":
        parallelise(average.module, strategy=strategy, device=CPU)
    optimizer = build_optimizer(
        parameter_groups(model.named_parameters(), weight_decay=0.05, zero_wd_1d=True),
        method=method,
        lr=0.0,
        momentum=momentum,
        dampening=dampening,
        nesterov=False,
    )
    number = -1
    apply, update = loop.apply_gradients, average.update_parameters

    def apply_gradients(model, optimizer, scaler, settings):
        nonlocal number
        number += 1
        if number != left_out:
            return apply(model, optimizer, scaler, settings)
        optimizer.zero_grad()
        return torch.tensor(1.0)

    def update_parameters(model, is_skipped):
        if left_out is None:
            update(model, is_skipped)
        elif number != left_out:
            update(model)

    with (
        TemporaryDirectory() as folder,
        mock.patch.object(loop, "apply_gradients", apply_gradients),
        mock.patch.object(average, "update_parameters", update_parameters),
    ):
        tiny_train(
            model,
            folder,
            module=module,
            average=average,
            optimizer=optimizer,
            loader=tiny_batches(4),
            **{"max_epoch": 2, "max_skipped_steps": 1, "log_period": 3, **settings},
        )
    # In several processes only the first has whole states; each compares its own weights too.
    of_rank = [
        getattr(p, "to_local", p.detach)().detach().clone()
        for p in [*model.parameters(), *average.module.parameters()]
    ]
    ema = whole_state(average.module), int(average.n_averaged)
    return whole_state(module), whole_optimizer_state(optimizer), ema, of_rank


def same(actual, expected):
    """Compare nested values to the bit; all have to be finite."""
    if isinstance(expected, torch.Tensor):
        return torch.equal(actual, expected) and bool(actual.isfinite().all())
    if isinstance(expected, dict):
        return actual.keys() == expected.keys() and same([*actual.values()], [*expected.values()])
    if isinstance(expected, (list, tuple)):
        return all(same(a, b) for a, b in zip(actual, expected, strict=True))
    return actual == expected


def skips_exactly(spoil, step=2, *, on_rank=0, **settings):
    """Return whether a run with a spoiled step equals the run without that step."""
    last = (step + 1) * settings.get("accum_steps", 1) - 1
    bad = Objective(spoil, batches=[last], on_rank=on_rank)
    skipped = states(objective=bad, **settings)
    return same(skipped, states(objective=Objective(spoil), left_out=step, **settings))


def test_a_run_without_a_step_differs_from_the_whole_run():
    runs = [states(objective=Objective("both"), left_out=step) for step in (None, 2)]

    assert not any(same(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize(
    "optimizer",
    [
        {"method": "adamw"},
        {"method": "adam"},
        {"method": "sgd"},
        {"method": "sgd", "momentum": 0.0},
        {"method": "sgd", "dampening": 0.1},
    ],
    ids=str,
)
def test_a_spoiled_step_is_as_if_it_had_not_been(optimizer, step):
    assert skips_exactly("both", step, **optimizer)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("spoil", SPOILED)
def test_whatever_is_not_finite_in_any_batch_of_a_step(spoil, precision):
    assert skips_exactly(spoil, precision=precision)
    assert skips_exactly(spoil, step=1, accum_steps=2, clip_norm=0.5, precision=precision)


DDP, FSDP = {"strategy": "ddp"}, {"strategy": "fsdp", "accum_steps": 2, "precision": "bf16"}
CASES = [("both", DDP | {"method": "sgd"}), ("loss, and no gradient", FSDP)]
ALL_CASES = [
    (spoil, strategy | {"step": step, "method": method})
    for spoil in SPOILED
    for strategy in (DDP, DDP | {"accum_steps": 2}, FSDP)
    for step, method in ((0, "adamw"), (1, "adam"), (0, "sgd"))
]


def failures_on_ranks(cases):
    """Return the cases that fail on this rank."""
    return [case for case in cases if not skips_exactly(case[0], on_rank=1, max_epoch=1, **case[1])]


@pytest.mark.parametrize(
    "cases", [CASES, pytest.param(ALL_CASES, marks=pytest.mark.nightly)], ids=["two", "all"]
)
def test_all_ranks_skip_a_step_that_is_spoiled_on_one(cases):
    assert run_ranks(failures_on_ranks, 2, cases) == [[], []]


def error_of_a_rank():
    model = tiny_net()
    module = parallelise(model, strategy="ddp", device=CPU)
    spoiled = Objective("loss, not its gradient", batches=[1], on_rank=1)
    with TemporaryDirectory() as folder, pytest.raises(UserError) as caught:
        tiny_train(model, folder, module=module, objective=spoiled)
    return str(caught.value), [p.detach().clone() for p in model.parameters()]


def test_all_ranks_stop_with_the_same_error_and_weights():
    first, second = run_ranks(error_of_a_rank, 2)

    assert same(first, second)
    assert "epoch 1, step 2 of 3: loss nan, gradient norm nan" in first[0]
    assert "rank 1 (loss nan), videos: a, b, c, d, e, f. This is skipped step number 1" in first[0]


def test_a_scaler_of_float16_skips_steps_that_do_not_count(tmp_path):
    overflow = Objective("gradient, not its loss", batches=[1])
    tiny_train(tiny_net(), tmp_path, objective=overflow, precision="fp16")

    with pytest.raises(UserError, match="step 2 of 3: loss nan"):
        tiny_train(tiny_net(), tmp_path, objective=Objective("both", batches=[1]), precision="fp16")


def test_a_skipped_step_is_reported_with_its_videos(tmp_path, caplog):
    spoiled = Objective("both", batches=[1])

    tiny_train(tiny_net(), tmp_path, objective=spoiled, max_epoch=1, max_skipped_steps=2)

    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    text = warning.getMessage()
    assert "epoch 1, step 2 of 3: loss nan, gradient norm nan, learning rate 0.0098" in text
    assert "videos: a, b, c, d, e, f. Not finite, so this step was skipped" in text
    assert "1 of the 2 that TRAIN.MAX_SKIPPED_STEPS allows" in text
    (line,) = StatsLog(tmp_path).read("train_iter_")
    assert line["num_skipped"] == 1 and math.isfinite(line["loss"])


def test_one_step_more_than_the_limit_stops_also_after_a_resume(tmp_path):
    def spoiled(number):
        return Objective("both", batches=[number])

    tiny_train(tiny_net(), tmp_path, objective=spoiled(2), max_epoch=1, max_skipped_steps=1)
    checkpoint = checkpoint_path(tmp_path, 0)
    with pytest.raises(UserError, match=r"epoch 2, step 1 of 3.*skipped step number 2") as caught:
        tiny_train(
            tiny_net(),
            tmp_path,
            objective=spoiled(0),
            max_epoch=2,
            max_skipped_steps=1,
            resume_from=checkpoint,
        )

    assert "TRAIN.MAX_SKIPPED_STEPS is 1" in str(caught.value)
    assert not checkpoint_path(tmp_path, 1).exists()


def test_a_run_that_stops_has_written_finite_weights_only(tmp_path):
    model = tiny_net()
    spoiled = Objective("both", batches=[7])
    with pytest.raises(UserError, match="epoch 3, step 2 of 3"):
        tiny_train(model, tmp_path, objective=spoiled, checkpoint_steps=1, log_period=100)

    states = [read_torch(path)["model_state"] for path in tmp_path.rglob("*.pyth")]
    assert len(states) == 4  # after both epochs, and the newest two inside epochs
    for state in [*states, model.state_dict()]:
        assert all(values.isfinite().all() for values in state.values())
