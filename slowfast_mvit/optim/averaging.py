"""The moving average of the weights (EMA), which is often a better model than the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """A copy of a model that follows it: after each step ``decay`` of itself and the rest of it.

    The first step is copied. Call ``update_parameters(model, is_skipped)`` after each. Steps are
    counted on the device, so that the host need not know which were skipped.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """
        Args:
            model: on its device already.
            decay: share of the average that is kept, from 0 to 1, such as 0.9999.
        """
        super().__init__(model)
        self.decay = decay
        self.n_averaged = self.n_averaged.to(next(model.parameters()).device)
        self.requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, is_skipped: Tensor | None = None) -> None:
        """Follow the model by one step, in place.

        Args:
            model: after the step.
            is_skipped: (), on the device: 1 where the step was not taken, which changes nothing.
        """
        is_taken = torch.ones_like(self.n_averaged)
        if is_skipped is not None:
            is_taken -= is_skipped.long()
        is_first = (self.n_averaged == 0).double()
        share = (is_first + (1 - is_first) * (1 - self.decay)) * is_taken
        averages = [_of_rank(p) for p in self.module.parameters()]
        weights = [_of_rank(p) for p in model.parameters()]
        torch._foreach_lerp_(averages, weights, [share.to(weights[0].dtype)] * len(weights))
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
        self.n_averaged += is_taken


def moving_average(model: nn.Module, decay: float) -> MovingAverage:
    """Return a moving average of a model, see ``MovingAverage``."""
    return MovingAverage(model, decay)


def _of_rank(parameter: Tensor) -> Tensor:
    """Return the slice of a parameter that this rank has."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
