"""How fast a device multiplies matrices and copies memory: the machine's side of a floor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
REPEATS = {"cpu": 1, "cuda": 20}  # products timed together: launching one must not count
NUM_TRIES = 5


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """By the clock, with all that the device still has to do."""
    synchronise(device)
    start_s = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start_s


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without, products are emulated."""
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
        For each layer, by its shape in words ("1569 x 384 x 1536").
    """
    repeats = REPEATS[device.type]
    rates = {}
    for rows, columns, columns_out in shapes:
        tokens = torch.randn(rows, columns, device=device).to(DTYPES[precision])
        weight = torch.randn(columns_out, columns, device=device).to(DTYPES[precision])
        tries_s = [
            seconds_of(lambda x=tokens, w=weight: _multiply(x, w, repeats), device)  # type: ignore[misc]
            for _ in range(1 + NUM_TRIES)
        ]
        operations = 2.0 * rows * columns * columns_out * repeats
        rates[f"{rows} x {columns} x {columns_out}"] = operations / min(tries_s[1:])
    return rates


def _multiply(tokens: torch.Tensor, weight: torch.Tensor, repeats: int) -> None:
    for _ in range(repeats):
        F.linear(tokens, weight)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a copy, the best of a few."""
    source = torch.ones(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    tries_s = [seconds_of(lambda: target.copy_(source), device) for _ in range(1 + NUM_TRIES)]
    return 2.0 * source.numel() / min(tries_s[1:])
