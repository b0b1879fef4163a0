"""MODEL.COMPILE: whom it compiles, and what it says where it cannot or does not help."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from small_runs import small_mvit
from torch import nn

from slowfast_mvit.errors import UserError
from slowfast_mvit.runtime.compiling import compile_model, compile_where_it_helps


class Doubled(nn.Module):
    """The least that can be compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, numbers):
        return 2 * self.layer(numbers)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_compiler_of_this_machine_gives_the_same_numbers():
    model = Doubled().requires_grad_(False)
    numbers = torch.randn(2, 4)
    expected = model(numbers)

    compile_model(model)

    torch.testing.assert_close(model(numbers), expected)
    assert list(model.state_dict()) == ["layer.weight", "layer.bias"]


def test_a_copy_of_a_compiled_model_computes_with_its_weights():
    model = Doubled()
    compile_model(model, backend="eager")
    numbers = torch.ones(1, 4)
    assert model(numbers).any()

    copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        nn.init.zeros_(parameter)

    assert model(numbers).any() and not copied(numbers).any()


def test_a_missing_compiler_is_an_error_before_training():
    def broken(graph, inputs):
        raise RuntimeError("No working C++ compiler found")

    with pytest.raises(UserError, match=r"No working C\+\+ compiler found.*MODEL.COMPILE False"):
        compile_model(small_mvit(depth=1), backend=broken)


def test_a_model_on_the_cpu_is_not_compiled_and_a_warning_is_logged(caplog):
    model = Doubled()

    compile_where_it_helps(model)

    assert model._compiled_call_impl is None
    assert "not on a CPU, where a compiled model is no faster" in caplog.text


def test_a_model_on_another_device_is_compiled():
    model = Doubled().to("meta")  # no kernel is needed where nothing is computed

    compile_where_it_helps(model)

    assert model._compiled_call_impl is not None
