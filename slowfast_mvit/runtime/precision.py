"""The number formats that training and testing may compute in."""

from __future__ import annotations

import torch

from slowfast_mvit.errors import pick

# What autocast computes matrix products in; None leaves everything in float32.
PRECISIONS: dict[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a forward pass runs in a format of ``PRECISIONS``.

    Raises:
        ConfigError: there is no such format.
    """
    dtype = pick(PRECISIONS, precision, "precision (TRAIN.PRECISION)")
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Keeps small float16 gradients from vanishing; does nothing in the other formats."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
