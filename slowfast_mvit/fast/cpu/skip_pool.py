"""Max pooling of the skip path on a CPU, which remembers one byte for each number it gives.

PyTorch's own keeps what came in and eight bytes of index for the backward pass. The prefix tokens
are copied on the way, so that nothing has to be put together afterwards. The plain twin is
``models.pooling.max_pool``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit.fast.cpu import native
from slowfast_mvit.models.pooling import pooled_thw


@torch.library.custom_op("slowfast_mvit::skip_pool", mutates_args=())
def skip_pool(
    tokens: Tensor, thw: Sequence[int], stride: Sequence[int], num_prefix_tokens: int
) -> tuple[Tensor, Tensor]:
    """The largest value of each channel around every stride-th position of the grid.

    Args:
        tokens: (B, P + T*H*W, C).
        thw: the grid (T, H, W).
        stride: per axis; windows are one wider, on axes with a stride above 1.
        num_prefix_tokens: P; these are left as they are.

    Returns:
        (B, P + T'*H'*W', C), and the place in its window that each value of the grid came from,
        (B, T'*H'*W', C) uint8.
    """
    tokens = tokens.contiguous()
    out, taps = _empty(tokens, thw, stride, num_prefix_tokens)
    about = _pooling(tokens.shape, thw, stride, num_prefix_tokens)
    native.library().max_forward(
        ctypes.byref(about),
        *native.addresses(tokens, out, taps),
        torch.get_num_threads(),
        native.is_bfloat16(tokens),
    )
    return out, taps


@torch.library.custom_op("slowfast_mvit::skip_pool_backward", mutates_args=())
def skip_pool_backward(
    grad: Tensor, taps: Tensor, thw: Sequence[int], stride: Sequence[int], num_prefix_tokens: int
) -> Tensor:
    """The gradient of the tokens."""
    grad = grad.contiguous()
    grad_tokens = _empty_gradient(grad, thw, num_prefix_tokens)
    about = _pooling(grad_tokens.shape, thw, stride, num_prefix_tokens)
    native.library().max_backward(
        ctypes.byref(about),
        *native.addresses(grad, taps, grad_tokens),
        torch.get_num_threads(),
        native.is_bfloat16(grad),
    )
    return grad_tokens


@skip_pool.register_fake
def _(
    tokens: Tensor, thw: Sequence[int], stride: Sequence[int], num_prefix_tokens: int
) -> tuple[Tensor, Tensor]:
    return _empty(tokens, thw, stride, num_prefix_tokens)


@skip_pool_backward.register_fake
def _(
    grad: Tensor, taps: Tensor, thw: Sequence[int], stride: Sequence[int], num_prefix_tokens: int
) -> Tensor:
    return _empty_gradient(grad, thw, num_prefix_tokens)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, *ctx.numbers = inputs
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: object) -> tuple[Tensor, None, None, None]:
    (taps,) = ctx.saved_tensors
    return skip_pool_backward(grad, taps, *ctx.numbers), None, None, None


skip_pool.register_autograd(_backward, setup_context=_keep)


def _kernel(stride: Sequence[int]) -> list[int]:
    return [step + 1 if step > 1 else 1 for step in stride]


def _empty(
    tokens: Tensor, thw: Sequence[int], stride: Sequence[int], num_prefix_tokens: int
) -> tuple[Tensor, Tensor]:
    batch, _, width = tokens.shape
    t, h, w = pooled_thw(thw, _kernel(stride), stride)
    return (
        tokens.new_empty((batch, num_prefix_tokens + t * h * w, width)),
        tokens.new_empty((batch, t * h * w, width), dtype=torch.uint8),
    )


def _empty_gradient(grad: Tensor, thw: Sequence[int], num_prefix_tokens: int) -> Tensor:
    t, h, w = thw
    return grad.new_empty((grad.shape[0], num_prefix_tokens + t * h * w, grad.shape[2]))


def _pooling(
    shape: Sequence[int], thw: Sequence[int], stride: Sequence[int], num_prefix_tokens: int
) -> native.Pooling:
    batch, length, width = shape
    kernel = _kernel(stride)
    return native.Pooling(
        batch,
        1,
        width,
        num_prefix_tokens,
        tuple(thw),
        pooled_thw(thw, kernel, stride),
        tuple(kernel),
        tuple(stride),
        width,
        length * width,
    )
