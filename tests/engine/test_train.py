"""The training loop against plain torch, and what it writes, counts and refuses."""

import csv

import pytest
import torch
from tiny_run import (
    CPU,
    Batches,
    add_and_check,
    clip_batch,
    prepare_noisy,
    prepare_views,
    tiny_batches,
    tiny_net,
    tiny_train,
)
from torch import nn

from slowfast_mvit.engine.failed_videos import FailureLimit
from slowfast_mvit.engine.meter import num_correct
from slowfast_mvit.engine.settings import TrainSettings
from slowfast_mvit.engine.train import apply_gradients
from slowfast_mvit.errors import ConfigError, UserError
from slowfast_mvit.optim.objectives import Recognition, cross_entropy
from slowfast_mvit.optim.schedule import cosine
from slowfast_mvit.runtime.checkpoint import checkpoint_path
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.runtime.precision import loss_scaler
from slowfast_mvit.storage import read_torch
from slowfast_mvit.structures import FailedVideo


def without_masks(model):
    """The same net without dropout and drop path, which plain torch would draw differently."""
    model.dropout.p = model.drop_path.p = 0.0
    return model


def plain(batch, rng):
    return prepare_views(batch), batch.labels


def failed(name, reason="truncated"):
    return FailedVideo(name, f"/data/{name}.mp4", reason)


@pytest.mark.parametrize(
    ("method", "reference"),
    [
        ("sgd", lambda groups: torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)),
        ("adamw", lambda groups: torch.optim.AdamW(groups, lr=0.0, fused=True)),
    ],
)
def test_an_epoch_equals_a_plain_torch_loop(tmp_path, method, reference):
    theirs = without_masks(tiny_net())
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    optimizer = reference([{"params": matrices, "weight_decay": 0.05}, {"params": vectors}])
    optimizer.param_groups[1]["weight_decay"] = 0.0
    for step, batch in enumerate(tiny_batches().batches):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 + step / 3)
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(prepare_views(batch)), batch.labels).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()

    ours = tiny_train(
        without_masks(tiny_net()),
        tmp_path,
        objective=Recognition(plain, cross_entropy),
        method=method,
        lr_at=lambda epoch: 0.01 * (1 + epoch),
        max_epoch=1,
        clip_norm=0.5,
    )

    for actual, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("clip_value", "clip_norm", "expected"),
    [
        (None, None, [3.0, -4.0]),
        (None, 1.0, [0.6, -0.8]),
        (None, 10.0, [3.0, -4.0]),
        (3.5, None, [3.0, -3.5]),
        (3.5, 1.0, [3.0, -3.5]),
    ],
    ids=["none", "norm", "norm not reached", "value", "value wins over norm"],
)
def test_gradients_are_clipped(clip_value, clip_norm, expected):
    model = nn.Linear(2, 1, bias=False)
    start = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.tensor([[3.0, -4.0]])).sum().backward()  # the gradient is the input
    settings = TrainSettings(1, 0, clip_value=clip_value, clip_norm=clip_norm)

    norm = apply_gradients(model, optimizer, loss_scaler(CPU, "fp32"), settings)

    torch.testing.assert_close((start - model.weight)[0], torch.tensor(expected))
    assert norm.item() == pytest.approx(5.0)
    assert model.weight.grad is None


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.half)])
def test_low_precision_trains_float32_weights(tmp_path, precision, dtype):
    seen = []

    def loss(logits, targets):
        seen.append(logits.dtype)
        return cross_entropy(logits, targets)

    model = tiny_train(
        tiny_net(),
        tmp_path,
        objective=Recognition(prepare_noisy, loss),
        precision=precision,
        max_epoch=2,
    )

    assert set(seen) == {dtype}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    losses = [record["loss"] for record in StatsLog(tmp_path).read("train_epoch")]
    assert losses[1] < losses[0]
    content = read_torch(checkpoint_path(tmp_path, 1))
    assert ("scaler_state" in content) == (precision == "fp16")


def test_an_unknown_precision_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"'fp8'.*TRAIN\.PRECISION|TRAIN\.PRECISION.*'fp8'"):
        tiny_train(tiny_net(), tmp_path, precision="fp8")


