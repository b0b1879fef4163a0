"""The Triton kernels for pooling against PyTorch's own operations, on a GPU or interpreted.

The tests marked ``gpu`` run twice: on a CUDA device where there is one, and, wherever Triton is
installed, in its interpreter on the CPU, in a process of its own that
``test_the_kernels_pass_in_the_interpreter`` starts.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from slowfast_mvit.fast.cuda.pooling import pool_qkv_backward, pool_qkv_forward, why_no_pooling
from slowfast_mvit.fast.plan import log_once
from slowfast_mvit.models.pooling import depthwise_pool

EPS = 1e-6

# grid, prefix tokens, heads, head width, kernel, stride of queries, stride of keys and values
SMALL = {
    "odd grid, class token, heads": ((1, 3, 5), 1, 2, 6, (1, 3, 3), (1, 1, 1), (1, 2, 2)),
    "kernel of the published models": ((2, 1, 3), 0, 1, 6, (3, 3, 3), (1, 1, 1), (2, 1, 2)),
    "no class token, wide strides": ((1, 5, 9), 0, 1, 8, (1, 3, 3), (1, 4, 4), (1, 8, 8)),
    "strides in time, uneven kernel": ((3, 1, 4), 1, 3, 4, (1, 1, 5), (2, 1, 2), (2, 1, 4)),
    "kernel of one": ((2, 2, 2), 0, 1, 8, (1, 1, 1), (1, 1, 1), (1, 2, 2)),
}
# Blocks of MViTv2-S (224 pixels) and of L (312 pixels: odd grids, heads of 72 channels).
PUBLISHED = {
    "S, block 0": ((8, 56, 56), 1, 1, 96, (3, 3, 3), (1, 1, 1), (1, 8, 8)),
    "S, block 1": ((8, 56, 56), 1, 2, 96, (3, 3, 3), (1, 2, 2), (1, 4, 4)),
    "S, block 15": ((8, 7, 7), 1, 8, 96, (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    "L, block 8": ((4, 39, 39), 1, 8, 72, (3, 3, 3), (1, 2, 2), (1, 2, 2)),
}


def three_plain(tokens, parameters, case):
    """Pooling and LayerNorm of q, k and v, one after another, in the dtype of the arguments."""
    thw, p, _, _, _, stride_q, stride_kv = case
    results = []
    for which, stride in enumerate((stride_q, stride_kv, stride_kv)):
        weight, norm_weight, norm_bias = parameters[which::3]
        heads = tokens[:, :, which]
        patches, _ = depthwise_pool(heads[:, p:], thw, weight, stride)
        together = torch.cat([heads[:, :p], patches], dim=1)
        results.append(F.layer_norm(together, norm_weight.shape, norm_weight, norm_bias, EPS))
    return results


def drawn(case, dtype, device, batch=1):
    """qkv in ``dtype``; three filters, three LayerNorm weights and three biases in float32."""
    thw, p, num_heads, head_dim, kernel, _, _ = case
    torch.manual_seed(0)
    qkv = torch.randn(batch, p + math.prod(thw), 3, num_heads, head_dim, device=device)
    weights = [torch.randn(head_dim, 1, *kernel, device=device) * 0.3 for _ in range(3)]
    norms = [torch.randn(head_dim, device=device) for _ in range(6)]
    return qkv.to(dtype), [*weights, *norms]


def with_gradients(tokens, parameters, case, directions):
    leaves = [tensor.detach().requires_grad_() for tensor in (tokens, *parameters)]
    results = three_plain(leaves[0], leaves[1:], case)
    gradients = torch.autograd.grad(results, leaves, directions)
    return [*results, *gradients]


def by_kernels(qkv, parameters, case, directions=None):
    """q, k and v, the gradient of qkv, and those of the parameters, in the order they came."""
    thw, p, _, _, _, stride_q, stride_kv = case
    arguments = (qkv, parameters[:3], parameters[3:6], parameters[6:], thw, stride_q, stride_kv)
    results = pool_qkv_forward(*arguments, p, EPS)
    directions = directions or [torch.randn_like(result) for result in results]
    return [*results, *pool_qkv_backward(*directions, *arguments, p, EPS)], directions


def errors(results, exact):
    """Distance of each to the exact one, as a part of its length."""
    return [
        ((result.double() - expected).norm() / expected.norm()).item()
        for result, expected in zip(results, exact, strict=True)
    ]


@pytest.fixture
def several_tiles_each(monkeypatch):
    """Let a program do several tiles, as it does on grids too large for the interpreter."""
    monkeypatch.setattr("slowfast_mvit.fast.cuda.pooling._MAX_PROGRAMS", 2)


def test_the_kernels_pass_in_the_interpreter(passes_in_interpreter):
    passes_in_interpreter(__file__)


@pytest.mark.gpu
@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_the_kernels_pool_as_pytorch_does_and_so_do_their_gradients(
    case, triton_device, several_tiles_each
):
    qkv, parameters = drawn(case, torch.float32, triton_device)

    results, directions = by_kernels(qkv, parameters, case)

    double = [direction.double() for direction in directions]
    exact = with_gradients(qkv.double(), [one.double() for one in parameters], case, double)
    assert [one.shape for one in results] == [one.shape for one in exact]
    assert max(errors(results, exact)) < 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_as_close_to_float64_as_pytorch_is(dtype, triton_device):
    case = SMALL["no class token, wide strides"]
    qkv, parameters = drawn(case, dtype, triton_device)

    results, directions = by_kernels(qkv, parameters, case)

    assert {one.dtype for one in results[:4]} == {dtype}
    assert {one.dtype for one in results[4:]} == {torch.float32}
    plain = with_gradients(qkv, [one.to(dtype) for one in parameters], case, directions)
    double = [direction.double() for direction in directions]
    exact = with_gradients(qkv.double(), [one.double() for one in parameters], case, double)
    for ours, theirs in zip(errors(results, exact), errors(plain, exact), strict=True):
        assert ours <= 1.1 * theirs + 1e-6


@pytest.mark.gpu
def test_the_same_gradients_come_out_bit_for_bit(triton_device, several_tiles_each):
    case = SMALL["strides in time, uneven kernel"]
    qkv, parameters = drawn(case, torch.float32, triton_device)

    first, directions = by_kernels(qkv, parameters, case)
    second, _ = by_kernels(qkv, parameters, case, directions)

    assert all(map(torch.equal, first, second))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="too large for the interpreter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", PUBLISHED.values(), ids=PUBLISHED)
def test_blocks_of_published_models_are_as_close_to_float64_as_pytorch_is(case, dtype):
    qkv, parameters = drawn(case, dtype, "cuda", batch=2)

    results, directions = by_kernels(qkv, parameters, case)

    plain = with_gradients(qkv, [one.to(dtype) for one in parameters], case, directions)
    double = [direction.double() for direction in directions]
    exact = with_gradients(qkv.double(), [one.double() for one in parameters], case, double)
    for ours, theirs in zip(errors(results, exact), errors(plain, exact), strict=True):
        assert ours <= 1.1 * theirs + 1e-6


@pytest.mark.parametrize(
    ("head_dim", "kernel", "dtype", "reason"),
    [
        (96, (3, 3, 3), torch.float32, "CUDA devices only"),
        (96, (3, 3, 3), torch.float64, "not torch.float64"),
        (160, (3, 3, 3), torch.float32, "160 channels"),
        (96, (3, 2, 3), torch.float32, "not (3, 2, 3)"),
        (96, (5, 5, 5), torch.float32, "not (5, 5, 5)"),
    ],
)
def test_what_the_kernels_cannot_do_is_told(head_dim, kernel, dtype, reason, monkeypatch):
    pytest.importorskip("triton")
    there_is_a_gpu = "CUDA" not in reason
    monkeypatch.setattr("slowfast_mvit.fast.cuda.available.INTERPRETS", there_is_a_gpu)

    told = why_no_pooling(dtype, 4 * 3 * head_dim, head_dim, [kernel] * 3, "cpu")

    assert told is not None
    assert reason in told


def test_a_graph_can_hold_the_question_whether_the_kernels_can():
    case = SMALL["kernel of one"]
    qkv, _ = drawn(case, torch.float32, "cpu")

    def asked(qkv):
        reason = why_no_pooling(qkv.dtype, qkv[0].numel(), qkv.shape[4], [(1, 1, 1)] * 3, "cpu")
        if reason:
            log_once("pooling", reason)
        return qkv + 1 if reason else qkv

    compiled = torch.compile(asked, backend="eager", fullgraph=True)

    assert torch.equal(compiled(qkv), asked(qkv))
