"""Lists from a config become the blocks that PySlowFast builds from them."""

from __future__ import annotations

import pytest
import torch

from slowfast_mvit.builders.lists import (
    block_specs,
    mvit_from_lists,
    variant_as_lists,
    variant_lists,
)
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.models import VARIANTS
from slowfast_mvit.models.variants import variant_arguments

SMALL = {"grid": (4, 16, 16), "depth": 3, "embed_dim": 16, "num_heads": 1}


def test_mvitv2_s_has_the_blocks_of_its_paper():
    specs = block_specs(grid=(8, 56, 56), drop_path=0.2, **variant_lists("S"))

    assert [spec.dim_out for spec in specs] == [96] + [192] * 2 + [384] * 11 + [768] * 2
    assert [spec.num_heads for spec in specs] == [1] + [2] * 2 + [4] * 11 + [8] * 2
    assert [spec.stride_kv[1] for spec in specs] == [8] + [4] * 2 + [2] * 11 + [1] * 2
    assert [spec.input_thw[1] for spec in specs] == [56] * 2 + [28] * 2 + [14] * 11 + [7]
    assert [spec.drop_path for spec in specs] == pytest.approx([0.2 * i / 15 for i in range(16)])


def test_mvitv1_widens_in_the_mlp_of_the_block_before():
    specs = block_specs(**SMALL, dim_mul=[[1, 2.0]], head_mul=[[1, 2.0]], dim_mul_in_att=False)

    assert [(s.dim, s.dim_att, s.dim_out) for s in specs] == [(16, 16, 32)] + [(32, 32, 32)] * 2
    assert [spec.num_heads for spec in specs] == [1, 2, 2]


def test_queries_of_a_block_without_a_row_are_not_pooled():
    specs = block_specs(**SMALL, pool_q_stride=[[1, 1, 2, 2]], pool_kvq_kernel=[3, 3, 3])

    assert [spec.kernel_q for spec in specs] == [None, (3, 3, 3), None]
    assert [spec.input_thw for spec in specs] == [(4, 16, 16), (4, 16, 16), (4, 8, 8)]


def test_a_stride_of_1_pools_only_with_a_larger_kernel():
    rows = [[0, 1, 1, 1]]

    with_kernel = block_specs(**SMALL, pool_q_stride=rows, pool_kvq_kernel=[1, 3, 3])
    without = block_specs(**SMALL, pool_q_stride=rows, pool_kvq_kernel=None)

    assert with_kernel[0].kernel_q == (1, 3, 3)
    assert without[0].kernel_q is None


def test_without_a_kernel_it_is_one_wider_than_the_stride():
    specs = block_specs(**SMALL, pool_q_stride=[[1, 1, 2, 2]], pool_kv_stride_adaptive=[1, 4, 4])

    assert [spec.kernel_kv for spec in specs] == [(1, 5, 5), (1, 3, 3), (1, 3, 3)]
    assert specs[1].kernel_q == (1, 3, 3)


def test_key_strides_may_be_listed_block_by_block():
    specs = block_specs(**SMALL, pool_kv_stride=[[0, 1, 4, 4]], pool_kvq_kernel=[3, 3, 3])

    assert [spec.stride_kv for spec in specs] == [(1, 4, 4), (1, 1, 1), (1, 1, 1)]
    assert [spec.kernel_kv for spec in specs] == [(3, 3, 3), None, None]


def test_every_bad_row_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        block_specs(**SMALL, dim_mul=[[9, 2.0]], pool_q_stride=[[1, 2, 2], [2, 0, 1, 1]])

    message = str(caught.value)
    assert "3 problems" in message
    assert "dim_mul: [9, 2.0] names a block; there are 0 to 2" in message
    assert "pool_q_stride: expected 4 numbers in a row, got [1, 2, 2]" in message
    assert "pool_q_stride: factors and strides must be above 0, got [2, 0, 1, 1]" in message


def test_heads_that_do_not_divide_a_width_are_named():
    with pytest.raises(ConfigError, match="block 0: 3 heads do not divide a width of 16"):
        block_specs(**{**SMALL, "num_heads": 3}, dim_mul_in_att=False)


def test_a_query_kernel_that_misses_the_grid_of_the_skip_path_is_named():
    with pytest.raises(ConfigError, match="a query kernel of 2 and a stride of 2 along h"):
        block_specs(**SMALL, pool_q_stride=[[1, 1, 2, 2]], pool_kvq_kernel=[1, 2, 2])


@pytest.mark.parametrize("name", VARIANTS)
def test_stages_and_lists_give_the_same_blocks_of_a_published_model(name):
    by_stages = variant_arguments(name)["blocks"]
    with torch.device("meta"):
        model = mvit_from_lists(**variant_as_lists(name))

    assert [block.spec for block in model.blocks] == by_stages
