"""An interrupted run ends with the weights of an uninterrupted one, to the bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import tiny_batches, tiny_net, tiny_train

from slowfast_mvit.optim.schedule import cosine, relative_steps
from slowfast_mvit.runtime.checkpoint import checkpoint_path, latest_checkpoint
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.storage import read_torch

PROGRAM = Path(__file__).with_name("tiny_run.py")
REPOSITORY = Path(__file__).resolve().parents[2]


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path):
    unbroken = tiny_train(tiny_net(), tmp_path / "unbroken")
    broken = tmp_path / "broken"
    # The number of threads changes how sums are split, and so their last bits.
    threads = str(torch.get_num_threads())
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": threads}
    run = subprocess.Popen(
        [sys.executable, PROGRAM, broken],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert "two epochs are done" in run.stdout.readline()

    run.send_signal(signal.SIGKILL)
    run.communicate()
    tiny_train(tiny_net(), broken, resume_from=latest_checkpoint(broken))

    assert run.returncode == -signal.SIGKILL
    last = read_torch(checkpoint_path(broken, epoch=3))
    assert same_state(last["model_state"], unbroken.state_dict())
    expected = read_torch(checkpoint_path(tmp_path / "unbroken", epoch=3))["optimizer_state"]
    for index, state in expected["state"].items():
        assert same_state(last["optimizer_state"]["state"][index], state)
    epochs = [record["epoch"] for record in StatsLog(broken).read("train_epoch")]
    assert epochs == ["1/4", "2/4", "3/4", "4/4"]


@pytest.mark.parametrize("method", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_resumes_from_every_epoch(tmp_path, method, precision):
    settings = {"method": method, "precision": precision}
    unbroken = tiny_train(tiny_net(), tmp_path, **settings).state_dict()

    for epoch in range(4):
        checkpoint = checkpoint_path(tmp_path, epoch)
        resumed = tiny_train(tiny_net(), tmp_path / str(epoch), resume_from=checkpoint, **settings)
        assert same_state(resumed.state_dict(), unbroken)


def test_a_run_killed_while_it_saves_loses_that_checkpoint_only(tmp_path):
    tiny_train(tiny_net(), tmp_path, max_epoch=1)
    folder = tmp_path / "checkpoints"
    program = f"""
import os, signal, torch
from slowfast_mvit.runtime.checkpoint import save_checkpoint
def killed(content, file):
    file.write(b"half of it")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = killed
save_checkpoint({str(tmp_path)!r}, epoch=1, model_state={{}}, optimizer_state={{}}, cfg_text="",
                extra={{}})
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}

    run = subprocess.run([sys.executable, "-c", program], env=environment, timeout=120)

    assert run.returncode == -signal.SIGKILL
    assert len(list(folder.iterdir())) == 2
    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 0)
    tiny_train(tiny_net(), tmp_path, max_epoch=2, resume_from=latest_checkpoint(tmp_path))
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["checkpoint_epoch_00001.pyth", "checkpoint_epoch_00002.pyth"]


def test_validation_moves_no_random_stream(tmp_path):
    def validate(epoch, should_stop):
        torch.manual_seed(epoch)
        torch.rand(1000)
        return {"top1_err": 1.0, "top5_err": 1.0}

    without = tiny_train(tiny_net(), tmp_path / "without")
    with_it = tiny_train(tiny_net(), tmp_path / "with", validate=validate)

    assert same_state(with_it.state_dict(), without.state_dict())


def test_another_seed_gives_other_weights(tmp_path):
    three = tiny_train(tiny_net(), tmp_path / "three")
    four = tiny_train(tiny_net(), tmp_path / "four", seed=4)

    assert not same_state(three.state_dict(), four.state_dict())


def test_a_changed_seed_is_logged(tmp_path, caplog):
    tiny_train(tiny_net(), tmp_path, max_epoch=1)

    tiny_train(tiny_net(), tmp_path, seed=9, resume_from=latest_checkpoint(tmp_path))

    assert "RNG_SEED was 3 and is now 9" in caplog.text


def test_a_finished_run_is_left_as_it_is(tmp_path, caplog):
    finished = tiny_train(tiny_net(), tmp_path).state_dict()
    caplog.set_level("INFO")

    again = tiny_train(tiny_net(), tmp_path, resume_from=latest_checkpoint(tmp_path))

    assert same_state(again.state_dict(), finished)
    assert "all 4 epochs are finished already" in caplog.text


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_a_finished_run_that_is_extended_reports_the_jump_of_its_rate(
    tmp_path, caplog, layer_decay
):
    def optimizer(model):
        groups = [{"params": [p], "layer_decay": layer_decay} for p in model.parameters()]
        groups[-1]["layer_decay"] = 1.0
        return torch.optim.SGD(groups, momentum=0.9)

    for max_epoch in (4, 8):
        model = tiny_net()
        tiny_train(
            model,
            tmp_path,
            optimizer=optimizer(model),
            lr_at=cosine(base_lr=0.01, end_lr=0.001, max_epoch=max_epoch),
            max_epoch=max_epoch,
            resume_from=latest_checkpoint(tmp_path),
        )

    # The last of 3 steps of epoch 4 is at 1 - 1/12 of the wave; epoch 5 begins half down the other.
    assert "jumps from 0.001153 in the last step to 0.0055 in the next" in caplog.text
    assert "the checkpoint would continue with 0.001," in caplog.text


@pytest.mark.parametrize("max_epoch", [4, 5])
def test_the_rates_of_a_run_that_resumes_with_its_schedule_are_no_jump(tmp_path, caplog, max_epoch):
    caplog.set_level("INFO")
    lr_at = relative_steps(base_lr=0.1, steps=[0, 2, 4], lrs=[1, 0.1, 0.01])

    tiny_train(tiny_net(), tmp_path, lr_at=lr_at, max_epoch=max_epoch - 2)
    newest = latest_checkpoint(tmp_path)
    tiny_train(tiny_net(), tmp_path, lr_at=lr_at, max_epoch=max_epoch, resume_from=newest)

    assert "jumps" not in caplog.text
    last, following = {4: ("0.1", "0.01"), 5: ("0.01", "0.01")}[max_epoch]
    assert f"learning rate: {last} in the last step, {following} in the next" in caplog.text


def test_a_checkpoint_within_an_epoch_resumes_with_its_next_step(tmp_path):
    steps = []

    class Watched(type(tiny_batches())):
        def epoch(self, epoch, start_step=0):
            steps.append((epoch, start_step))
            return super().epoch(epoch, start_step)

    tiny_train(tiny_net(), tmp_path, max_epoch=1)
    content = read_torch(checkpoint_path(tmp_path, 0))
    content["slowfast_mvit"]["step"] = 2
    torch.save(content, tmp_path / "within.pyth")

    loader = Watched(tiny_batches().batches)
    tiny_train(tiny_net(), tmp_path, resume_from=tmp_path / "within.pyth", loader=loader)

    assert steps == [(1, 2), (2, 0), (3, 0)]
