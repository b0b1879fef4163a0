"""The benchmark of the Triton kernels: the same work for both sides, without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import kernels
from benchmarks.kernels import Block, attentions, blocks_of, folding, pooling

CPU = torch.device("cpu")


@pytest.fixture
def block():
    """The second block of S, on a grid of 2 x 4 x 4 and in float32."""
    published = blocks_of("S", [1], 1, torch.float32, CPU)[1]
    spec = replace(published.spec, num_heads=2, dim_att=16)
    return Block(spec, (2, 4, 4), 1, torch.float32, CPU)


def test_blocks_have_the_grids_of_the_published_models():
    blocks = blocks_of("S", [0, 1, 15], 16, torch.bfloat16, CPU)
    assert [one.thw for one in blocks.values()] == [(8, 56, 56), (8, 56, 56), (8, 7, 7)]
    assert [one.k_thw for one in blocks.values()] == [(8, 7, 7), (8, 14, 14), (8, 7, 7)]

    # 312 pixels: grids are rounded up where the position tables are rounded down.
    assert blocks_of("L", [47], 1, torch.bfloat16, CPU)[47].thw == (20, 10, 10)


def test_what_is_counted_is_what_must_be_moved(block):
    contests = {**pooling(block), **folding(block)}

    for contest in contests.values():
        contest.twin()
    tokens, queries, keys = 1 + 32, 1 + 8, 1 + 2
    wide = 4 * 16  # bytes of a token in float32
    pooled_tokens = queries + 2 * keys
    assert contests["pool"].least_bytes() == wide * (3 * tokens + pooled_tokens)
    assert contests["pool_backward"].least_bytes() == wide * (6 * tokens + pooled_tokens)
    assert contests["unfold"].least_bytes() == wide * 3 * queries


def test_the_three_ways_of_attention_do_the_same(block):
    ways, inputs = attentions(block)
    for one in inputs:
        one.requires_grad_(False)  # FlexAttention's rule on a CPU

    results = {name: attend() for name, attend in ways.items()}

    torch.testing.assert_close(results["plain"], results["ours"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(results["flex"], results["ours"], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_missing_device_is_reported(capsys):
    assert kernels.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
