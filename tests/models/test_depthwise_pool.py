"""Pooling of bfloat16 tokens on grids where PyTorch's weight gradient is wrong on some CPUs."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from exactness import assert_exact

from slowfast_mvit.models import pooling
from slowfast_mvit.models.pooling import depthwise_pool

INPUTS = [  # layout, B, N, D
    ("tokens", 1, 1, 8),
    ("tokens", 2, 2, 16),
    ("tokens", 5, 1, 32),
    ("slice of qkv", 2, 2, 16),
    ("channels first", 2, 2, 16),
]


def laid_out(values, layout):
    """Heads (B, L, N, D) of these values in another order in memory."""
    if layout == "tokens":
        return values.contiguous()
    if layout == "slice of qkv":
        return torch.stack([values, values, values], dim=2)[:, :, 1]
    return values.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels first


def fill_freed_memory():
    """Have large numbers where what is not written, or is outside of a buffer, is read from."""
    del [torch.full((1 << size,), 1e30) for size in range(8, 15)][:]


def gradients_of(pool, heads, weight, dtype, sizes):
    """Of the tokens and of the filters, after the pooled tokens themselves."""
    heads = heads.to(dtype).requires_grad_()
    weight = weight.to(dtype).requires_grad_()
    fill_freed_memory()
    pooled = pool(heads, weight, **sizes)
    torch.manual_seed(1)
    direction = torch.randn(pooled.shape).bfloat16().to(dtype)
    return pooled, *torch.autograd.grad(pooled, (heads, weight), direction)


def ours(heads, weight, thw, stride):
    return depthwise_pool(heads, thw, weight, stride)[0]


def contiguous(heads, weight, thw, stride):
    """PyTorch's convolution of channels-first frames, which is right everywhere."""
    grid = heads.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, thw).contiguous()  # (B*N, D, ...)
    padding = [size // 2 for size in weight.shape[2:]]
    pooled = F.conv3d(grid, weight, None, stride, padding, groups=grid.shape[1])
    return pooled.flatten(2).unflatten(0, heads.shape[::2][:2]).permute(0, 3, 1, 2)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3)], ids=str)
@pytest.mark.parametrize("side", [4, 7])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 8])
def test_bfloat16_gradients_are_as_exact_as_those_of_contiguous_tokens(frames, side, kernel):
    thw = (frames, side, side)
    for step, (layout, batch, num_heads, head_dim) in product((1, 2, 4, 8), INPUTS):
        torch.manual_seed(0)
        values = torch.randn(batch, math.prod(thw), num_heads, head_dim).bfloat16()
        weight = (0.1 * torch.randn(head_dim, 1, *kernel)).bfloat16()
        sizes = {"thw": thw, "stride": (1, step, step)}

        actual = gradients_of(ours, laid_out(values, layout), weight, torch.bfloat16, sizes)
        plain = gradients_of(contiguous, values, weight, torch.bfloat16, sizes)
        exact = gradients_of(contiguous, values, weight, torch.float64, sizes)

        assert_exact(actual, plain, exact)


@pytest.mark.parametrize(
    ("thw", "kernel", "stride", "is_copied"),
    [
        ((2, 7, 7), (3, 3, 3), (1, 1, 1), True),
        ((4, 7, 7), (5, 3, 3), (1, 1, 1), True),
        ((8, 7, 7), (3, 3, 3), (1, 8, 8), True),
        ((8, 8, 2), (1, 3, 3), (1, 1, 1), True),
        ((2, 7, 7), (1, 3, 3), (1, 1, 1), False),
        ((3, 8, 8), (3, 3, 3), (1, 8, 8), False),
        ((8, 7, 7), (3, 3, 3), (2, 2, 2), False),
    ],
)
def test_only_grids_smaller_than_a_window_are_copied(thw, kernel, stride, is_copied, monkeypatch):
    convolved = []
    convolve = F.conv3d
    monkeypatch.setattr(
        pooling.F, "conv3d", lambda x, *args, **kw: convolved.append(x) or convolve(x, *args, **kw)
    )
    heads = torch.zeros(2, math.prod(thw), 2, 8, dtype=torch.bfloat16)
    weight = torch.zeros(8, 1, *kernel, dtype=torch.bfloat16)

    depthwise_pool(heads, thw, weight, stride)

    (grid,) = convolved
    assert grid.is_contiguous() == is_copied
    assert (grid.data_ptr() != heads.data_ptr()) == is_copied
