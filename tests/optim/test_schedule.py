"""Learning rates against those that PySlowFast computed from its published files."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from slowfast_mvit.errors import ConfigError
from slowfast_mvit.optim.params import parameter_groups
from slowfast_mvit.optim.schedule import (
    build_schedule,
    cosine,
    peak_of,
    relative_steps,
    set_lr,
    with_warmup,
)

REFERENCE = Path(__file__).resolve().parents[1] / "reference" / "sampling_and_schedules.json"
GOLDEN = json.loads(REFERENCE.read_text())["lr_at_epoch_num_shards_1"]
# base_lr, end_lr, warm-up start, warm-up epochs, epochs: as in the published files.
RECIPES = {
    "Kinetics/MVITv2_S_16x4.yaml": (1e-4, 1e-6, 1e-6, 30.0, 200),
    "SSv2/MVITv2_S_16x4.yaml": (2.5e-3, 1e-6, 1e-4, 3.0, 100),
    "SSv2/MVITv2_L_40x3.yaml": (1.25e-3, 1e-6, 1e-6, 3.0, 40),
    "ImageNet/MVITv2_S.yaml": (2.5e-4, 1e-6, 1e-8, 70.0, 300),
}


@pytest.mark.parametrize("file_name", GOLDEN)
def test_rates_of_the_published_recipes(file_name):
    base_lr, end_lr, start_lr, warmup_epochs, max_epoch = RECIPES[file_name]

    lr_at = build_schedule(
        "cosine",
        base_lr=base_lr,
        end_lr=end_lr,
        max_epoch=max_epoch,
        warmup_epochs=warmup_epochs,
        warmup_start_lr=start_lr,
        cosine_after_warmup=True,
    )

    for epoch, expected in GOLDEN[file_name].items():
        assert lr_at(float(epoch)) == pytest.approx(expected, rel=1e-12, abs=0), epoch


def test_without_cosine_after_warmup_the_warm_up_ends_on_the_running_wave():
    lr_at = build_schedule(
        "cosine",
        base_lr=1.0,
        end_lr=0.0,
        max_epoch=4,
        warmup_epochs=2.0,
        warmup_start_lr=0.1,
        cosine_after_warmup=False,
    )

    assert lr_at(0) == pytest.approx(0.1)
    assert lr_at(1) == pytest.approx(0.3)  # half way to the wave's 0.5 at epoch 2
    assert lr_at(2) == pytest.approx(0.5)
    assert lr_at(4) == pytest.approx(0.0)


def test_a_run_shorter_than_its_warm_up_rises_all_the_way():
    lr_at = build_schedule(
        "cosine",
        base_lr=1.0,
        end_lr=0.5,
        max_epoch=2,
        warmup_epochs=4.0,
        warmup_start_lr=0.0,
        cosine_after_warmup=True,
    )

    assert [lr_at(epoch) for epoch in (0, 1, 1.75)] == [0.0, 0.25, 0.4375]


def test_relative_steps_change_at_their_epochs():
    lr_at = relative_steps(base_lr=0.1, steps=[0, 11, 14], lrs=[1, 0.1, 0.01])

    rates = [lr_at(epoch) for epoch in (0, 10.999, 11, 13.5, 14, 99)]

    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_relative_steps_are_warmed_up_too():
    lr_at = build_schedule(
        "steps_with_relative_lrs",
        base_lr=0.4,
        end_lr=0.0,
        max_epoch=10,
        warmup_epochs=2.0,
        warmup_start_lr=0.0,
        cosine_after_warmup=False,
        steps=[0, 5],
        lrs=[1, 0.5],
    )

    assert [lr_at(epoch) for epoch in (0, 1, 2, 5)] == pytest.approx([0.0, 0.2, 0.4, 0.2])


def test_no_warm_up_leaves_the_schedule_alone():
    schedule = relative_steps(base_lr=0.1, steps=[0], lrs=[1])

    assert with_warmup(schedule, warmup_epochs=0.0, start_lr=1.0) is schedule


@pytest.mark.parametrize(
    ("steps", "lrs"), [([], []), ([1, 2], [1, 0.1]), ([0, 5], [1]), ([0, 5, 5], [1, 0.1, 0.01])]
)
def test_steps_that_do_not_fit_are_refused(steps, lrs):
    with pytest.raises(ConfigError, match=r"SOLVER\.STEPS must start with 0"):
        relative_steps(base_lr=0.1, steps=steps, lrs=lrs)


def test_an_end_above_the_start_is_refused():
    with pytest.raises(ConfigError, match=r"COSINE_END_LR \(0.1\) must be below SOLVER.BASE_LR"):
        cosine(base_lr=0.1, end_lr=0.1, max_epoch=10)


def test_an_unknown_policy_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'cosin'.*Did you mean 'cosine'"):
        build_schedule(
            "cosin",
            base_lr=1.0,
            end_lr=0.0,
            max_epoch=1,
            warmup_epochs=0.0,
            warmup_start_lr=0.0,
            cosine_after_warmup=False,
        )


@pytest.mark.parametrize("policy", ["cosine", "steps_with_relative_lrs"])
def test_the_peak_is_the_highest_rate_of_all_steps(policy):
    epochs, steps, warmups = (1, 2, 7), (1, 3, 10), (0.0, 0.3, 1.0, 2.5, 7.0, 30.0)
    for max_epoch, num_steps, warmup_epochs, start_lr, after_warmup in itertools.product(
        epochs, steps, warmups, (0.0, 2.0), (False, True)
    ):
        lr_at = build_schedule(
            policy,
            base_lr=1.0,
            end_lr=0.01,
            max_epoch=max_epoch,
            warmup_epochs=warmup_epochs,
            warmup_start_lr=start_lr,
            cosine_after_warmup=after_warmup,
            steps=[0, 1, 4],
            lrs=[0.5, 0.1, 0.7],
        )

        peak = peak_of(lr_at, max_epoch=max_epoch, num_steps=num_steps, warmup_epochs=warmup_epochs)

        of_steps = [
            epoch + step / num_steps for epoch in range(max_epoch) for step in range(num_steps)
        ]
        assert peak.lr == max(map(lr_at, of_steps)) == lr_at(peak.epoch)
        assert peak.epoch == next(epoch for epoch in of_steps if lr_at(epoch) == peak.lr)
        assert peak.is_warmed_up == (of_steps[-1] >= warmup_epochs)


def test_each_group_gets_its_share_of_the_rate():
    net = torch.nn.Sequential()
    net.add_module("patch_embed", torch.nn.Linear(2, 2, bias=False))
    net.add_module("head", torch.nn.Linear(2, 2, bias=False))
    groups = parameter_groups(
        net.named_parameters(), weight_decay=0.0, zero_wd_1d=True, layer_decay=0.5, depth=1
    )
    optimizer = torch.optim.AdamW(groups, lr=1.0)

    set_lr(optimizer, 0.8)

    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.8]
