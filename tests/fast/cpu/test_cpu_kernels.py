"""The kernels for CPUs against PyTorch's own operations in float64."""

import math
import platform
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from exactness import allowed, assert_exact, largest_error
from torch.nn.functional import gelu, layer_norm, linear

from slowfast_mvit.fast.cpu import casting, native, token_blocks
from slowfast_mvit.fast.cpu.blockwise import blockwise_attention
from slowfast_mvit.fast.cpu.gelu import biased_gelu, biased_gelu_backward
from slowfast_mvit.fast.cpu.mlp import mlp_residual
from slowfast_mvit.fast.cpu.norm_linear import norm_linear
from slowfast_mvit.fast.cpu.pooling import pool_qkv, skip_pool
from slowfast_mvit.fast.plan import _blockwise_pays
from slowfast_mvit.models.attention import plain_attention
from slowfast_mvit.models.pooling import depthwise_pool, max_pool
from slowfast_mvit.models.rel_pos import axis_offsets
from slowfast_mvit.models.tables import gather_table

EPS = 1e-6

needs_compiler = pytest.mark.skipif(
    not native.is_built(), reason="the kernels cannot be compiled on this machine"
)


def random(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype).requires_grad_()


def in_float64(tensors):
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def gradients(outputs, inputs, seed=0):
    torch.manual_seed(seed)
    grads = [torch.randn(out.shape).to(torch.bfloat16).to(out.dtype) for out in outputs]
    return torch.autograd.grad(outputs, inputs, grads)


def results(call, tensors):
    """The results of a call, and then the gradients of the tensors that are not None."""
    given = [None if one is None else one.detach().clone().requires_grad_() for one in tensors]
    outputs = call(given)
    return *outputs, *gradients(outputs, [one for one in given if one is not None])


def assert_as_exact(ours, plainly, tensors):
    """Hold values and gradients to those of PyTorch's own operations."""
    exact = [None if one is None else one.detach().double() for one in tensors]
    assert_exact(results(ours, tensors), results(plainly, tensors), results(plainly, exact))


POOLINGS = {
    "all strides 1": {"thw": (3, 5, 6), "stride_q": (1, 1, 1), "stride_kv": (1, 1, 1)},
    "keys by 8 on an odd grid": {"thw": (3, 9, 17), "stride_q": (1, 1, 1), "stride_kv": (1, 8, 8)},
    "queries by 2, keys by 4": {"thw": (2, 8, 7), "stride_q": (1, 2, 2), "stride_kv": (1, 4, 4)},
    "more rows than are taken together": {
        "thw": (4, 15, 17),
        "stride_q": (1, 1, 1),
        "stride_kv": (1, 2, 2),
    },
    "in time, too": {"thw": (5, 4, 6), "stride_q": (2, 2, 2), "stride_kv": (2, 2, 2)},
    "kernel of one frame": {
        "thw": (3, 6, 6),
        "stride_q": (1, 1, 1),
        "stride_kv": (1, 2, 2),
        "kernel": (1, 3, 3),
    },
}


def pooling_inputs(
    *, thw, stride_q, stride_kv, kernel=(3, 3, 3), head_dim=96, heads=2, prefix=1, dtype
):
    torch.manual_seed(1)
    qkv = random(2, prefix + math.prod(thw), 3, heads, head_dim, dtype=dtype)
    weights = [random(head_dim, 1, *kernel) for _ in range(3)]
    norms = [random(head_dim) for _ in range(6)]
    return [qkv, *weights, *norms], (thw, stride_q, stride_kv, prefix, EPS)


def plain_pool_qkv(qkv, weights, norm_weights, norm_biases, thw, stride_q, stride_kv, prefix, eps):
    """``pool_qkv`` in PyTorch's own operations."""
    results = []
    strides = (stride_q, stride_kv, stride_kv)
    for heads, weight, *norm, stride in zip(
        qkv.unbind(2), weights, norm_weights, norm_biases, strides, strict=True
    ):
        patches, _ = depthwise_pool(heads[:, prefix:], thw, weight, stride)
        tokens = torch.cat([heads[:, :prefix], patches], dim=1)
        results.append(layer_norm(tokens, norm[0].shape, *norm, eps))
    return results


def pooled(pool, sizes, tensors):
    return pool(tensors[0], tensors[1:4], tensors[4:7], tensors[7:], *sizes)


