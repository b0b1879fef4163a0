"""Folded queries, unfolded output and the attention between them.

The tests marked ``gpu`` run twice, as in ``test_cuda_pooling.py``: on a CUDA device where there
is one, and in Triton's interpreter. The others test the operators, their twins and the choice
between attention kernels, and need neither.
"""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch.nn.attention import SDPBackend
from torch.utils.checkpoint import checkpoint

from slowfast_mvit.fast.cuda import attention as cuda_attention
from slowfast_mvit.fast.cuda import folding
from slowfast_mvit.fast.cuda import folding_launch as launch
from slowfast_mvit.fast.cuda.attention import folded_attention_fused
from slowfast_mvit.models.attention import plain_attention
from slowfast_mvit.models.rel_pos import axis_offsets

# grid of the queries, of the keys, axes with a table, prefix tokens, heads, head width
SMALL = {
    "odd grids, class token, heads": ((2, 3, 5), (2, 2, 3), (0, 1, 2), 1, 2, 6),
    "an image, no class token": ((1, 4, 4), (1, 2, 2), (1, 2), 0, 1, 8),
    "tables of several chunks": ((2, 40, 3), (2, 3, 3), (0, 1, 2), 1, 1, 8),
    "keys finer than queries": ((1, 2, 3), (1, 4, 5), (0, 1, 2), 1, 1, 8),
}
# Blocks of MViTv2-S (224 pixels) and of L (312 pixels: tables cut to whole rows).
PUBLISHED = {
    "S, block 0": ((8, 56, 56), (8, 7, 7), (0, 1, 2), 1, 1, 96),
    "S, block 15": ((8, 7, 7), (8, 7, 7), (0, 1, 2), 1, 8, 96),
    "L, block 0": ((4, 78, 78), (4, 10, 10), (0, 1, 2), 1, 2, 72),
}
SCALE = 0.3


