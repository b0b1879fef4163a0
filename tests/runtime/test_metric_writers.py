"""Curves, read back with TensorBoard's own reader; Weights & Biases through a stand-in."""

import sys
import types

import pytest

from slowfast_mvit.errors import UserError
from slowfast_mvit.runtime.metric_writers import TensorBoard, Wandb, points

STEPS_PER_EPOCH = 4


def train_record(epoch, step, **changes):
    record = {
        "_type": "train_iter_",
        "epoch": f"{epoch}/3",
        "iter": f"{step}/{STEPS_PER_EPOCH}",
        "loss": 1 / (STEPS_PER_EPOCH * epoch + step),
        "lr": 1e-6,
        "grad_norm": 2.5,
        "top1_err": 75.0,
        "top5_err": 12.5,
        "clips_per_s": 37.5,
        "dt": 0.5,
        "dt_data": 0.125,
        "dt_net": 0.375,
        "eta": "0:00:12",
        "gpu_mem": "11.25G",
        "num_skipped": 1,
        "num_failed": 3,
    }
    return record | changes


def val_record(epoch):
    numbers = {"top1_err": 60.0, "top5_err": 20.0, "loss": 1.5, "num_failed": 2, "time_diff": 1.0}
    return {"_type": "val_epoch", "epoch": f"{epoch}/3", **numbers}


def epoch_record(epoch):
    return {"_type": "train_epoch", "epoch": f"{epoch}/3", "RAM": "3.25/15.60G", "loss": 0.5}


def write_run(folder, records):
    board = TensorBoard(folder, steps_per_epoch=STEPS_PER_EPOCH, config_text="RNG_SEED: 3\n")
    for record in records:
        board.write(record)
    board.close()


def read_back(folder):
    """Curve -> [(step, value)], and the config's text."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    curves = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]
    }
    texts = [
        event.tensor_proto.string_val[0].decode() for event in events.Tensors(tags["tensors"][0])
    ]
    return curves, texts


def test_tensorboard_shows_every_reported_number(tmp_path):
    pytest.importorskip("tensorboard")
    records = [train_record(1, 2), train_record(1, 4), epoch_record(1), val_record(1)]

    write_run(tmp_path, [*records, train_record(2, 2)])

    curves, texts = read_back(tmp_path)
    assert [step for step, _ in curves["Train/loss"]] == [2, 4, 6]
    assert curves["Train/loss"][0][1] == pytest.approx(1 / 6)
    last = {name: (values[-1][0], pytest.approx(values[-1][1])) for name, values in curves.items()}
    assert last == {
        "Train/loss": (6, 0.1),
        "Train/lr": (6, 1e-6),
        "Train/grad_norm": (6, 2.5),
        "Train/Top1_err": (6, 75.0),
        "Train/Top5_err": (6, 12.5),
        "Speed/clips_per_s": (6, 37.5),
        "Speed/seconds_per_step": (6, 0.5),
        "Speed/share_waiting_for_data": (6, 0.25),
        "Memory/gpu_GiB": (6, 11.25),
        "Memory/machine_GiB": (4, 3.25),
        "Trouble/skipped_steps": (6, 1),
        "Trouble/failed_videos": (6, 3),
        "Val/loss": (4, 1.5),
        "Val/Top1_err": (4, 60.0),
        "Val/Top5_err": (4, 20.0),
        "Val/failed_videos": (4, 2),
    }
    assert texts == ["    RNG_SEED: 3"]


def test_a_resumed_run_shows_no_step_twice(tmp_path):
    pytest.importorskip("tensorboard")
    first = [train_record(1, 2), train_record(1, 4), val_record(1), train_record(2, 2, loss=9.0)]
    write_run(tmp_path, first)

    write_run(tmp_path, [train_record(2, 2, loss=5.0), train_record(2, 4)])

    curves, _ = read_back(tmp_path)
    assert [step for step, _ in curves["Train/loss"]] == [2, 4, 6, 8]
    assert curves["Train/loss"][2] == (6, 5.0)
    assert [step for step, _ in curves["Val/loss"]] == [4]


def test_a_run_that_resumes_with_its_validation_does_not_drop_earlier_steps(tmp_path):
    pytest.importorskip("tensorboard")
    write_run(tmp_path, [train_record(1, 2), train_record(1, 4)])

    write_run(tmp_path, [val_record(1), train_record(2, 2)])

    curves, _ = read_back(tmp_path)
    assert [step for step, _ in curves["Train/loss"]] == [2, 4, 6]


def test_values_that_a_record_lacks_add_no_point():
    assert points({"_type": "val_epoch", "epoch": "1/3", "top1_err": 50.0, "loss": None}) == {
        "Val/Top1_err": 50.0
    }
    assert points({"_type": "val_iter", "epoch": "1/3", "top1_err": 50.0}) == {}


@pytest.fixture
def fake_wandb(monkeypatch):
    """A stand-in for the package wandb; a list of what was called."""
    calls = []

    class Run:
        def log(self, values, step):
            calls.append(("log", step, values))

        def finish(self):
            calls.append(("finish",))

    def init(**arguments):
        calls.append(("init", arguments))
        return Run()

    package = types.ModuleType("wandb")
    package.init, package.Error = init, type("Error", (Exception,), {})
    monkeypatch.setitem(sys.modules, "wandb", package)
    return calls


def open_wandb(folder):
    return Wandb(folder, project="mvit", config={"RNG_SEED": 3}, steps_per_epoch=STEPS_PER_EPOCH)


def test_wandb_gets_the_curves_and_a_run_resumes_under_its_id(tmp_path, fake_wandb):
    run = open_wandb(tmp_path / "k400")
    run.write(train_record(2, 2))
    run.write({"_type": "val_iter", "epoch": "2/3"})
    run.close()
    open_wandb(tmp_path / "k400")
    open_wandb(tmp_path / "other")

    (_, first), (_, step, values), finished, (_, again), (_, other) = fake_wandb
    assert (first["project"], first["name"], first["resume"]) == ("mvit", "k400", "allow")
    assert first["config"] == {"RNG_SEED": 3} and first["dir"] == str(tmp_path / "k400")
    assert step == 6 and values["Train/loss"] == 0.1 and values["Memory/gpu_GiB"] == 11.25
    assert finished == ("finish",)
    assert again["id"] == first["id"] != other["id"]


def test_an_error_of_wandb_is_reported_with_remedies(tmp_path, fake_wandb, monkeypatch):
    def refuse(**arguments):
        raise sys.modules["wandb"].Error("no API key configured")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)

    with pytest.raises(UserError, match=r"no API key configured.*wandb login.*WANDB_MODE=offline"):
        open_wandb(tmp_path)


def test_a_missing_package_is_reported_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)

    with pytest.raises(UserError, match=r"WANDB.ENABLE.*pip install 'slowfast_mvit\[wandb\]'"):
        open_wandb(tmp_path)
    with pytest.raises(UserError, match=r"TENSORBOARD.ENABLE.*pip install .*\[tensorboard\]"):
        write_run(tmp_path, [])
