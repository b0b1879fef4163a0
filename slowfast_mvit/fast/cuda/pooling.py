"""Pooling and LayerNorm of queries, keys and values on CUDA; ``fast.cpu.pool_qkv`` says what it is.

Every kernel reads the tokens where the linear layer put them, with heads and channels side by
side, and writes what comes out where the next operation wants it. What a step moves through
memory is what it must: forward reads ``qkv`` and writes q, k and v; backward reads ``qkv`` and the
three gradients and writes that of ``qkv``, with one gradient of pooled size between.

The kernels are launched for q, k and v in turn:

    pool_forward              x -> y
    pool_backward_to_pooled   x, grad of y -> grad of the convolution's result, partial sums
    pool_backward_to_tokens   grad of the convolution's result -> grad of x
    sum_partials              partial sums -> grads of filters and LayerNorm

Partial sums, not atomic additions: two runs give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slowfast_mvit.fast.cpu import pooling as operators
from slowfast_mvit.fast.cuda.available import kernels_of, power_of_two, why_no_triton
from slowfast_mvit.models.pooling import pooled_thw

MAX_WIDTH = 128  # channels of a head; a row of them is held in registers
MAX_TAPS = 32  # of a filter; the sums of all of them are held in registers
_MAX_ROWS = 32  # of a tile
_NUM_WARPS = 8  # with fewer, filters go through shared memory to reach 32 rows (sm_90)
_MAX_PROGRAMS = 1024  # each with partial sums of its own


class Pooling(NamedTuple):
    """One of the three: its tokens, its parameters in one tensor, and the numbers of a launch.

    Attributes:
        tokens: (B, L, N, D), a slice of qkv.
        parameters: (taps + 2, D) float32: filters, LayerNorm weight, LayerNorm bias.
        in_thw: grid of the tokens.
        out_thw: grid of the pooled tokens.
        kernel: per axis.
        stride: per axis.
    """

    tokens: Tensor
    parameters: Tensor
    in_thw: tuple[int, ...]
    out_thw: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]


def why_no_pooling(
    dtype: torch.dtype,
    sample_size: int,
    head_dim: int,
    kernels: Sequence[tuple[int, ...]],
    device: str,
) -> str | None:
    """Why the kernels cannot pool qkv of these sizes; None if they can.

    Args:
        dtype: of qkv.
        sample_size: numbers in the qkv of a sample.
        head_dim: D.
        kernels: of q, k and v.
        device: type of device.
    """
    reason = why_no_triton(device, dtype)
    if reason:
        return reason
    if head_dim > MAX_WIDTH:
        return f"a head has {head_dim} channels, and the kernels hold {MAX_WIDTH}"
    if sample_size >= 2**31:
        return "a sample has 2**31 numbers or more"
    for kernel in kernels:
        if math.prod(kernel) > MAX_TAPS or any(size % 2 == 0 for size in kernel):
            return f"the kernels take odd filters of up to {MAX_TAPS} taps, not {kernel}"
    return None


def pool_qkv_forward(
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
        qkv: (B, P + T*H*W, 3, N, D), float32, bfloat16 or float16.
        weights: filters of q, k and v, (D, 1, kt, kh, kw) each, odd; padded by half the kernel.
        norm_weights: (D,) each.
        norm_biases: (D,) each.
        thw: the grid (T, H, W) of the tokens.
        stride_q: of the queries, per axis.
        stride_kv: of the keys and values, per axis.
        num_prefix_tokens: P; these are not pooled, but normalised.
        eps: of the LayerNorms.

    Returns:
        q (B, P + T'*H'*W', N, D), k and v, each on its pooled grid, contiguous and of the dtype
        of ``qkv``; sums and norms are float32 inside.
    """
    kernels = kernels_of("pooling_kernels")
    results = []
    with torch.cuda.device_of(qkv):
        for one in _three(qkv, weights, norm_weights, norm_biases, thw, stride_q, stride_kv):
            y = _empty_pooled(one, num_prefix_tokens)
            launch = _launch(one, one.out_thw, num_prefix_tokens)
            kernels.pool_forward[(launch.num_tiles,)](
                one.tokens,
                one.parameters,
                y,
                *one.in_thw,
                *one.out_thw,
                launch.tiles_in_line,
                eps,
                **launch.constants,
            )
            results.append(y)
    q, k, v = results
    return q, k, v


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
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """The gradients of ``qkv``, the filters, and the weights and biases of the LayerNorms.

    Nothing but the arguments of the forward pass is needed. No two results share memory. That of
    ``qkv`` has its dtype; those of the parameters are float32.
    """
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    of_parameters = []
    with torch.cuda.device_of(qkv):
        three = _three(qkv, weights, norm_weights, norm_biases, thw, stride_q, stride_kv)
        for which, (one, grad) in enumerate(zip(three, (grad_q, grad_k, grad_v), strict=True)):
            grad_pooled, partial = _to_pooled(one, grad.contiguous(), num_prefix_tokens, eps)
            _to_tokens(one, grad_pooled, grad_qkv.select(2, which), num_prefix_tokens)
            of_parameters.append(_summed(one, partial, weights[which].shape))
    of_weights, of_norm_weights, of_norm_biases = map(list, zip(*of_parameters, strict=True))
    return grad_qkv, of_weights, of_norm_weights, of_norm_biases