def drawn(case, dtype, device, batch=2):
    """Queries in ``dtype``, tables in float32, and the arguments between them and the width."""
    q_thw, k_thw, axes, p, num_heads, head_dim = case
    torch.manual_seed(0)
    q = torch.randn(batch, p + math.prod(q_thw), num_heads, head_dim, device=device).to(dtype)
    num_rows = sum(2 * max(q_thw[axis], k_thw[axis]) - 1 for axis in axes)
    width = -(-(head_dim + sum(k_thw[axis] for axis in axes)) // 8) * 8
    return q, torch.randn(num_rows, head_dim, device=device), (axes, q_thw, k_thw, SCALE, p), width


def in_float64(q, tables, arguments, width, direction):
    """Folded queries and the gradients of queries and tables, by autograd on the twin."""
    leaves = [q.double().requires_grad_(), tables.double().requires_grad_()]
    folded = folding.plain_fold_queries(*leaves, *arguments, width)
    return [folded, *torch.autograd.grad(folded, leaves, direction.double())]


def errors(results, exact):
    """Distance of each to the exact one, as a part of its length."""
    return [
        ((result.double() - expected).norm() / expected.norm()).item()
        for result, expected in zip(results, exact, strict=True)
    ]


@pytest.fixture
def several_tiles_each(monkeypatch):
    """Let a program do several tiles, as it does on grids too large for the interpreter."""
    monkeypatch.setattr(launch, "_MAX_PROGRAMS", 1)


def test_the_kernels_pass_in_the_interpreter(passes_in_interpreter):
    passes_in_interpreter(__file__)


@pytest.mark.gpu
@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_the_kernels_fold_as_pytorch_does_and_so_do_their_gradients(
    case, triton_device, several_tiles_each
):
    q, tables, arguments, width = drawn(case, torch.float32, triton_device)

    folded = launch.fold(q, tables, *arguments, width)
    direction = torch.randn_like(folded)
    gradients = launch.fold_backward(direction, folded, tables, *arguments)

    assert torch.equal(folded[..., : q.shape[3]], q)
    exact = in_float64(q, tables, arguments, width, direction)
    assert max(errors([folded, *gradients], exact)) < 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_folds_as_close_to_float64_as_pytorch_does(dtype, triton_device):
    q, tables, arguments, width = drawn(
        SMALL["odd grids, class token, heads"], dtype, triton_device
    )

    folded = launch.fold(q, tables, *arguments, width)
    direction = torch.randn_like(folded)
    gradients = launch.fold_backward(direction, folded, tables, *arguments)

    plain = folding.plain_fold_queries(q, tables, *arguments, width)
    theirs = folding.plain_fold_queries_backward(direction, plain, tables, *arguments)
    exact = in_float64(q, tables, arguments, width, direction)
    assert [folded.dtype, *(one.dtype for one in gradients)] == [dtype, dtype, torch.float32]
    for our_error, their_error in zip(
        errors([folded, *gradients], exact), errors([plain, *theirs], exact), strict=True
    ):
        assert our_error <= 1.1 * their_error + 1e-6


@pytest.mark.gpu
def test_the_same_gradients_of_tables_come_out_bit_for_bit(triton_device, several_tiles_each):
    q, tables, arguments, width = drawn(
        SMALL["tables of several chunks"], torch.float32, triton_device
    )
    folded = launch.fold(q, tables, *arguments, width)
    direction = torch.randn_like(folded)

    first = launch.fold_backward(direction, folded, tables, *arguments)
    second = launch.fold_backward(direction, folded, tables, *arguments)

    assert all(map(torch.equal, first, second))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bare", [0, 1])
@pytest.mark.parametrize("width", [6, 16])
def test_the_kernels_unfold_as_pytorch_does_and_so_do_their_gradients(
    width, bare, dtype, triton_device
):
    torch.manual_seed(0)
    attended = torch.randn(2, 45, 2, width, device=triton_device).to(dtype)
    residual = torch.randn(2, 45, 2, 6, device=triton_device).to(dtype)

    out = launch.unfold(attended, residual, bare)
    gradients = launch.unfold_backward(residual, width, bare)

    assert torch.equal(out, folding.plain_unfold_output(attended, residual, bare))
    expected = folding.plain_unfold_output_backward(residual, width, bare)
    assert all(map(torch.equal, gradients, expected))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs PyTorch's kernels for CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", PUBLISHED.values(), ids=PUBLISHED)
def test_attention_of_published_models_is_as_close_to_float64_as_plain_attention_is(case, dtype):
    inputs, numbers = attention_inputs(case, torch.float32, "cuda", batch=1)
    inputs = [one.to(dtype) for one in inputs]
    direction = torch.randn_like(inputs[0])

    ours = with_gradients(fused, inputs, numbers, direction)

    plain = with_gradients(written_out, inputs, numbers, direction)
    exact = with_gradients(
        written_out, [one.double() for one in inputs], numbers, direction.double()
    )
    for our_error, their_error in zip(errors(ours, exact), errors(plain, exact), strict=True):
        assert our_error <= 1.1 * their_error + 2e-6


def attention_inputs(case, dtype, device, batch=2):
    """q, k, v and three tables (short, to be resampled); and the numbers of the call."""
    q_thw, k_thw, axes, p, num_heads, head_dim = case
    torch.manual_seed(0)
    lengths = (p + math.prod(q_thw), p + math.prod(k_thw), p + math.prod(k_thw))
    tokens = [torch.randn(batch, length, num_heads, head_dim) for length in lengths]
    tables = [torch.randn(2 * max(q_thw[axis] - 1, 1) - 1, head_dim) * 0.3 for axis in axes]
    numbers = {"axes": axes, "q_thw": q_thw, "k_thw": k_thw, "p": p}
    return [one.to(device, dtype) for one in (*tokens, *tables)], numbers


def fused(q, k, v, tables, *, q_thw, k_thw, p):
    return folded_attention_fused(
        q,
        k,
        v,
        scale=SCALE,
        tables=tables,
        q_thw=q_thw,
        k_thw=k_thw,
        num_prefix_tokens=p,
        residual=q,
        num_without_residual=p,
    )


def written_out(q, k, v, tables, *, q_thw, k_thw, p):
    """The same with every score in memory."""
    heads_first = [tokens.transpose(1, 2) for tokens in (q, k, v)]
    offsets = axis_offsets(heads_first[0][:, :, p:], tables, q_thw, k_thw)
    attended = plain_attention(
        *heads_first, scale=SCALE, offsets=offsets, k_thw=k_thw, num_prefix_tokens=p
    ).transpose(1, 2)
    return torch.cat([attended[:, :p], attended[:, p:] + q[:, p:]], dim=1)


def with_gradients(attend, inputs, numbers, direction):
    leaves = [one.detach().requires_grad_() for one in inputs]
    out = call(attend, leaves, **numbers)
    return [out, *torch.autograd.grad(out, leaves, direction)]


def call(attend, leaves, *, axes, **numbers):
    tables = dict(zip(axes, leaves[3:], strict=True))
    return attend(*leaves[:3], [tables.get(axis) for axis in range(3)], **numbers)


@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_fused_attention_is_plain_attention_and_so_are_its_gradients(case):
    inputs, numbers = attention_inputs(case, torch.float64, "cpu")
    direction = torch.randn_like(inputs[0])

    actual = with_gradients(fused, inputs, numbers, direction)

    expected = with_gradients(written_out, inputs, numbers, direction)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # float32 sums of tables


def test_without_tables_fused_attention_is_ordinary_attention():
    case = ((1, 2, 3), (1, 2, 2), (), 1, 2, 8)
    inputs, numbers = attention_inputs(case, torch.float64, "cpu")

    torch.testing.assert_close(call(fused, inputs, **numbers), call(written_out, inputs, **numbers))


def test_autocast_decides_the_precision_of_fused_attention():
    inputs, numbers = attention_inputs(SMALL["an image, no class token"], torch.float32, "cpu")

    with torch.autocast("cpu", torch.bfloat16):
        out = call(fused, inputs, **numbers)

    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), call(written_out, inputs, **numbers), rtol=0, atol=0.05)


