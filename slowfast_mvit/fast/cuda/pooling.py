"""Pooling and LayerNorm of queries, keys and values on CUDA: ``fast.cpu.pooling.pool_qkv``.

Every kernel reads the tokens in the layout of the linear layer's output, heads and channels in
adjacent places, and writes in the layout that the next operation reads. Memory traffic is minimal:
forward reads ``qkv`` and writes q, k and v; backward reads ``qkv`` and the three gradients and
writes that of ``qkv``, with one gradient of pooled size between.

The kernels are launched for q, k and v in turn:

    pool_forward              x -> y
    pool_backward_to_pooled   x, grad of y -> grad of the convolution's result, partial sums
    pool_backward_to_tokens   grad of the convolution's result -> grad of x
    sum_partials              partial sums -> grads of filters and LayerNorm

Partial sums, not atomic additions: two runs give the same bits.
"""

from __future__ import annotations

import itertools
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


def why_no_pooling(
    dtype: torch.dtype,
    sample_size: int,
    head_dim: int,
    kernels: Sequence[tuple[int, ...]],
    device: str,
) -> str | None:
    """Return the reason why the kernels cannot pool qkv of these sizes; None if they can.

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


@operators.pool_qkv.register_kernel("cuda")
def pool_qkv_forward(qkv: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Pool and normalise queries, keys and values; arguments and results are those of the operator.

    The results have the dtype of ``qkv``: float32, bfloat16 or float16. Sums and norms are float32.
    """
    *_, num_prefix_tokens, eps = arguments
    kernels = kernels_of("pooling_kernels")
    results = []
    with torch.cuda.device_of(qkv):
        for one in _poolings(qkv, *arguments[:-1]):
            shape = (len(qkv), num_prefix_tokens + math.prod(one.out_thw), *qkv.shape[3:])
            y = qkv.new_empty(shape)
            tiles_in_line, num_tiles, constants = _tiling(one, one.out_thw)
            operands = one.tokens, one.parameters, y, *one.in_thw, *one.out_thw, tiles_in_line, eps
            kernels.pool_forward[(num_tiles,)](*operands, **constants)
            results.append(y)
    q, k, v = results
    return q, k, v


@operators.pool_qkv_backward.register_kernel("cuda")
def pool_qkv_backward(
    grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, qkv: Tensor, *arguments: Any
) -> list[Tensor]:
    """The gradients of ``qkv``, the filters, and the weights and biases of the LayerNorms.

    Arguments and results are those of the operator. No two results share memory.
    """
    parameters, eps = arguments[:3], arguments[-1]  # filters, norm weights and norm biases
    kernels = kernels_of("pooling_kernels")
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    of_parameters = []
    with torch.cuda.device_of(qkv):
        three = zip(_poolings(qkv, *arguments[:-1]), (grad_q, grad_k, grad_v), strict=True)
        for which, (one, grad) in enumerate(three):
            grids, head_dim = (*one.in_thw, *one.out_thw), qkv.shape[4]
            # As between the plain convolution and LayerNorm, this gradient has the tokens' dtype.
            grad_pooled = qkv.new_empty(grad.shape)
            tiles_in_line, num_tiles, constants = _tiling(one, one.out_thw)
            tiles = power_of_two(-(-num_tiles // _MAX_PROGRAMS))
            num_programs = -(-num_tiles // tiles)
            partial = one.parameters.new_empty(num_programs, *one.parameters.shape)
            operands = one.tokens, one.parameters, grad.contiguous(), grad_pooled, partial
            numbers = *grids, tiles_in_line, num_tiles, eps
            num_taps = len(one.parameters) - 2
            kernels.pool_backward_to_pooled[(num_programs,)](
                *operands, *numbers, **constants, TILES=tiles, TAPS=power_of_two(num_taps)
            )
            tiles_in_line, num_tiles, constants = _tiling(one, one.in_thw)
            of_tokens = grad_pooled, one.parameters, grad_qkv.select(2, which)
            kernels.pool_backward_to_tokens[(num_tiles,)](
                *of_tokens, *grids, tiles_in_line, **constants
            )
            sums = [partial.new_empty(group[which].shape) for group in parameters]
            constants = {"D": head_dim, "TAPS": num_taps, "WIDTH": power_of_two(head_dim)}
            kernels.sum_partials[(num_taps + 2,)](
                partial, *sums, num_programs, ROWS=_MAX_ROWS, **constants
            )
            of_parameters.append(sums)
    of_groups = itertools.chain(*zip(*of_parameters, strict=True))
    grads = zip(of_groups, itertools.chain(*parameters), strict=True)
    return [grad_qkv, *(gradient.to(parameter.dtype) for gradient, parameter in grads)]


class _Pooling(NamedTuple):
    """One of the three poolings.

    Attributes:
        tokens: (B, L, N, D), a slice of qkv.
        parameters: (taps + 2, D) float32: filters, LayerNorm weight, LayerNorm bias.
        in_thw: grid of the tokens.
        out_thw: grid of the pooled tokens.
        constants: of the kernels.
    """

    tokens: Tensor
    parameters: Tensor
    in_thw: tuple[int, ...]
    out_thw: tuple[int, ...]
    constants: dict[str, Any]


def _poolings(
    qkv: Tensor,
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    thw: Sequence[int],
    stride_q: Sequence[int],
    stride_kv: Sequence[int],
    num_prefix_tokens: int,
) -> list[_Pooling]:
    # One copy for all nine parameters: the channels of a tap in adjacent places, as in tokens.
    rows = [
        row
        for weight, norm_weight, norm_bias in zip(weights, norm_weights, norm_biases, strict=True)
        for row in (weight.flatten(1).t(), norm_weight[None], norm_bias[None])
    ]
    sizes = [weight[0].numel() + 2 for weight in weights]
    parameters = torch.cat([row.float() for row in rows]).split(sizes)
    poolings = []
    strides = (stride_q, stride_kv, stride_kv)
    tokens = qkv.contiguous().unbind(2)
    for x, packed, weight, stride in zip(tokens, parameters, weights, strides, strict=True):
        kernel = weight.shape[2:]
        constants = {
            "N": x.shape[2],
            "D": x.shape[3],
            "P": num_prefix_tokens,
            **dict(zip(("KT", "KH", "KW", "ST", "SH", "SW"), (*kernel, *stride), strict=True)),
            "WIDTH": power_of_two(x.shape[3]),
            "num_warps": _NUM_WARPS,
        }
        out_thw = pooled_thw(thw, kernel, stride)
        poolings.append(_Pooling(x, packed, tuple(thw), out_thw, constants))
    return poolings


def _tiling(one: _Pooling, thw: Sequence[int]) -> tuple[int, int, dict[str, Any]]:
    """Tiles in a line of a grid, tiles in all of it, and the constants of a kernel over them."""
    num_heads, num_prefix_tokens = one.constants["N"], one.constants["P"]
    longest = max(thw[2], num_prefix_tokens) * num_heads
    rows = min(power_of_two(longest), _MAX_ROWS)
    tiles_in_line = -(-longest // rows)
    num_lines = len(one.tokens) * (thw[0] * thw[1] + (num_prefix_tokens > 0))
    return tiles_in_line, num_lines * tiles_in_line, {**one.constants, "ROWS": rows}
