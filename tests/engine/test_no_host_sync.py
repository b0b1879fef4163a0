"""A training step never makes the host wait for the device, but where a line of the log is due.

The device here is torch's ``meta``, which computes shapes and has no numbers. So reading one
fails, and each tensor that comes back from it or goes to it can be seen. Host tensors that stay
on the host (AdamW counts its steps in them, whatever the device) do not wait.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slowfast_mvit import builders
from slowfast_mvit.config import load_config
from slowfast_mvit.engine.reporter import Reporter
from slowfast_mvit.engine.settings import TrainSettings
from slowfast_mvit.engine.state import Training, TrainingState
from slowfast_mvit.engine.train import apply_gradients, train
from slowfast_mvit.optim import params
from slowfast_mvit.optim.averaging import moving_average
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.runtime.precision import loss_scaler
from slowfast_mvit.structures import ClipBatch

DEVICE = torch.device("meta")
NUM_STEPS = 4
DEMO_WITH_ALL_THAT_IS_RANDOM = [
    *("AUG.ENABLE", "True", "AUG.RE_PROB", "1.0", "MIXUP.ENABLE", "True"),
    *("MVIT.DROPPATH_RATE", "0.2", "MODEL.DROPOUT_RATE", "0.5"),
]


class Waiting(TorchDispatchMode):
    """Notes each operation after which the host would wait for a GPU.

    A tensor is sent to the device without waiting only if asked so (``non_blocking``, from pinned
    memory); a single number of the host becomes an argument of the kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        gone_in = {tensor.device.type for tensor in tensors(args) if tensor.ndim > 0}
        come_out = {tensor.device.type for tensor in tensors(result)}
        crosses = len(gone_in | come_out) > 1
        if crosses and not (gone_in == {"cpu"} and kwargs.get("non_blocking")):
            self.noted.append(str(operation))
        return result


class Sending(TorchFunctionMode):
    """Notes numbers of Python that are made a tensor on the device, which waits as well."""

    def __init__(self, noted: list[str]) -> None:
        super().__init__()
        self.noted = noted

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in (torch.tensor, torch.as_tensor) and result.device.type != "cpu":
            self.noted.append(function.__name__)
        return result


def tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Enough(Exception):
    """The loader has handed out what it has; the epoch, whose end is reported, is not over."""


class Steps:
    """Batches without numbers; what happened in the first step, which fills caches, is dropped."""

    num_videos = 4

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting

    def __len__(self) -> int:
        return 100

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[ClipBatch]:
        for step in range(NUM_STEPS):
            if step == 1:
                self.waiting.noted.clear()
            yield ClipBatch(
                pixels=torch.zeros(4, 1, 3, 8, 48, 48, dtype=torch.uint8),
                labels=torch.zeros(4, dtype=torch.int64),
                video_ids=("a", "b", "c", "d"),
                views=torch.zeros(1, 2, dtype=torch.int64),
            )
        raise Enough


def as_python_numbers(numbers: list[float]) -> None:
    torch.tensor(numbers, device=DEVICE)


def as_host_tensor(numbers: list[float]) -> None:
    torch.tensor(numbers).to(DEVICE)


@pytest.fixture(autouse=True)
def allow_the_device(monkeypatch):
    """Autocast, torch.Generator and fused optimizers refuse a device without numbers.

    None of them waits for one.
    """
    host_generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device: host_generator())
    monkeypatch.setattr(torch, "autocast", lambda *words, **options: contextlib.nullcontext())
    optimizers = importlib.import_module("torch.optim.optimizer")
    have_fused_steps = ["cpu", DEVICE.type]
    monkeypatch.setattr(
        optimizers, "_get_fused_kernels_supported_devices", lambda: have_fused_steps
    )
    monkeypatch.setattr(params, "HAVE_FUSED_STEPS", {DEVICE.type})


def train_some_steps(
    output_dir, *, changed_objective=lambda outcome: outcome, average=None, **settings
):
    config = load_config("configs/Demo/motion.yaml", DEMO_WITH_ALL_THAT_IS_RANDOM)
    model = builders.build_model(config).to(DEVICE)
    objective = builders.build_objective(config)
    waiting = Waiting()
    with waiting, Sending(waiting.noted), pytest.raises(Enough):
        optimizer, scaler = builders.build_optimizer(config, model), loss_scaler(DEVICE, "fp32")
        train(
            Training(
                TrainingState(model, model, optimizer, scaler, average and average(model)),
                lambda *words: changed_objective(objective(*words)),
                builders.build_schedule(config),
                Steps(waiting),
                TrainSettings(max_epoch=1, seed=0, log_period=1000, **settings),
                DEVICE,
                output_dir,
                Reporter(StatsLog(output_dir)),
                cfg_text="",
            )
        )
    return waiting.noted


@pytest.mark.parametrize("settings", [{"clip_norm": 1.0}, {"clip_value": 1.0}], ids=str)
def test_steps_without_a_line_of_the_log_never_wait(tmp_path, settings):
    assert train_some_steps(tmp_path, **settings) == []


def test_neither_do_steps_of_several_batches_with_a_moving_average(tmp_path):
    def average(model):
        return moving_average(model, decay=0.99)

    assert train_some_steps(tmp_path, average=average, accum_steps=2) == []


class Reading(TorchDispatchMode):
    """Counts the numbers that Python asks of tensors, on whatever device."""

    num_read = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.num_read += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("fused", "waits"), [(True, False), (None, True)])
def test_only_a_fused_optimizer_skips_a_step_without_waiting(fused, waits, precision):
    model = torch.nn.Linear(2, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = loss_scaler(torch.device("cpu"), precision)

    with Reading() as reading:
        for _ in range(NUM_STEPS):
            scaler.scale(model(torch.ones(1, 2)).sum()).backward()
            apply_gradients(
                model,
                optimizer,
                scaler,
                TrainSettings(max_epoch=1, seed=0, precision=precision, clip_norm=1.0),
            )

    assert reading.num_read == (NUM_STEPS if waits else 0)


def test_a_number_that_is_read_would_be_noticed(tmp_path):
    def reads_the_loss(outcome):
        outcome.loss.item()
        return outcome

    with pytest.raises(RuntimeError, match="meta"):
        train_some_steps(tmp_path, changed_objective=reads_the_loss)


@pytest.mark.parametrize("send", [as_python_numbers, as_host_tensor])
def test_numbers_sent_to_the_device_would_be_noticed(tmp_path, send):
    def sends_numbers(outcome):
        send([0.45, 0.45, 0.45])
        return outcome

    noted = train_some_steps(tmp_path, changed_objective=sends_numbers)

    assert len(noted) == NUM_STEPS - 1