def test_checkpoints_and_validations_come_when_due_and_at_the_end(tmp_path):
    validated = []

    def validate(epoch, should_stop):
        validated.append(epoch)
        return {"top1_err": 10.0 - epoch if epoch < 4 else 50.0, "top5_err": 0.0}

    tiny_train(
        tiny_net(), tmp_path, max_epoch=5, checkpoint_period=2, eval_period=3, validate=validate
    )

    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.pyth", *(f"checkpoint_epoch_0000{epoch}.pyth" for epoch in (2, 4, 5))]
    assert validated == [2, 4]
    records = StatsLog(tmp_path).read("val_epoch")
    assert [record["epoch"] for record in records] == ["3/5", "5/5"]
    assert [record["min_top1_err"] for record in records] == [8.0, 8.0]


def test_the_log_has_the_fields_of_pyslowfast(tmp_path):
    tiny_train(tiny_net(), tmp_path, loader=tiny_batches(5), max_epoch=1, log_period=2)

    steps = StatsLog(tmp_path).read("train_iter_")
    assert [record["iter"] for record in steps] == ["2/5", "4/5", "5/5"]
    fields = (
        "clips_per_s dt dt_data dt_net epoch eta gpu_mem grad_norm iter loss lr num_failed "
        "num_skipped num_tried top1_err top5_err"
    )
    assert fields.split() == sorted(steps[0].keys() - {"_type"})
    (epoch,) = StatsLog(tmp_path).read("train_epoch")
    assert epoch["epoch"] == "1/1"
    assert epoch["top5_err"] == 0.0  # there are 4 classes
    assert 0 <= epoch["top1_err"] <= 100
    assert epoch["lr"] == steps[-1]["lr"]


def test_people_read_the_numbers_in_a_line(tmp_path, caplog):
    caplog.set_level("INFO")

    def validate(epoch, should_stop):
        return {"top1_err": 40.0, "top5_err": 0.0, "num_failed": 2}

    tiny_train(tiny_net(), tmp_path, max_epoch=1, lr_at=lambda epoch: 1e-06, validate=validate)

    step, epoch, saved, validated = [record.getMessage() for record in caplog.records]
    assert step.startswith("epoch 1/1 training: step 3/3  loss 1.")
    assert "  lr 1e-06  " in step and "GPU" not in step and "ETA 0:00:00" in step
    assert epoch.startswith("epoch 1/1 trained: loss 1.")
    assert saved == f"saved {checkpoint_path(tmp_path, 0)}"
    assert "top-1 error 40.00 %  (least 40.00 %)" in validated
    assert "failed videos 2" in validated


def test_the_logged_epoch_counts_every_sample_once(tmp_path):
    model = without_masks(tiny_net())
    loader = Batches([clip_batch("abcdef", seed=0), clip_batch("ab", seed=1)])
    logits = [model(prepare_views(batch)) for batch in loader.batches]
    losses = [cross_entropy(x, b.labels) for x, b in zip(logits, loader.batches, strict=True)]
    right = sum(
        int((x.argmax(1) == b.labels).sum()) for x, b in zip(logits, loader.batches, strict=True)
    )

    tiny_train(
        model,
        tmp_path,
        objective=Recognition(plain, cross_entropy),
        loader=loader,
        lr_at=lambda epoch: 0.0,
        max_epoch=1,
    )

    (epoch,) = StatsLog(tmp_path).read("train_epoch")
    assert epoch["loss"] == pytest.approx((6 * losses[0].item() + 2 * losses[1].item()) / 8)
    assert epoch["top1_err"] == pytest.approx(100 * (1 - right / 8))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(tmp_path, bad):
    loader = tiny_batches(4)
    poisoned = loader.batches[1]

    def loss(logits, targets):
        is_bad = torch.equal(targets, poisoned.labels)
        return cross_entropy(logits, targets) * (bad if is_bad else 1.0)

    with pytest.raises(UserError) as caught:
        tiny_train(tiny_net(), tmp_path, objective=Recognition(prepare_noisy, loss), loader=loader)

    message = str(caught.value)
    assert f"epoch 1, step 2 of 4: loss {bad:g}" in message
    assert "learning rate 0.0099" in message
    assert "videos: a, b, c, d, e, f" in message
    assert not checkpoint_path(tmp_path, 0).exists()


def test_a_gradient_that_is_not_finite_in_the_last_step_stops_too(tmp_path):
    def loss(logits, targets):
        # The square root has a finite value and an infinite slope at 0.
        return cross_entropy(logits, targets) + (logits - logits.detach()).abs().sum().sqrt()

    with pytest.raises(UserError, match=r"gradient norm (nan|inf)"):
        tiny_train(
            tiny_net(),
            tmp_path,
            objective=Recognition(prepare_noisy, loss),
            loader=tiny_batches(1),
        )

    assert not checkpoint_path(tmp_path, 0).exists()