operators.pool_qkv.register_kernel("cuda", pool_qkv_forward)


@operators.pool_qkv_backward.register_kernel("cuda")
def _(*arguments: Any) -> list[Tensor]:
    grad_qkv, *of_parameters = pool_qkv_backward(*arguments)
    return [
        grad_qkv,
        *(
            gradient.to(parameter.dtype)
            for gradients, group in zip(of_parameters, arguments[4:7], strict=True)
            for gradient, parameter in zip(gradients, group, strict=True)
        ),
    ]


class _Launch(NamedTuple):
    tiles_in_line: int
    num_tiles: int
    constants: dict[str, Any]


def _three(
    qkv: Tensor,
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    thw: Sequence[int],
    stride_q: Sequence[int],
    stride_kv: Sequence[int],
) -> list[Pooling]:
    # One copy for all nine parameters: filters with their channels side by side, as tokens are.
    rows = [
        row
        for weight, norm_weight, norm_bias in zip(weights, norm_weights, norm_biases, strict=True)
        for row in (weight.flatten(1).t(), norm_weight[None], norm_bias[None])
    ]
    sizes = [weight[0].numel() + 2 for weight in weights]
    parameters = torch.cat([row.float() for row in rows]).split(sizes)
    three = []
    strides = (stride_q, stride_kv, stride_kv)
    tokens = qkv.contiguous().unbind(2)
    for x, packed, weight, stride in zip(tokens, parameters, weights, strides, strict=True):
        kernel = tuple(weight.shape[2:])
        out_thw = pooled_thw(thw, kernel, stride)
        three.append(Pooling(x, packed, tuple(thw), out_thw, kernel, tuple(stride)))
    return three


def _launch(one: Pooling, thw: tuple[int, ...], num_prefix_tokens: int) -> _Launch:
    """How tiles lie over a grid; and what the kernels are compiled for."""
    batch, _, num_heads, head_dim = one.tokens.shape
    longest = max(thw[2], num_prefix_tokens) * num_heads
    rows = min(power_of_two(longest), _MAX_ROWS)
    tiles_in_line = -(-longest // rows)
    num_lines = thw[0] * thw[1] + (num_prefix_tokens > 0)
    constants = {
        "N": num_heads,
        "D": head_dim,
        "P": num_prefix_tokens,
        **dict(zip(("KT", "KH", "KW"), one.kernel, strict=True)),
        **dict(zip(("ST", "SH", "SW"), one.stride, strict=True)),
        "ROWS": rows,
        "WIDTH": power_of_two(head_dim),
        "num_warps": _NUM_WARPS,
    }
    return _Launch(tiles_in_line, batch * num_lines * tiles_in_line, constants)


def _empty_pooled(one: Pooling, num_prefix_tokens: int) -> Tensor:
    batch, _, num_heads, head_dim = one.tokens.shape
    length = num_prefix_tokens + math.prod(one.out_thw)
    return one.tokens.new_empty(batch, length, num_heads, head_dim)


def _to_pooled(
    one: Pooling, grad: Tensor, num_prefix_tokens: int, eps: float
) -> tuple[Tensor, Tensor]:
    """The gradient of the convolution's result, like y, and partial sums (programs, taps + 2, D).

    The former has the dtype of the tokens, as it has where autograd passes it between the plain
    convolution and LayerNorm.
    """
    launch = _launch(one, one.out_thw, num_prefix_tokens)
    tiles = power_of_two(-(-launch.num_tiles // _MAX_PROGRAMS))
    num_programs = -(-launch.num_tiles // tiles)
    grad_pooled = _empty_pooled(one, num_prefix_tokens)
    partial = one.parameters.new_empty(num_programs, *one.parameters.shape)
    kernels_of("pooling_kernels").pool_backward_to_pooled[(num_programs,)](
        one.tokens,
        one.parameters,
        grad,
        grad_pooled,
        partial,
        *one.in_thw,
        *one.out_thw,
        launch.tiles_in_line,
        launch.num_tiles,
        eps,
        **launch.constants,
        TILES=tiles,
        TAPS=power_of_two(math.prod(one.kernel)),
    )
    return grad_pooled, partial


def _to_tokens(
    one: Pooling, grad_pooled: Tensor, grad_tokens: Tensor, num_prefix_tokens: int
) -> None:
    """Write the gradient of the tokens into a slice like them."""
    launch = _launch(one, one.in_thw, num_prefix_tokens)
    kernels_of("pooling_kernels").pool_backward_to_tokens[(launch.num_tiles,)](
        grad_pooled,
        one.parameters,
        grad_tokens,
        *one.in_thw,
        *one.out_thw,
        launch.tiles_in_line,
        **launch.constants,
    )


def _summed(one: Pooling, partial: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the filters, the LayerNorm's weight and its bias."""
    num_programs, num_rows, head_dim = partial.shape
    of_filters = partial.new_empty(shape)
    of_weight, of_bias = partial.new_empty(head_dim), partial.new_empty(head_dim)
    kernels_of("pooling_kernels").sum_partials[(num_rows,)](
        partial,
        of_filters,
        of_weight,
        of_bias,
        num_programs,
        D=head_dim,
        TAPS=num_rows - 2,
        ROWS=_MAX_ROWS,
        WIDTH=power_of_two(head_dim),
    )
    return of_filters, of_weight, of_bias