def test_the_operators_keep_the_rules_of_torch_library():
    q, tables, arguments, width = drawn(SMALL["an image, no class token"], torch.float32, "cpu")
    q.requires_grad_()
    tables.requires_grad_()
    folded = folding.fold_queries(q, tables, *arguments, width).detach().requires_grad_()
    residual = q.detach().clone().requires_grad_()

    torch.library.opcheck(folding.fold_queries, (q, tables, *arguments, width))
    torch.library.opcheck(folding.unfold_output, (folded, residual, 1))


def test_one_graph_serves_every_batch():
    case = SMALL["an image, no class token"]
    compiled = torch.compile(fused, backend="eager", fullgraph=True, dynamic=True)
    inputs, numbers = attention_inputs(case, torch.float32, "cpu", batch=2)
    with_gradients(compiled, inputs, numbers, torch.randn_like(inputs[0]))

    inputs, numbers = attention_inputs(case, torch.float32, "cpu", batch=5)
    direction = torch.randn_like(inputs[0])
    with torch.compiler.set_stance("fail_on_recompile"):
        actual = with_gradients(compiled, inputs, numbers, direction)

    expected = with_gradients(fused, inputs, numbers, direction)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_compilation_sees_through_fused_attention():
    inputs, numbers = attention_inputs(SMALL["an image, no class token"], torch.float32, "cpu")
    direction = torch.randn_like(inputs[0])
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True, dynamic=False)

    actual = with_gradients(compiled, inputs, numbers, direction)

    expected = with_gradients(fused, inputs, numbers, direction)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_activation_checkpointing_sees_through_fused_attention():
    inputs, numbers = attention_inputs(SMALL["an image, no class token"], torch.float32, "cpu")
    direction = torch.randn_like(inputs[0])

    def checkpointed(*arguments, **options):
        return checkpoint(fused, *arguments, use_reentrant=False, **options)

    actual = with_gradients(checkpointed, inputs, numbers, direction)

    expected = with_gradients(fused, inputs, numbers, direction)
    assert all(map(torch.equal, actual, expected))


def test_a_graph_can_hold_the_order_of_attention_kernels():
    q, k, v = torch.randn(2, 5, 1, 16), torch.randn(2, 3, 1, 16), torch.randn(2, 3, 1, 8)
    compiled = torch.compile(cuda_attention._attend_with, backend="aot_eager", fullgraph=True)

    actual = compiled(cuda_attention._IN_ORDER, q, k, v, SCALE)

    expected = cuda_attention._attend_with(cuda_attention._IN_ORDER, q, k, v, SCALE)
    torch.testing.assert_close(actual, expected)


def sizes(batch):
    shape = (batch, 9, 1, 16)
    return cuda_attention.Sizes(shape, shape, 8, torch.bfloat16, torch.device("cuda"), True)


def test_the_fastest_attention_kernel_is_measured_once_for_each_size(caplog, monkeypatch):
    cuda_attention.fastest_backend.cache_clear()
    measured = []

    def times_ms(size):
        measured.append(size)
        return {SDPBackend.FLASH_ATTENTION: 2.0, SDPBackend.CUDNN_ATTENTION: 1.0}

    monkeypatch.setattr(cuda_attention, "times_ms_of_backends", times_ms)

    with caplog.at_level(logging.INFO):
        chosen = {cuda_attention.fastest_backend(sizes(batch)) for batch in (1, 2, 1, 2)}

    assert chosen == {SDPBackend.CUDNN_ATTENTION}
    assert measured == [sizes(1), sizes(2)]
    assert "FLASH_ATTENTION 2.000 ms, CUDNN_ATTENTION 1.000 ms" in caplog.records[0].getMessage()
    cuda_attention.fastest_backend.cache_clear()


def test_no_attention_kernel_is_chosen_where_none_works(monkeypatch):
    cuda_attention.fastest_backend.cache_clear()
    monkeypatch.setattr(cuda_attention, "times_ms_of_backends", lambda size: {})

    assert cuda_attention.fastest_backend(sizes(1)) is None
    cuda_attention.fastest_backend.cache_clear()
