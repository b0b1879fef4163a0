"""The moving average of the weights (EMA), which is often a better model than the weights."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model that follows it: after each step ``decay`` of itself and the rest of it.

    The first step is copied. Call ``update_parameters(model)`` after each.

    Args:
        model: on its device already: the number of updates is counted on the CPU, so that
            no step waits for a GPU.
        decay: share of the average that is kept, from 0 to 1, such as 0.9999.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    return average.requires_grad_(False)
