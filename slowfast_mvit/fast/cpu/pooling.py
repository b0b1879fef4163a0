"""Poolings of a block: queries, keys and values in one operator, and the skip path in another.

    qkv (B, L, 3, N, D) --+-- depthwise convolution -- LayerNorm --> q (B, Lq, N, D)
                          +-- depthwise convolution -- LayerNorm --> k (B, Lk, N, D)
                          +-- depthwise convolution -- LayerNorm --> v (B, Lk, N, D)

The plain form is ``models.attention.MultiScaleAttention.pool``. The operator
``slowfast_mvit::pool_qkv`` computes the same without moving tokens and heads around first, saves
only its inputs for the backward pass, and writes the gradients of the three straight into
that of ``qkv``. It is written in C for CPUs (``csrc/``); ``fast/cuda/pooling.py`` has it in Triton.

``slowfast_mvit::skip_pool`` is ``models.pooling.max_pool`` for CPUs. It saves one byte for each
output, where PyTorch's own saves its input and eight bytes of index. It copies the prefix tokens,
so that no concatenation is needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit.fast.cpu import native
from slowfast_mvit.models.pooling import kernel_of_stride, pooled_thw


@torch.library.custom_op("slowfast_mvit::pool_qkv", mutates_args=())
def pool_qkv(
    qkv: Tensor,
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    thw: Sequence[int],
    stride_q: Sequence[int],
    stride_kv: Sequence[int],
    num_prefix_tokens: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pool and normalise queries, keys and values.

    Args:
        qkv: (B, P + T*H*W, 3, N, D).
        weights: filters of q, k and v, (D, 1, kt, kh, kw) each; padded by half the kernel.
        norm_weights: (D,) each.
        norm_biases: (D,) each.
        thw: the grid (T, H, W) of the tokens.
        stride_q: of the queries, per axis.
        stride_kv: of the keys and values, per axis.
        num_prefix_tokens: P; these are not pooled, but normalised.
        eps: of the LayerNorms.

    Returns:
        q (B, P + T'*H'*W', N, D), k and v, each on its pooled grid.
    """
    qkv = qkv.contiguous()
    strides = (stride_q, stride_kv, stride_kv)
    results = []
    for which, (weight, stride) in enumerate(zip(weights, strides, strict=True)):
        x, filters, kernel = qkv.select(2, which), _packed(weight), weight.shape[2:]
        gamma, beta = norm_weights[which].float(), norm_biases[which].float()
        y = empty_pooled(x, kernel, thw, stride, num_prefix_tokens)
        pooling = _pooling(x, kernel, thw, stride, num_prefix_tokens)
        is_bf16 = native.is_bfloat16(x)
        native.call("pool_forward", pooling, x, filters, gamma, beta, eps, y, is_bf16)
        results.append(y)
    q, k, v = results
    return q, k, v


@torch.library.custom_op("slowfast_mvit::pool_qkv_backward", mutates_args=())
def pool_qkv_backward(
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
    qkv: Tensor,
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    thw: Sequence[int],
    stride_q: Sequence[int],
    stride_kv: Sequence[int],
    num_prefix_tokens: int,
    eps: float,
) -> list[Tensor]:
    """The gradients of qkv, of the three weights, norm weights and norm biases, in this order."""
    qkv = qkv.contiguous()
    grad_qkv = torch.empty_like(qkv)
    strides, grads = (stride_q, stride_kv, stride_kv), (grad_q, grad_k, grad_v)
    sums = []  # of each of the three: (kt*kh*kw + 2, D)
    for which, (grad, weight, stride) in enumerate(zip(grads, weights, strides, strict=True)):
        x, filters, kernel = qkv.select(2, which), _packed(weight), weight.shape[2:]
        gamma, grad_y, grad_x = (
            norm_weights[which].float(),
            grad.contiguous(),
            grad_qkv.select(2, which),
        )
        grad_pooled = filters.new_empty(grad[:, num_prefix_tokens:].shape)
        partial = filters.new_zeros((torch.get_num_threads(), len(filters) + 2, x.shape[3]))
        pooling = _pooling(x, kernel, thw, stride, num_prefix_tokens)
        gradients = grad_y, grad_x, grad_pooled, partial
        is_bf16 = native.is_bfloat16(x)
        native.call("pool_backward", pooling, x, filters, gamma, eps, *gradients, is_bf16)
        sums.append(partial.sum(dim=0))
    of_weights = [
        one[:-2].t().contiguous().to(weight.dtype).view(weight.shape)
        for one, weight in zip(sums, weights, strict=True)
    ]
    of_norms = [
        one[row].to(parameter.dtype, copy=True)
        for row, parameters in ((-2, norm_weights), (-1, norm_biases))
        for one, parameter in zip(sums, parameters, strict=True)
    ]
    return [grad_qkv, *of_weights, *of_norms]


def empty_pooled(
    tokens: Tensor,
    kernel: Sequence[int],
    thw: Sequence[int],
    stride: Sequence[int],
    num_prefix_tokens: int,
) -> Tensor:
    """Uninitialised memory for tokens (B, P + T*H*W, ...) after a pooling."""
    length = num_prefix_tokens + math.prod(pooled_thw(thw, kernel, stride))
    return tokens.new_empty((tokens.shape[0], length, *tokens.shape[2:]))


