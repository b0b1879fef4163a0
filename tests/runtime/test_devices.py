"""Which process and which device."""

from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from slowfast_mvit.config import load_config
from slowfast_mvit.errors import UserError
from slowfast_mvit.jobs.run import Run
from slowfast_mvit.jobs.train import log_plan
from slowfast_mvit.optim.schedule import Peak
from slowfast_mvit.runtime.distributed import is_main, pick_device, rank, world_size
from slowfast_mvit.runtime.precision import (
    PRECISIONS,
    autocast,
    lacks_instructions,
    loss_scaler,
)


def test_a_run_of_one_process_needs_no_set_up():
    assert (rank(), world_size(), is_main()) == (0, 1, True)


def test_rank_and_size_are_those_of_the_process_group(tmp_path):
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert (rank(), world_size(), is_main()) == (0, 1, True)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("num_gpus", "available", "local_rank", "expected"),
    [
        (0, True, "0", "cpu"),
        (1, True, "0", "cuda:0"),
        (8, True, "3", "cuda:3"),
        (8, False, "0", "cpu"),
    ],
)
def test_each_process_has_its_device(monkeypatch, num_gpus, available, local_rank, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("LOCAL_RANK", local_rank)

    assert pick_device(num_gpus) == torch.device(expected)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")

    with pytest.raises(UserError, match="LOCAL_RANK is 2, but this node has 2 GPUs"):
        pick_device(8)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_matrix_products_are_computed_in_the_chosen_precision(precision, dtype):
    with autocast(torch.device("cpu"), precision):
        product = torch.ones(2, 2) @ torch.ones(2, 2)

    assert product.dtype == dtype
    assert loss_scaler(torch.device("cpu"), precision).is_enabled() == (precision == "fp16")


@pytest.fixture
def cpu_with(monkeypatch):
    """Makes the CPU one with the instructions for these formats."""

    def pretend(*formats):
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        checks = {
            f"_is_mkldnn_{name}_supported": lambda name=name: name in formats
            for name in ("bf16", "fp16")
        }
        monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**checks))

    return pretend


@pytest.mark.parametrize(
    ("formats", "expected"),
    [((), ["bf16", "fp16"]), (("bf16",), ["fp16"]), (("bf16", "fp16"), [])],
    ids=str,
)
def test_formats_that_a_cpu_imitates_are_known(cpu_with, formats, expected):
    cpu_with(*formats)

    imitated = [name for name in PRECISIONS if lacks_instructions(torch.device("cpu"), name)]

    assert imitated == expected


def test_gpus_are_not_checked(cpu_with):
    cpu_with()

    assert not lacks_instructions(torch.device("cuda"), "bf16")


@pytest.mark.parametrize(
    ("precision", "warnings"),
    [("bf16", ["no faster than fp32"]), ("fp16", ["a hundred times as long"]), ("fp32", [])],
)
def test_the_plan_warns_of_a_format_that_the_cpu_imitates(
    cpu_with, caplog, tiny_config, precision, warnings
):
    cpu_with()
    config = load_config(str(tiny_config), ["TRAIN.PRECISION", precision])

    run = Run(config, tiny_config.parent, torch.device("cpu"), lambda: None)
    log_plan(run, Peak(1e-3, 0.0, True), num_steps=1, num_train=8, num_val=8)

    logged = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(logged) == len(warnings)
    assert all(words in text for words, text in zip(warnings, logged, strict=True))
