#!/usr/bin/env python3
"""Speed of each Triton kernel against its twin in PyTorch's own operations and its lower bound.

For some blocks of a published model, at random tokens: pooling, folding and unfolding, forward and
backward, each with its twin; and attention as a whole, forward and backward together, with the
form that stores every score and with FlexAttention. Medians of CUDA events, with the L2 cache
emptied before each run (``triton.testing.do_bench``). The floor of a kernel is the least bytes it
must move at the rate of a copy; ``fraction_of_floor`` is that over what was measured. The log has
the time of each of PyTorch's fused attention kernels at these sizes.

    python benchmarks/kernels.py                      # S at 16 clips, bf16; about a minute
    python benchmarks/kernels.py --model L --clips 2 --blocks 0 8

Needs a CUDA device. Writes benchmarks/results/kernels_<model>_<date>.json; its content is also the
last line printed.
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

# The code in this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import lower_bounds as bounds
from benchmarks.record import keep_record, script_parser, version_of
from slowfast_mvit.fast.cuda import folding as plain
from slowfast_mvit.fast.cuda import folding_launch as launch
from slowfast_mvit.fast.cuda.attention import folded_attention_fused, folded_width
from slowfast_mvit.fast.cuda.pooling import pool_qkv_backward, pool_qkv_forward
from slowfast_mvit.models import BlockSpec
from slowfast_mvit.models.attention import MultiScaleAttention, plain_attention
from slowfast_mvit.models.layers import NORM_EPS
from slowfast_mvit.models.tables import THW

Work = Callable[[], object]


class Contest(NamedTuple):
    """A kernel and its twin.

    Attributes:
        kernel: runs the kernel once.
        twin: does the same in PyTorch's own operations.
        moved: what must be read or written at the least.
    """

    kernel: Work
    twin: Work
    moved: Sequence[Tensor]

    def least_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.moved)


class Block(NamedTuple):
    """One block at random tokens.

    Attributes:
        spec: widths, heads and pooling.
        thw: the grid of its tokens.
        clips: batch.
        dtype: of the tokens.
        device: where.
    """

    spec: BlockSpec
    thw: THW
    clips: int
    dtype: torch.dtype
    device: torch.device

    @property
    def q_thw(self) -> THW:
        return bounds.pooled_grids(self.spec, self.thw)[0]

    @property
    def k_thw(self) -> THW:
        return bounds.pooled_grids(self.spec, self.thw)[1]

    def tokens(self, thw: THW, *, times: tuple[int, ...] = ()) -> Tensor:
        """Return random tokens of a grid and a class token, (B, L, *times, N, D)."""
        heads = (*times, self.spec.num_heads, self.spec.head_dim)
        shape = (self.clips, 1 + math.prod(thw), *heads)
        return torch.randn(shape, device=self.device).to(self.dtype)

    def q_k_v(self) -> list[Tensor]:
        return [self.tokens(thw) for thw in (self.q_thw, self.k_thw, self.k_thw)]

    def attention(self, dtype: torch.dtype) -> MultiScaleAttention:
        """Return the plain form of its attention, with parameters in ``dtype``."""
        return MultiScaleAttention(self.spec, attention="plain").to(self.device, dtype)


def blocks_of(
    size: str, numbers: Sequence[int], clips: int, dtype: torch.dtype, device: torch.device
) -> dict[int, Block]:
    """Return blocks of a published model by their number in it."""
    thw = bounds.first_grid(bounds.published_input(size))
    blocks = {}
    for number, spec in enumerate(bounds.specs_of(size, bounds.published_input(size))):
        blocks[number] = Block(spec, thw, clips, dtype, device)
        thw = blocks[number].q_thw
    return {number: blocks[number] for number in numbers}


def pooling(block: Block) -> dict[str, Contest]:
    """Return the contests of pooling and LayerNorm of queries, keys and values."""
    qkv, grads = block.tokens(block.thw, times=(3,)), block.q_k_v()
    ours = block.attention(torch.float32).requires_grad_(False)
    parameters = [
        [ours.get_parameter(name.format(letter)) for letter in "qkv"]
        for name in ("pool_{}.weight", "norm_{}.weight", "norm_{}.bias")
    ]
    numbers = (block.thw, block.spec.stride_q, block.spec.stride_kv, 1, NORM_EPS)
    twin = block.attention(block.dtype)
    leaves = [qkv.detach().requires_grad_()]
    leaves += [p for name, p in twin.named_parameters() if name.startswith(("pool", "norm"))]
    results = twin.pool(leaves[0], block.thw)[:3]
    return {
        "pool": Contest(
            lambda: pool_qkv_forward(qkv, *parameters, *numbers),
            torch.no_grad()(lambda: twin.pool(qkv, block.thw)),
            (qkv, *grads),
        ),
        "pool_backward": Contest(
            lambda: pool_qkv_backward(*grads, qkv, *parameters, *numbers),
            lambda: torch.autograd.grad(results, leaves, grads, retain_graph=True),
            (qkv, *grads, qkv),  # the last one for its gradient
        ),
    }


def folding(block: Block) -> dict[str, Contest]:
    """Return the contests before and after the attention kernel."""
    q = block.tokens(block.q_thw)
    lengths = [2 * max(sizes) - 1 for sizes in zip(block.q_thw, block.k_thw, strict=True)]
    tables = [torch.randn(length, q.shape[3], device=block.device) for length in lengths]
    width, rows = folded_width(q.shape[3], tables, block.k_thw), torch.cat(tables)
    numbers = ((0, 1, 2), block.q_thw, block.k_thw, q.shape[3] ** -0.5, 1)
    folded = plain.plain_fold_queries(q, rows, *numbers, width)
    # kernel, twin, what must be moved, arguments
    contests: dict[str, tuple[Callable[..., object], Callable[..., object], Any, Any]] = {
        "fold": (launch.fold, plain.plain_fold_queries, (q, folded), (q, rows, *numbers, width)),
        "fold_backward": (
            launch.fold_backward,
            plain.plain_fold_queries_backward,
            (folded, q, q),  # the gradient, the queries in ``folded``, and their gradient
            (folded, folded, rows, *numbers),
        ),
        "unfold": (launch.unfold, plain.plain_unfold_output, (q, q, q), (folded, q, 1)),
        "unfold_backward": (
            launch.unfold_backward,
            plain.plain_unfold_output_backward,
            (q, folded, q),
            (q, width, 1),
        ),
    }
    return {
        name: Contest(functools.partial(kernel, *words), functools.partial(twin, *words), moved)
        for name, (kernel, twin, moved, words) in contests.items()
    }


def attentions(block: Block) -> tuple[dict[str, Callable[[], Tensor]], list[Tensor]]:
    """Return three ways of attention with offsets and residual, and their inputs.

    The inputs, queries, keys, values and three tables, have gradients.
    """
    q, k, v = (one.requires_grad_() for one in block.q_k_v())
    attn, grids = block.attention(block.dtype), (block.q_thw, block.k_thw)
    tables = [table for table in attn.tables if table is not None]
    on_cuda = block.device.type == "cuda"
    flex = torch.compile(flex_attention, dynamic=False) if on_cuda else flex_attention

    def attend_flexibly(q: Tensor, k: Tensor, v: Tensor, **words: Any) -> Tensor:
        rule = offset_rule(words["offsets"], words["k_thw"])
        return flex(q, k, v, score_mod=rule, scale=words["scale"])  # type: ignore[return-value]

    def attend_by(scaled_dot_product: Callable[..., Tensor]) -> Tensor:
        attn.scaled_dot_product = scaled_dot_product
        return attn.attend(q, k, v, *grids)

    ours: dict[str, Any] = {"scale": attn.scale, "tables": attn.tables, "residual": q}
    ours |= {"q_thw": block.q_thw, "k_thw": block.k_thw}
    ours |= {"num_prefix_tokens": 1, "num_without_residual": 1}
    ways: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: folded_attention_fused(q, k, v, **ours),
        "plain": lambda: attend_by(plain_attention),
        "flex": lambda: attend_by(attend_flexibly),
    }
    return ways, [q, k, v, *tables]


def offset_rule(offsets: Sequence[Tensor], k_thw: THW) -> Callable[..., Tensor]:
    """Return FlexAttention's rule: add the offsets of three axes, but not for the class token."""
    of_t, of_h, of_w = offsets
    _, k_h, k_w = k_thw

    def rule(score: Tensor, clip: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row, place = (query - 1).clamp(min=0), (key - 1).clamp(min=0)
        offset = of_t[clip, head, row, place // (k_h * k_w)]
        offset = offset + of_h[clip, head, row, place // k_w % k_h]
        offset = offset + of_w[clip, head, row, place % k_w]
        return score + torch.where((query > 0) & (key > 0), offset, 0.0)

    return rule


def compare(block: Block, bandwidth: float) -> dict[str, Any]:
    """Time each kernel and its twin, and attention as a whole, in milliseconds."""
    rows: dict[str, Any] = {}
    for contests in (pooling, folding):
        for name, contest in contests(block).items():
            kernel_ms, twin_ms = median_ms(contest.kernel), median_ms(contest.twin)
            floor_ms = 1e3 * contest.least_bytes() / bandwidth
            rows[name] = {
                "kernel_ms": round(kernel_ms, 4),
                "twin_ms": round(twin_ms, 4),
                "times_faster": round(twin_ms / kernel_ms, 2),
                "least_mb": round(contest.least_bytes() / 1e6, 1),
                "fraction_of_floor": round(floor_ms / kernel_ms, 3),
            }
        torch.cuda.empty_cache()
    rows["attention_train_ms"] = attention_ms(block)
    for name, row in rows.items():
        print(f"  {name:18s} {row}", flush=True)
    return rows


def attention_ms(block: Block) -> dict[str, float | str]:
    """Time forward and backward of each way; the error as text where one failed."""
    ways, inputs = attentions(block)
    direction = torch.randn_like(inputs[0])
    times_ms: dict[str, float | str] = {}
    for name, attend in ways.items():

        def step(attend: Callable[[], Tensor] = attend) -> object:
            return torch.autograd.grad(attend(), inputs, direction)

        try:
            times_ms[name] = round(median_ms(step), 4)
        except RuntimeError as problem:  # a compiler's; the other figures are not lost for it
            times_ms[name] = f"{type(problem).__name__}: {str(problem).splitlines()[0]}"
        torch.cuda.empty_cache()
    return times_ms


def median_ms(work: Work) -> float:
    from triton.testing import do_bench

    return float(do_bench(work, warmup=10, rep=50, return_mode="median"))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line asks for."""
    device = torch.device("cuda", torch.cuda.current_device())
    bandwidth = bounds.copy_bandwidth(device)
    dtype, clips = bounds.DTYPES[options.precision], options.clips
    compared = {}
    for number, block in blocks_of(options.model, options.blocks, clips, dtype, device).items():
        print(f"block {number}: {block.thw} -> {block.q_thw}, keys {block.k_thw}", flush=True)
        compared[f"block_{number}"] = compare(block, bandwidth)
    return {
        "model": options.model,
        "clips": clips,
        "precision": options.precision,
        **compared,
        "copy_gb_per_s": round(bandwidth / 1e9, 1),
        "on": {"gpu": torch.cuda.get_device_name(device), "triton": version_of("triton")},
    }


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__file__, __doc__)
    parser.add_argument("--model", choices=bounds.MODELS, default="S")
    parser.add_argument("--blocks", type=int, nargs="+", default=[0, 1, 4, 15])
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--precision", choices=bounds.DTYPES, default="bf16")
    options = parser.parse_args(words)
    if not torch.cuda.is_available():
        print("benchmarks/kernels.py needs a CUDA device; there is none", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO)  # the attention backends that ours chooses from
    keep_record(parser, options, measure(options), case=options.model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
