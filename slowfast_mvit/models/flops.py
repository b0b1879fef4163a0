"""The number of multiply-adds of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_flops(model: nn.Module, input_size: Sequence[int]) -> float:
    """Return the multiply-adds of one view, by the rules of fvcore, which PySlowFast counts with.

    Convolutions and matrix products, and 5 for each element of a norm.

    Args:
        model: in evaluation mode, with plain attention, as other forms of attention have other
            products. It is best on the meta device, where nothing is computed.
        input_size: pixels (T, H, W) of a view; T is 1 for an image.
    """
    num_normed = 0

    def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal num_normed
        num_normed += output.numel()

    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    handles = [norm.register_forward_hook(count) for norm in norms]
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, *input_size, device=device))
    for handle in handles:
        handle.remove()
    return float(counter.get_total_flops() / 2 + 5 * num_normed)
