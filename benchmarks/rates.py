"""Rates at which a device multiplies matrices and copies memory, for the lower bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.benchmark import Timer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
REPEATS = {"cpu": 1, "cuda": 20}  # runs timed together: launching a kernel must not count
NUM_TRIES = 5


def best_seconds(statement: str, device: torch.device, **names: Any) -> float:
    """Of one run of a statement, by the clock on all threads; the best of a few tries."""
    timer = Timer(statement, globals=names, num_threads=torch.get_num_threads())
    return min(timer.timeit(REPEATS[device.type]).median for _ in range(NUM_TRIES))


def has_bf16(device: torch.device) -> bool:
    """Return whether the device has instructions for bfloat16; without, products are emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def product_rates(
    shapes: Sequence[tuple[int, int, int]], precision: str, device: torch.device
) -> dict[str, float]:
    """Operations a second of linear layers without a bias, the best of a few tries.

    Args:
        shapes: (rows, columns in, columns out) of each layer.
        precision: a key of ``DTYPES``; "fp32" with the settings of this process for TF32.
        device: where.

    Returns:
        For each layer, by its shape as text ("1569 x 384 x 1536").
    """
    rates = {}
    for rows, columns, columns_out in shapes:
        tokens = torch.randn(rows, columns, device=device).to(DTYPES[precision])
        weight = torch.randn(columns_out, columns, device=device).to(DTYPES[precision])
        seconds = best_seconds(
            "linear(tokens, weight)",
            device,
            linear=torch.nn.functional.linear,
            tokens=tokens,
            weight=weight,
        )
        rates[f"{rows} x {columns} x {columns_out}"] = 2.0 * rows * columns * columns_out / seconds
    return rates


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a copy, the best of a few."""
    source = torch.ones(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = best_seconds("target.copy_(source)", device, target=target, source=source)
    return 2.0 * source.numel() / seconds
