"""Queries, keys and values pooled and normalised in one operator.

    qkv (B, L, 3, N, D) --+-- depthwise convolution -- LayerNorm --> q (B, Lq, N, D)
                          +-- depthwise convolution -- LayerNorm --> k (B, Lk, N, D)
                          +-- depthwise convolution -- LayerNorm --> v (B, Lk, N, D)

The plain form is ``models.attention.MultiScaleAttention.pool``. The operator
``slowfast_mvit::pool_qkv`` computes the same without moving tokens and heads around first, keeps
nothing but its inputs for the backward pass, and writes the gradients of the three straight into
that of ``qkv``. It is written in C for CPUs (``csrc/``); ``fast/cuda/pooling.py`` has it in Triton.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit.fast.cpu import native
from slowfast_mvit.models.pooling import pooled_thw


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
    """Pool and normalise each of the three.

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
    pooled = []
    for which, (weight, stride) in enumerate(zip(weights, strides, strict=True)):
        about = _pooling(qkv, weight, thw, stride, num_prefix_tokens)
        x, filters = qkv.select(2, which), _packed(weight)
        gamma, beta = norm_weights[which].float(), norm_biases[which].float()
        y = _empty_pooled(qkv, weight, thw, stride, num_prefix_tokens)
        native.library().pool_forward(
            ctypes.byref(about),
            *native.addresses(x, filters, gamma, beta),
            eps,
            *native.addresses(y),
            torch.get_num_threads(),
            native.is_bfloat16(qkv),
        )
        pooled.append(y)
    q, k, v = pooled
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
    threads = torch.get_num_threads()
    sums = []  # of each of the three: (kt*kh*kw + 2, D)
    for which, (grad, weight, stride) in enumerate(
        zip((grad_q, grad_k, grad_v), weights, (stride_q, stride_kv, stride_kv), strict=True)
    ):
        about = _pooling(qkv, weight, thw, stride, num_prefix_tokens)
        x, filters, grad_y = qkv.select(2, which), _packed(weight), grad.contiguous()
        gamma = norm_weights[which].float()
        places = grad.shape[1] - num_prefix_tokens
        grad_pooled = x.new_empty((len(x), places, *x.shape[2:]), dtype=torch.float32)
        partial = x.new_zeros((threads, len(filters) + 2, x.shape[3]), dtype=torch.float32)
        native.library().pool_backward(
            ctypes.byref(about),
            *native.addresses(x, filters, gamma),
            eps,
            *native.addresses(grad_y, grad_qkv.select(2, which), grad_pooled, partial),
            threads,
            native.is_bfloat16(qkv),
        )
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


@pool_qkv.register_fake
def _(qkv: Tensor, weights: Sequence[Tensor], *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    thw, stride_q, stride_kv, num_prefix_tokens, _ = others[2:]
    q, k, v = (
        _empty_pooled(qkv, weight, thw, stride, num_prefix_tokens)
        for weight, stride in zip(weights, (stride_q, stride_kv, stride_kv), strict=True)
    )
    return q, k, v


@pool_qkv_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    qkv, weights, norm_weights, norm_biases = arguments[3:7]
    return [
        torch.empty(one.shape, dtype=one.dtype, device=one.device)
        for one in (qkv, *weights, *norm_weights, *norm_biases)
    ]


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    qkv, weights, norm_weights, norm_biases, *ctx.numbers = inputs
    ctx.save_for_backward(qkv, *weights, *norm_weights, *norm_biases)


def _backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> tuple[Any, ...]:
    qkv, *saved = ctx.saved_tensors
    grad_qkv, *grads = pool_qkv_backward(
        grad_q, grad_k, grad_v, qkv, saved[:3], saved[3:6], saved[6:], *ctx.numbers
    )
    return grad_qkv, grads[:3], grads[3:6], grads[6:], None, None, None, None, None


pool_qkv.register_autograd(_backward, setup_context=_keep_inputs)


def _pooling(
    qkv: Tensor, weight: Tensor, thw: Sequence[int], stride: Sequence[int], num_prefix_tokens: int
) -> native.Pooling:
    batch, _, _, heads, width = qkv.shape
    kernel = weight.shape[2:]
    return native.Pooling(
        batch,
        heads,
        width,
        num_prefix_tokens,
        tuple(thw),
        pooled_thw(thw, kernel, stride),
        tuple(kernel),
        tuple(stride),
        qkv.stride(1),
        qkv.stride(0),
    )


def _packed(weight: Tensor) -> Tensor:
    """The filters with the channels side by side, (kt*kh*kw, D) float32."""
    return weight.flatten(1).t().float().contiguous()


def _empty_pooled(
    qkv: Tensor, weight: Tensor, thw: Sequence[int], stride: Sequence[int], num_prefix_tokens: int
) -> Tensor:
    t, h, w = pooled_thw(thw, weight.shape[2:], stride)
    return qkv.new_empty((qkv.shape[0], num_prefix_tokens + t * h * w, *qkv.shape[3:]))