@needs_compiler
@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("case", POOLINGS)
def test_pooling_gives_the_values_and_gradients_of_convolution_and_norm(case, prefix):
    tensors, sizes = pooling_inputs(**POOLINGS[case], prefix=prefix, dtype=torch.float32)

    assert_as_exact(
        partial(pooled, pool_qkv, sizes), partial(pooled, plain_pool_qkv, sizes), tensors
    )


@needs_compiler
@pytest.mark.parametrize("head_dim", [8, 40, 72])
def test_pooling_takes_heads_of_any_multiple_of_8(head_dim):
    case = POOLINGS["queries by 2, keys by 4"]
    tensors, sizes = pooling_inputs(**case, head_dim=head_dim, heads=3, dtype=torch.float32)

    assert_as_exact(
        partial(pooled, pool_qkv, sizes), partial(pooled, plain_pool_qkv, sizes), tensors
    )


@needs_compiler
def test_pooling_in_bfloat16_rounds_nothing_but_what_it_gives():
    case = POOLINGS["queries by 2, keys by 4"]
    tensors, sizes = pooling_inputs(**case, dtype=torch.bfloat16)
    exact = in_float64(tensors)

    actual, expected = pooled(pool_qkv, sizes, tensors), pooled(plain_pool_qkv, sizes, exact)

    assert all(one.dtype == torch.bfloat16 for one in actual)
    for one, other in zip(actual, expected, strict=True):
        # Half a unit of the last of 8 bits; a little more where float32 fell on the other side.
        assert ((one.double() - other).abs() <= 0.00392 * other.abs() + 1e-5).all()
    of_qkv, *of_parameters = gradients(actual, tensors)
    expected_of_qkv, *expected_of_parameters = gradients(expected, exact)
    assert largest_error(of_qkv, expected_of_qkv) <= 0.00392
    in_float32 = [one.detach().float() for one in tensors]
    plain = results(partial(pooled, plain_pool_qkv, sizes), in_float32)[4:]
    assert_exact(of_parameters, plain, expected_of_parameters)


def attention_inputs(*, q_thw, k_thw, heads=2, head_dim=96, prefix=1, axes="thw"):
    torch.manual_seed(2)
    lengths = [prefix + math.prod(thw) for thw in (q_thw, k_thw, k_thw)]
    q, k, v = (random(2, length, heads, head_dim) for length in lengths)
    tables = [
        (0.1 * random(2 * max(q_length, k_length) - 1, head_dim)).detach().requires_grad_()
        if axis in axes
        else None
        for axis, q_length, k_length in zip("thw", q_thw, k_thw, strict=True)
    ]
    return [q, k, v, *tables]


def attend_plainly(tensors, *, q_thw, k_thw, prefix, add_from):
    *heads, q_tables = *(tensor.transpose(1, 2) for tensor in tensors[:3]), tensors[3:]
    offsets = axis_offsets(heads[0][:, :, prefix:], q_tables, q_thw, k_thw)
    out = plain_attention(
        *heads, scale=0.1, offsets=offsets, k_thw=k_thw, num_prefix_tokens=prefix
    ).transpose(1, 2)
    return [torch.cat([out[:, :add_from], out[:, add_from:] + tensors[0][:, add_from:]], dim=1)]


def attend_blockwise(tensors, *, q_thw, k_thw, prefix, add_from):
    q, k, v, *tables = tensors
    gathered = [
        None if table is None else gather_table(table, *lengths)
        for table, *lengths in zip(tables, q_thw, k_thw, strict=True)
    ]
    return [blockwise_attention(q, k, v, *gathered, q_thw, k_thw, prefix, 0.1, add_from)[0]]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("stride", [(1, 2, 2), (2, 2, 2), (1, 4, 4)])
def test_the_skip_path_is_pooled_to_the_bits_of_max_pool(stride, prefix, dtype):
    torch.manual_seed(4)
    thw = (3, 7, 9)
    # Whole numbers, so that windows have several largest values and the first has to be found.
    values = torch.randint(-9, 9, (2, prefix + math.prod(thw), 24)).to(dtype)
    values[0, prefix + 11, 3] = math.nan
    values[1, :, 5] = -math.inf
    tokens, same = values.clone().requires_grad_(), values.clone().requires_grad_()

    actual = skip_pool(tokens, thw, stride, prefix)[0]
    expected = torch.cat([same[:, :prefix], max_pool(same[:, prefix:], thw, stride)], dim=1)

    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    grads = torch.randint(1, 9, actual.shape).to(dtype)
    (of_tokens,) = torch.autograd.grad(actual, tokens, grads)
    (of_same,) = torch.autograd.grad(expected, same, grads)
    torch.testing.assert_close(of_tokens, of_same, rtol=0, atol=0)


