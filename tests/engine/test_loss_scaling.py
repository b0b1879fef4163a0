"""Steps in float16: gradients come scaled up, and a step whose gradients overflow is left out."""

import pytest
import torch
from tiny_run import CPU
from torch import nn

from slowfast_mvit.engine.settings import TrainSettings
from slowfast_mvit.engine.train import apply_gradients
from slowfast_mvit.runtime.precision import loss_scaler


def step(model, optimizer, scaler, inputs, **settings):
    """One step down the sum of the model's outputs, whose gradient is the inputs."""
    scaler.scale(model(torch.tensor([inputs])).sum()).backward()
    settings = TrainSettings(max_epoch=1, seed=0, precision="fp16", **settings)
    return apply_gradients(model, optimizer, scaler, settings)


@pytest.fixture
def parts():
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model, torch.optim.SGD(model.parameters(), lr=1.0), loss_scaler(CPU, "fp16")


def test_a_step_is_that_of_the_gradients_before_they_were_scaled(parts):
    norm = step(*parts, [3.0, -4.0])

    assert parts[0].weight.tolist() == [[-3.0, 4.0]]
    assert norm.item() == pytest.approx(5.0)


def test_gradients_are_clipped_by_their_norm_before_they_were_scaled(parts):
    norm = step(*parts, [3.0, -4.0], clip_norm=1.0)

    torch.testing.assert_close(parts[0].weight.detach(), torch.tensor([[-0.6, 0.8]]))
    assert norm.item() == pytest.approx(5.0)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_step_with_gradients_that_overflow_is_left_out_and_the_scale_halved(parts, bad):
    model, optimizer, scaler = parts
    scale = scaler.get_scale()

    norm = step(*parts, [bad, 1.0], clip_norm=1.0)

    assert model.weight.tolist() == [[0.0, 0.0]]
    assert not optimizer.state_dict()["state"]
    assert scaler.get_scale() == scale / 2
    assert not norm.isfinite()
    step(*parts, [3.0, -4.0])
    assert model.weight.tolist() == [[-3.0, 4.0]]
