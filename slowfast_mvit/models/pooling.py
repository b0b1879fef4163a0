"""Pooling of tokens without moving them.

Tokens are stored as (B, T*H*W, C), the channels of a token in adjacent places. Seen as
(B, T, H, W, C) that is the channels-last layout in which convolutions and poolings are fastest, so
nothing is moved before or after; in particular the heads need not be folded into the batch first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast_mvit.models.tables import THW


def depthwise_pool(
    heads: Tensor, thw: THW, weight: Tensor, stride: tuple[int, ...]
) -> tuple[Tensor, THW]:
    """Pool each channel of each head with its own filter; all heads share the filters.

    Args:
        heads: (B, T*H*W, N, D), any strides.
        thw: the grid (T, H, W).
        weight: (D, 1, kt, kh, kw); padded by half the kernel, rounded down.
        stride: per axis.

    Returns:
        The pooled heads (B, T'*H'*W', N, D) and their grid.
    """
    num_heads, kernel = heads.shape[2], weight.shape[2:]
    grid = heads.flatten(2).unflatten(1, thw).permute(0, 4, 1, 2, 3)  # (B, N*D, T, H, W)
    if is_smaller_than_a_window(thw, kernel, stride):
        grid = grid.clone(memory_format=torch.contiguous_format)
    pooled = F.conv3d(
        grid,
        weight.repeat(num_heads, 1, 1, 1, 1),
        stride=stride,
        padding=tuple(size // 2 for size in kernel),
        groups=grid.shape[1],
    )
    t, h, w = pooled.shape[2:]
    pooled = pooled.permute(0, 2, 3, 4, 1).flatten(1, 3)  # (B, L', N*D)
    return pooled.unflatten(2, (num_heads, -1)), (t, h, w)


def is_smaller_than_a_window(
    thw: Sequence[int], kernel: Sequence[int], stride: Sequence[int]
) -> bool:
    """Return whether the grid is shorter than the kernel or the stride on an axis.

    On such grids oneDNN (PyTorch 2.11 and 2.14, CPUs with AVX-512) computes a wrong weight gradient
    of a depthwise convolution over channels-last bfloat16 tokens: it reads and writes outside of
    its buffers, with results of up to 1e36 or NaN, and sometimes a crash. A kernel of
    3 frames over 2 frames shows it with any frame size, a stride of 8 over 7 columns with many
    batch sizes, and float32 with a kernel of 7 frames. The gradients of contiguous tokens are
    right, and on these small grids they take less time, copy included.
    """
    return any(
        length < max(size, step) for length, size, step in zip(thw, kernel, stride, strict=True)
    )


class HeadPool(nn.Conv3d):
    """A depthwise convolution over a token grid, shared by the heads; no bias.

    Args:
        head_dim: D.
        kernel: per axis, in tokens; padded by half of it, rounded down.
        stride: per axis.
    """

    def __init__(self, head_dim: int, kernel: THW, stride: THW) -> None:
        super().__init__(head_dim, head_dim, kernel, stride, groups=head_dim, bias=False)

    def forward(self, heads: Tensor, thw: THW) -> tuple[Tensor, THW]:  # type: ignore[override]
        """Pool heads (B, T*H*W, N, D) of the grid; return them with their grid."""
        return depthwise_pool(heads, thw, self.weight, self.stride)


def max_pool(tokens: Tensor, thw: THW, stride: tuple[int, ...]) -> Tensor:
    """The largest value of each channel around every stride-th position.

    The window is one wider than the stride, on axes with a stride above 1. Without a stride in
    time each frame is pooled separately: the same values and gradients as pooling in three
    dimensions, but deterministic on CUDA, and smaller indices are saved for the backward pass.

    Args:
        tokens: (B, T*H*W, C).
        thw: their grid (T, H, W).
        stride: per axis.

    Returns:
        (B, T'*H'*W', C).
    """
    kernel = kernel_of_stride(stride)
    padding = tuple(size // 2 for size in kernel)
    grid = tokens.unflatten(1, thw)
    if stride[0] == 1:
        frames = grid.flatten(0, 1).permute(0, 3, 1, 2)  # (B*T, C, H, W)
        pooled = F.max_pool2d(frames, kernel[1:], stride[1:], padding[1:])
        pooled = pooled.permute(0, 2, 3, 1).unflatten(0, (tokens.shape[0], thw[0]))
        return pooled.flatten(1, 3)  # type: ignore[no-any-return]
    pooled = F.max_pool3d(grid.permute(0, 4, 1, 2, 3), kernel, stride, padding)
    return pooled.permute(0, 2, 3, 4, 1).flatten(1, 3)


def kernel_of_stride(stride: Sequence[int]) -> THW:
    """The kernel one wider than the stride, on axes with a stride above 1."""
    t, h, w = (step + 1 if step > 1 else 1 for step in stride)
    return t, h, w


def pooled_thw(thw: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> THW:
    """The grid after pooling with half the kernel as padding."""
    t, h, w = (
        (length + 2 * (size // 2) - size) // step + 1
        for length, size, step in zip(thw, kernel, stride, strict=True)
    )
    return t, h, w