GRIDS = {
    "keys coarser": {"q_thw": (3, 8, 8), "k_thw": (3, 2, 2)},
    "queries coarser": {"q_thw": (2, 3, 3), "k_thw": (2, 6, 6)},
    "odd": {"q_thw": (3, 5, 7), "k_thw": (3, 3, 4)},
    "a frame of more than 8 columns": {"q_thw": (2, 4, 11), "k_thw": (2, 4, 11)},
}


@needs_compiler
@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("grids", GRIDS)
def test_blockwise_attention_has_the_values_and_gradients_of_all_scores(grids, prefix, monkeypatch):
    monkeypatch.setattr("slowfast_mvit.fast.cpu.blockwise.BLOCK_BYTES", 1 << 10)  # several blocks
    about = dict(**GRIDS[grids], prefix=prefix)
    tensors = attention_inputs(**about)

    assert_as_exact(
        partial(attend_blockwise, **about, add_from=prefix),
        partial(attend_plainly, **about, add_from=prefix),
        tensors,
    )


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("head_dim", [72, 96])
@pytest.mark.parametrize("grids", GRIDS)
def test_blockwise_attention_in_bfloat16_is_as_near_as_all_scores_are(
    grids, head_dim, three_threads
):
    """Operands are rounded for products, where the processor has them; scores are not.

    Two clips of two heads are more than three threads; of one clip the heads are cut; none is fine.
    """
    about = dict(**GRIDS[grids], prefix=1)
    tensors = [one.detach().bfloat16() for one in attention_inputs(**about, head_dim=head_dim)]

    for batch in (2, 1):
        inputs = [*(one[:batch] for one in tensors[:3]), *tensors[3:]]
        assert_as_exact(
            partial(attend_blockwise, **about, add_from=1),
            partial(attend_plainly, **about, add_from=1),
            inputs,
        )
    (none,) = attend_blockwise(
        [*(one[:0] for one in tensors[:3]), *tensors[3:]], **about, add_from=1
    )
    assert none.shape == (0, *tensors[0].shape[1:])


@needs_compiler
@pytest.mark.parametrize("axes", ["", "t", "hw"])
def test_blockwise_attention_leaves_out_axes_without_a_table(axes):
    about = dict(**GRIDS["odd"], prefix=1)
    tensors = attention_inputs(**about, axes=axes, head_dim=24)

    assert_as_exact(
        partial(attend_blockwise, **about, add_from=0),
        partial(attend_plainly, **about, add_from=0),
        tensors,
    )


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_hidden(bad, dtype):
    about = dict(**GRIDS["odd"], prefix=1)
    tensors = [one.detach().to(dtype) for one in attention_inputs(**about)]
    tensors[0][0, 3, 0, 5] = bad

    (actual,) = attend_blockwise(tensors, **about, add_from=1)

    assert actual[0, 3, 0].isnan().all()
    assert actual[0, 4].isfinite().all()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scores_of_any_size_do_not_overflow(dtype):
    about = dict(**GRIDS["odd"], prefix=1)
    tensors = [one.detach().mul(100).to(dtype) for one in attention_inputs(**about)]

    actual = attend_blockwise(tensors, **about, add_from=1)
    plain, exact = (
        attend_plainly(inputs, **about, add_from=1) for inputs in (tensors, in_float64(tensors))
    )

    assert_exact(actual, plain, exact)


@needs_compiler
def test_few_scores_go_to_the_fused_attention_only_where_it_is_fast(monkeypatch):
    attn = SimpleNamespace(num_prefix_tokens=1)

    for has_instructions, in_kernels, dtype, expected in [
        (False, False, torch.float32, False),
        (False, False, torch.bfloat16, True),
        (True, False, torch.bfloat16, False),
        (True, True, torch.bfloat16, True),
    ]:
        monkeypatch.setattr(casting, "HAS_BF16_INSTRUCTIONS", has_instructions)
        monkeypatch.setattr(native, "multiplies_bfloat16", lambda known=in_kernels: known)
        assert _blockwise_pays(attn, dtype, (1, 2, 2), (1, 2, 2)) == expected


def mlp_inputs(length=70, dim=24):
    torch.manual_seed(3)
    shapes = [(3, length, dim), (dim,), (dim,), (4 * dim, dim), (4 * dim,), (dim, 4 * dim), (dim,)]
    return [random(*shape) for shape in shapes]