@pool_qkv.register_fake
def _(qkv: Tensor, weights: Sequence[Tensor], *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    thw, stride_q, stride_kv, num_prefix_tokens, _ = others[2:]
    q, k, v = (
        empty_pooled(qkv[:, :, 0], weight.shape[2:], thw, stride, num_prefix_tokens)
        for weight, stride in zip(weights, (stride_q, stride_kv, stride_kv), strict=True)
    )
    return q, k, v


@pool_qkv_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    qkv, *parameters = arguments[3:7]
    flat = [qkv, *itertools.chain(*parameters)]
    return [torch.empty_like(one, memory_format=torch.contiguous_format) for one in flat]


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    qkv, weights, norm_weights, norm_biases, *ctx.numbers = inputs
    ctx.save_for_backward(qkv, *weights, *norm_weights, *norm_biases)


def _backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    qkv, *saved = ctx.saved_tensors
    grad_qkv, *of_parameters = pool_qkv_backward(
        *grads, qkv, saved[:3], saved[3:6], saved[6:], *ctx.numbers
    )
    in_threes = of_parameters[:3], of_parameters[3:6], of_parameters[6:]
    return grad_qkv, *in_threes, *[None] * len(ctx.numbers)


pool_qkv.register_autograd(_backward, setup_context=_save_inputs)


@torch.library.custom_op("slowfast_mvit::skip_pool", mutates_args=())
def skip_pool(
    tokens: Tensor, thw: Sequence[int], stride: Sequence[int], num_prefix_tokens: int
) -> tuple[Tensor, Tensor]:
    """The largest value of each channel around every stride-th position of the grid.

    Args:
        tokens: (B, P + T*H*W, C).
        thw: the grid (T, H, W).
        stride: per axis; windows are one wider, on axes with a stride above 1.
        num_prefix_tokens: P; these are copied.

    Returns:
        (B, P + T'*H'*W', C), and for each output on the grid the index of its input in the window,
        (B, T'*H'*W', C) uint8.
    """
    tokens = tokens.contiguous()
    out, taps = _empty_skip(tokens, thw, stride, num_prefix_tokens)
    pooling = _pooling(
        tokens.unsqueeze(2), kernel_of_stride(stride), thw, stride, num_prefix_tokens
    )
    native.call("max_forward", pooling, tokens, out, taps, native.is_bfloat16(tokens))
    return out, taps


@torch.library.custom_op("slowfast_mvit::skip_pool_backward", mutates_args=())
def skip_pool_backward(
    grad: Tensor, taps: Tensor, thw: Sequence[int], stride: Sequence[int], num_prefix_tokens: int
) -> Tensor:
    """The gradient of the tokens."""
    grad_tokens = _empty_skip_gradient(grad, taps, thw, stride, num_prefix_tokens)
    pooling = _pooling(
        grad_tokens.unsqueeze(2), kernel_of_stride(stride), thw, stride, num_prefix_tokens
    )
    is_bf16 = native.is_bfloat16(grad)
    native.call("max_backward", pooling, grad.contiguous(), taps, grad_tokens, is_bf16)
    return grad_tokens


def _empty_skip(
    tokens: Tensor, thw: Sequence[int], stride: Sequence[int], num_prefix_tokens: int
) -> tuple[Tensor, Tensor]:
    out = empty_pooled(tokens, kernel_of_stride(stride), thw, stride, num_prefix_tokens)
    return out, out.new_empty(out[:, num_prefix_tokens:].shape, dtype=torch.uint8)


def _empty_skip_gradient(
    grad: Tensor, taps: Tensor, thw: Sequence[int], stride: Sequence[int], num_prefix_tokens: int
) -> Tensor:
    return empty_pooled(grad, (1, 1, 1), thw, (1, 1, 1), num_prefix_tokens)


def _save_taps(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, *ctx.numbers = inputs
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _skip_backward(ctx: Any, grad: Tensor, _: object) -> tuple[Tensor, None, None, None]:
    return skip_pool_backward(grad, *ctx.saved_tensors, *ctx.numbers), None, None, None


skip_pool.register_fake(_empty_skip)
skip_pool_backward.register_fake(_empty_skip_gradient)
skip_pool.register_autograd(_skip_backward, setup_context=_save_taps)


def _pooling(
    heads: Tensor,
    kernel: Sequence[int],
    thw: Sequence[int],
    stride: Sequence[int],
    num_prefix_tokens: int,
) -> native.Pooling:
    """The record of a pooling of heads (B, P + T*H*W, N, D)."""
    batch, _, num_heads, width = heads.shape
    grids = tuple(thw), pooled_thw(thw, kernel, stride), tuple(kernel), tuple(stride)
    strides = heads.stride(1), heads.stride(0)
    return native.Pooling(batch, num_heads, width, num_prefix_tokens, *grids, *strides)


def _packed(weight: Tensor) -> Tensor:
    """The filters, (kt*kh*kw, D) float32, with the channels of a tap in adjacent places."""
    return weight.flatten(1).t().float().contiguous()
