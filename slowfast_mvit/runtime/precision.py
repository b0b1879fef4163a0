"""Number formats of training and testing."""

from __future__ import annotations

import torch

from slowfast_mvit.errors import pick

# The dtype of matrix products under autocast; None leaves everything in float32.
PRECISIONS: dict[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a format of ``PRECISIONS``.

    Raises:
        ConfigError: there is no such format.
    """
    dtype = pick(PRECISIONS, precision, "precision (TRAIN.PRECISION)")
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def lacks_instructions(device: torch.device, precision: str) -> bool:
    """Return whether torch emulates products of a format of ``PRECISIONS`` on this CPU.

    They then take about a hundred times as long as in float32 (AVX2, torch 2.14), except those in
    bfloat16 that ``fast.cpu.casting`` multiplies as float32. False for other devices.
    """
    check = _INSTRUCTION_CHECKS.get(precision)
    has_products = torch.backends.mkldnn.is_available()  # of formats without instructions as well
    if device.type != "cpu" or check is None or not has_products:
        return False
    return not getattr(torch.ops.mkldnn, check)()


_INSTRUCTION_CHECKS = {
    "bf16": "_is_mkldnn_bf16_supported",
    "fp16": "_is_mkldnn_fp16_supported",
}


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Return a scaler against underflow of float16 gradients; disabled in other formats."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
