"""Which process and which device."""

import pytest
import torch
from torch import distributed

from slowfast_mvit.errors import UserError
from slowfast_mvit.runtime.distributed import is_main, pick_device, rank, world_size
from slowfast_mvit.runtime.precision import autocast, loss_scaler


def test_a_run_of_one_process_needs_no_set_up():
    assert (rank(), world_size(), is_main()) == (0, 1, True)


def test_a_process_group_is_asked(tmp_path):
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
def test_matrix_products_are_computed_in_the_precision_asked_for(precision, dtype):
    with autocast(torch.device("cpu"), precision):
        product = torch.ones(2, 2) @ torch.ones(2, 2)

    assert product.dtype == dtype
    assert loss_scaler(torch.device("cpu"), precision).is_enabled() == (precision == "fp16")