def plain_mlp(tokens, gamma, beta, weight_1, bias_1, weight_2, bias_2, factors):
    normed = layer_norm(tokens, gamma.shape, gamma, beta, EPS)
    branch = linear(gelu(linear(normed, weight_1, bias_1)), weight_2, bias_2)
    return tokens + branch * torch.tensor(factors, dtype=tokens.dtype).view(-1, 1, 1)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(token_blocks, "BLOCK_BYTES", 1)
    monkeypatch.setattr(token_blocks, "MIN_ROWS", 16)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_compiler), False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_has_the_values_and_gradients_of_float64(dtype, compiled, monkeypatch):
    """As those of a GELU in float32, and rounded to ``dtype`` once."""
    if not compiled:
        monkeypatch.setattr(native, "is_built", lambda: False)
    x = torch.linspace(-30, 30, 48 * 512).view(512, 48).to(dtype)
    bias, grad = torch.linspace(-1, 1, 48), torch.randn(512, 48).to(dtype)

    def plainly(number_format):
        biased = (x.to(number_format) + bias).requires_grad_()
        values = gelu(biased)
        return values, *torch.autograd.grad(values, biased, grad.to(number_format))

    slope, again = biased_gelu_backward(x, bias, grad.clone())

    rounding = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
    sizes = (x.double().abs().clamp(min=1), grad.double().abs().clamp(min=1))
    results = (biased_gelu(x, bias), slope), plainly(torch.float32), plainly(torch.float64)
    for actual, plain, exact, size in zip(*results, sizes, strict=True):
        error = ((actual - exact).abs() - rounding * exact.abs()) / size
        assert error.max() <= allowed(((plain - exact).abs() / size).max())
    assert torch.equal(again, biased_gelu(x, bias))
    assert torch.equal(again, biased_gelu(x.clone(), bias, out=x))


@pytest.mark.parametrize("factors", [(1.0, 1.0, 1.0), (0.0, 1.25, 0.0)], ids=["all", "dropped"])
def test_an_mlp_some_tokens_at_a_time_has_the_values_and_gradients_of_all(factors, small_blocks):
    def ours(tensors):
        tokens, gamma, beta, *layers = tensors
        pairs = tuple(layers[:2]), tuple(layers[2:])
        return [mlp_residual(tokens, (gamma, beta), *pairs, eps=EPS, factors=factors)]

    assert_as_exact(ours, lambda tensors: [plain_mlp(*tensors, factors)], mlp_inputs())


@pytest.mark.parametrize("length", [70, 7])
def test_an_mlp_in_bfloat16_is_as_near_as_that_of_autocast(length, small_blocks):
    def ours(tensors):
        tokens, gamma, beta, *layers = tensors
        with torch.autocast("cpu", torch.bfloat16):
            return [mlp_residual(tokens, (gamma, beta), layers[:2], layers[2:], eps=EPS)]

    def plain(tensors):
        with torch.autocast("cpu", torch.bfloat16, enabled=tensors[0].dtype != torch.float64):
            return [plain_mlp(*tensors, (1.0, 1.0, 1.0)).to(tensors[0].dtype)]

    tokens, *parameters = mlp_inputs(length)
    assert_as_exact(ours, plain, [tokens.detach().bfloat16(), *parameters])


@pytest.mark.parametrize("bias", [True, False])
def test_norm_and_linear_some_tokens_at_a_time_have_the_values_and_gradients_of_all(
    bias, small_blocks
):
    def projected(combine, tensors):
        tokens, gamma, beta, weight, *bias = tensors
        return [combine(tokens, (gamma, beta), (weight, bias[0] if bias else None), eps=EPS)]

    def plain(tokens, norm, layer, eps):
        return linear(layer_norm(tokens, norm[0].shape, *norm, eps), *layer)

    tensors = mlp_inputs()[: 5 if bias else 4]
    assert_as_exact(partial(projected, norm_linear), partial(projected, plain), tensors)


@pytest.mark.parametrize("fast", [norm_linear, mlp_residual])
def test_inference_gives_what_training_does(fast, small_blocks):
    tokens, gamma, beta, *layers = mlp_inputs()
    pairs = [layers[:2], layers[2:]][: 2 if fast is mlp_residual else 1]

    trained = fast(tokens, (gamma, beta), *pairs, eps=EPS)
    with torch.inference_mode():
        inferred = fast(tokens, (gamma, beta), *pairs, eps=EPS)

    assert inferred.equal(trained)


