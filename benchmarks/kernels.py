#!/usr/bin/env python3
"""Speed of each Triton kernel against its twin in PyTorch's own operations and its lower bound.

For some blocks of a published model, at random tokens: pooling, folding and unfolding, forward and
backward, each beside its twin; and attention as a whole, forward and backward together, beside the
form with every score in memory and beside FlexAttention. Medians of CUDA events, with the L2 cache
emptied before each run (``triton.testing.do_bench``). The floor of a kernel is the least bytes it
must move at the rate of a copy; ``fraction_of_floor`` is that over what was measured.

    python benchmarks/kernels.py                      # S at 16 clips, bf16; about a minute
    python benchmarks/kernels.py --model L --clips 2 --blocks 0 8

Needs a CUDA device. Writes benchmarks/results/kernels_<model>_<date>.json; its content is also the
last line printed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.kernel_contests import (
    Block,
    Work,
    attention_inputs,
    attentions,
    blocks_of,
    folding,
    pooling,
)
from benchmarks.operations import MODELS
from benchmarks.rates import DTYPES, copy_bandwidth
from benchmarks.record import keep_record, script_parser, version_of
from slowfast_mvit.fast.cuda.attention import Sizes, times_ms_of_backends


def compare(block: Block, bandwidth: float) -> dict[str, Any]:
    """Milliseconds of each kernel and its twin, and of attention as a whole."""
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
            print(f"  {name:16s} {rows[name]}", flush=True)
        torch.cuda.empty_cache()
    rows["attention_train_ms"] = attention_ms(block)
    rows["attention_kernels_train_ms"] = kernels_ms(block)
    print(f"  attention {rows['attention_train_ms']}", flush=True)
    print(f"  its kernels alone {rows['attention_kernels_train_ms']}", flush=True)
    return rows


def attention_ms(block: Block) -> dict[str, float | str]:
    """Forward and backward of each way; in words where one failed."""
    inputs = attention_inputs(block)
    direction = torch.randn_like(inputs[0])
    told: dict[str, float | str] = {}
    for name, attend in attentions(block).items():

        def step(attend: Callable[..., Tensor] = attend) -> object:
            return torch.autograd.grad(attend(*inputs), inputs, direction)

        try:
            told[name] = round(median_ms(step), 4)
        except Exception as problem:  # a compiler's; the other figures are not lost for it
            told[name] = f"{type(problem).__name__}: {str(problem).splitlines()[0]}"
        torch.cuda.empty_cache()
    return told


def kernels_ms(block: Block) -> dict[str, float]:
    """Forward and backward of PyTorch's fused kernels at the sizes of folded queries and keys."""
    width = -(-(block.head_dim + sum(block.k_thw)) // 8) * 8
    heads = block.spec.num_heads
    sizes = Sizes(
        q=(block.clips, 1 + math.prod(block.q_thw), heads, width),
        k=(block.clips, 1 + math.prod(block.k_thw), heads, width),
        value_width=block.head_dim,
        dtype=block.dtype,
        device=block.device,
        training=True,
    )
    return {backend.name: round(ms, 4) for backend, ms in times_ms_of_backends(sizes).items()}


def median_ms(work: Work) -> float:
    from triton.testing import do_bench

    return float(do_bench(work, warmup=10, rep=50, return_mode="median"))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for."""
    device = torch.device("cuda", torch.cuda.current_device())
    bandwidth = copy_bandwidth(device)
    dtype = DTYPES[given.precision]
    compared = {}
    for number, block in blocks_of(given.model, given.blocks, given.clips, dtype, device).items():
        print(f"block {number}: {block.thw} -> {block.q_thw}, keys {block.k_thw}", flush=True)
        compared[f"block_{number}"] = compare(block, bandwidth)
    return {
        "model": given.model,
        "clips": given.clips,
        "precision": given.precision,
        **compared,
        "copy_gb_per_s": round(bandwidth / 1e9, 1),
        "on": {"gpu": torch.cuda.get_device_name(device), "triton": version_of("triton")},
    }


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__doc__)
    parser.add_argument("--model", choices=MODELS, default="S")
    parser.add_argument("--blocks", type=int, nargs="+", default=[0, 1, 4, 15])
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    given = parser.parse_args(words)
    if not torch.cuda.is_available():
        print("benchmarks/kernels.py needs a CUDA device; there is none", file=sys.stderr)
        return 2
    options = ["--model", given.model, "--clips", str(given.clips)]
    options += ["--blocks", *map(str, given.blocks), "--precision", given.precision]
    keep_record("kernels", measure(given), given.results, options=options, case=given.model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