def test_a_crash_leaves_the_checkpoint_before(tmp_path):
    class Crashing(Batches):
        def epoch(self, epoch, start_step=0):
            if epoch == 2:
                raise OSError("the disk went away")
            yield self.batches[0]

    with pytest.raises(OSError, match="the disk went away"):
        tiny_train(tiny_net(), tmp_path, loader=Crashing(tiny_batches(1).batches))

    files = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert files == ["checkpoint_epoch_00001.pyth", "checkpoint_epoch_00002.pyth"]
    assert read_torch(tmp_path / "checkpoints" / files[-1])["epoch"] == 1


def test_a_checkpoint_has_the_keys_that_pyslowfast_reads_and_plain_values_of_ours(tmp_path):
    tiny_train(tiny_net(), tmp_path, max_epoch=1, extra={"input_spec": {"mean": [0.45]}})

    content = torch.load(checkpoint_path(tmp_path, 0), weights_only=True)

    assert content.keys() == {"epoch", "model_state", "optimizer_state", "cfg", "slowfast_mvit"}
    assert content["epoch"] == 0
    assert content["cfg"] == "RNG_SEED: 3\n"
    assert content["model_state"].keys() == tiny_net().state_dict().keys()
    assert all("layer_decay" in group for group in content["optimizer_state"]["param_groups"])
    assert content["slowfast_mvit"] == {
        "step": 0,
        "seed": 3,
        "videos_per_step": 6,
        "world_size": 1,
        "num_averaged": None,
        "num_skipped": 0,
        "next_lr": cosine(base_lr=0.01, end_lr=1e-6, max_epoch=4)(1.0),
        "input_spec": {"mean": [0.45]},
    }


def test_failed_videos_are_listed_once_and_a_few_are_tolerated(tmp_path):
    batches = [clip_batch("abcdef", seed=0, failures=[failed("=x")]), clip_batch("abcdef")]

    tiny_train(tiny_net(), tmp_path, loader=Batches(batches), max_failed_fraction=0.1)

    with open(tmp_path / "failed_videos.csv", newline="") as file:
        rows = list(csv.reader(file))
    row = ["'=x", "/data/=x.mp4", "truncated", "train", "1"]
    assert rows == [["video_id", "path", "reason", "split", "epoch"], row]


def test_too_many_failed_videos_stop_the_run(tmp_path):
    batches = [clip_batch("abcdef", failures=[failed("x"), failed("y")]), clip_batch("abcdef")]

    with pytest.raises(UserError) as caught:
        tiny_train(tiny_net(), tmp_path, loader=Batches(batches), max_failed_fraction=0.1)

    assert "2 of 14 videos" in str(caught.value)
    assert "/data/x.mp4: truncated" in str(caught.value)
    assert "failed_videos.csv" in str(caught.value)


def test_an_early_cluster_of_failures_stops_nothing(tmp_path):
    limit = FailureLimit(tmp_path / "failed.csv", max_fraction=0.01, num_videos=1000)

    limit.start_epoch()
    for number in range(10):
        limit.add(clip_batch(["a"], failures=[failed(f"video {number}")]))
        add_and_check(limit)

    limit.add(clip_batch(["a"], failures=[failed("one more")]))
    with pytest.raises(UserError, match="11 of 1,000 videos"):
        add_and_check(limit)


def test_the_share_is_counted_from_zero_in_each_epoch(tmp_path):
    limit = FailureLimit(tmp_path / "failed.csv", max_fraction=0.5, num_videos=2)

    for _ in range(3):
        limit.start_epoch()
        limit.add(clip_batch("a", failures=[failed("x")]))
        add_and_check(limit)
        limit.end_epoch()

    assert (tmp_path / "failed.csv").read_text().splitlines()[1:] == [
        "x,/data/x.mp4,truncated,train,1"
    ]


@pytest.mark.parametrize(("k", "expected"), [(1, 1), (2, 2), (5, 3)])
def test_the_right_ones_are_counted_with_fewer_classes_than_k(k, expected):
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])

    assert num_correct(logits, torch.tensor([0, 1, 2]), k) == expected
