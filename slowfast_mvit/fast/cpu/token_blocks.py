"""Blocks of tokens, small enough that their results stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Bytes of the widest result of a block, for each thread, and the fewest tokens of a block, as each
# block adds to the gradients of all weights.
BLOCK_BYTES = 1 << 20
MIN_ROWS = 1024


def token_blocks(tokens: Tensor, width: int) -> Iterator[tuple[int, slice]]:
    """Clip and rows of each block of tokens (B, L, C) whose widest result has this width."""
    length = tokens.shape[1]
    size = max(BLOCK_BYTES * torch.get_num_threads() // (4 * width), MIN_ROWS)
    num_blocks = max(-(-length // size), 1)
    size = max(-(-length // num_blocks), 1)  # blocks of equal size
    for b in range(len(tokens)):
        for start in range(0, length, size):
            yield b, slice(start, start + size)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, in place; ``total`` is float32, the others may be bfloat16."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def add_rows(total: Tensor, a: Tensor) -> None:
    """total += the sum of the rows of a, in place; ``total`` is float32, ``a`` may be bfloat16.

    A sum with the dtype float32 would first convert all of ``a``.
    """
    total += a.sum(dim=0) if a.dtype == total.dtype else (a.new_ones(1, len(a)) @ a)[0]


def add_norm_gradients(
    totals: Sequence[Tensor],
    grad: Tensor,
    x: Tensor,
    moments: Sequence[Tensor],
    gamma: Tensor,
    beta: Tensor,
) -> Tensor:
    """The gradient of the input of a LayerNorm; those of weight and bias are added to ``totals``.

    Args:
        totals: gradients of weight and bias so far.
        grad: gradient of the output, (rows, C).
        x: the input, (rows, C).
        moments: mean and 1 / standard deviation of each row, as ``native_layer_norm`` returns them.
        gamma: its weight.
        beta: its bias.
    """
    x_grad: Tensor
    x_grad, *of_parameters = torch.ops.aten.native_layer_norm_backward(
        grad, x, gamma.shape, *moments, gamma, beta, [True, True, True]
    )
    for total, one in zip(totals, of_parameters, strict=True):
        total += one
    return x_grad