@pytest.mark.parametrize("has_instructions", [False, True])
def test_bfloat16_products_are_those_of_autocast(has_instructions, monkeypatch):
    monkeypatch.setattr(casting, "HAS_BF16_INSTRUCTIONS", has_instructions)
    tokens, gamma, beta, weight, bias, *_ = mlp_inputs()
    exact = in_float64([tokens, gamma, beta])
    rounded = [one.detach().bfloat16().double() for one in (weight, bias)]

    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        plain = linear(layer_norm(tokens, gamma.shape, gamma, beta, EPS), weight, bias)
        actual = norm_linear(tokens, (gamma, beta), (weight, bias), eps=EPS)
    normed = layer_norm(exact[0], gamma.shape, *exact[1:], EPS)
    expected = linear(normed, *rounded)

    assert actual.dtype == plain.dtype == torch.bfloat16
    error, plain_error = ((one.double() - expected).abs().mean() for one in (actual, plain))
    assert error <= 1.01 * plain_error


def test_a_rounded_weight_is_cache_until_the_weight_changes():
    weight = torch.nn.Parameter(torch.randn(300, 20))

    first = casting.cached_operand(weight, torch.bfloat16)

    assert casting.cached_operand(weight, torch.bfloat16) is first
    with torch.no_grad():
        weight[7, 3] = 100.0
    changed = casting.cached_operand(weight, torch.bfloat16)
    assert changed[7, 3] == 100.0
    weight.data.mul_(2)  # does not count as a change for autograd
    assert casting.cached_operand(weight, torch.bfloat16)[7, 3] == 200.0
    weight.data = torch.zeros(300, 20)
    assert casting.cached_operand(weight, torch.bfloat16).count_nonzero() == 0


@needs_compiler
@pytest.mark.parametrize("operator", ["pool_qkv", "blockwise_attention"])
def test_the_operators_keep_the_rules_of_custom_operators(operator):
    if operator == "pool_qkv":
        tensors, sizes = pooling_inputs(
            thw=(2, 3, 4), stride_q=(1, 1, 1), stride_kv=(1, 2, 2), head_dim=8, dtype=torch.float32
        )
        given = (tensors[0], tensors[1:4], tensors[4:7], tensors[7:], *sizes)
    else:
        about = {"q_thw": (2, 3, 4), "k_thw": (2, 2, 2)}
        *qkv, t, h, w = attention_inputs(**about, head_dim=8)
        gathered = [
            gather_table(table, *lengths).detach().requires_grad_()
            for table, *lengths in zip((t, h, w), *about.values(), strict=True)
        ]
        given = (*qkv, *gathered, *about.values(), 1, 0.3, 1)

    torch.library.opcheck(
        getattr(torch.ops.slowfast_mvit, operator).default,
        given,
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


@needs_compiler
def test_the_kernels_are_compiled_once_and_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    first = native._compiled()
    made = first.stat().st_mtime_ns

    assert native._compiled() == first
    assert first.stat().st_mtime_ns == made
    assert list((tmp_path / "slowfast_mvit").iterdir()) == [first]


@pytest.mark.nightly
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are x86-64 processors")
@pytest.mark.parametrize(
    "processor", ["x86-64", "x86-64-v3", "skylake-avx512", "cooperlake", "sapphirerapids"]
)
@needs_compiler
def test_the_kernels_compile_for_older_and_newer_processors(processor, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SLOWFAST_MVIT_MARCH", processor)

    assert native._compiled().exists()


@pytest.mark.parametrize("compiler", ["none", "broken"])
def test_without_a_working_compiler_one_line_says_so(compiler, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    if compiler == "broken":
        program = tmp_path / "cc"
        program.write_text("#!/bin/sh\necho no assembler >&2; exit 1\n")
        program.chmod(0o755)
    monkeypatch.setattr(native, "_library", native.functools.cache(native._library.__wrapped__))

    with caplog.at_level("INFO", logger="slowfast_mvit"):
        assert not native.is_built()
        assert not native.is_built()

    (line,) = [record.getMessage() for record in caplog.records]
    assert ("no C compiler" if compiler == "none" else "no assembler") in line
    assert "PyTorch's own operations" in line


def test_a_cache_that_others_can_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shared = tmp_path / "slowfast_mvit"
    shared.mkdir()
    shared.chmod(0o777)

    assert native._cache_folder() != shared
