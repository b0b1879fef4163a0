"""Poolings and tables of relative positions against plain forms of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from slowfast_mvit.models.pooling import depthwise_pool, max_pool
from slowfast_mvit.models.tables import gather_table, index_table, one_hot_keys, resample_table


def exact_index(q_length, k_length):
    """The same in rational arithmetic, by whole numbers."""
    longest = max(q_length, k_length)
    return torch.tensor(
        [
            [
                (i * longest * k_length + (k_length - 1 - j) * longest * q_length)
                // (q_length * k_length)
                for j in range(k_length)
            ]
            for i in range(q_length)
        ]
    )


@pytest.mark.parametrize(("q", "k"), [(56, 7), (28, 7), (14, 7), (7, 7), (8, 8), (7, 14)])
def test_index_tables_of_the_224_pixel_models_are_exact(q, k):
    assert torch.equal(index_table(q, k), exact_index(q, k))


@pytest.mark.parametrize(("q", "k", "lower"), [(78, 10, 103), (39, 10, 38)])
def test_index_tables_of_mvitv2_l_keep_the_rounding_it_was_trained_with(q, k, lower):
    difference = exact_index(q, k) - index_table(q, k)

    assert set(difference.unique().tolist()) == {0, 1}
    assert difference.sum().item() == lower


def test_equal_grids_index_by_distance():
    assert index_table(3, 3).tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_a_table_that_fits_is_not_resampled():
    table = torch.randn(13, 4)

    assert resample_table(table, 13) is table


def test_a_resampled_table_is_linear_between_its_rows():
    table = torch.tensor([[0.0, 10.0], [1.0, 20.0]])

    resampled = resample_table(table, 4)

    assert resampled.tolist() == [[0, 10], [0.25, 12.5], [0.75, 17.5], [1, 20]]


def test_gathering_resamples_to_the_rows_needed():
    table = torch.arange(5.0)[:, None]

    assert gather_table(table, 3, 3)[:, :, 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    assert gather_table(table, 4, 2).shape == (4, 2, 1)


def test_one_hot_keys_name_the_position_along_each_axis():
    keys = one_hot_keys(
        (1, 2, 2),
        (1, 2),
        num_prefix_tokens=1,
        width=6,
        like=torch.empty(0),
    )

    assert keys.tolist() == [
        [0, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 0, 1, 0, 0],
    ]


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (1, 5, 5), (3, 2, 2)])
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 4, 4)])
def test_depthwise_pooling_is_one_convolution_for_each_head(stride, kernel):
    torch.manual_seed(0)
    thw, num_heads, head_dim = (4, 6, 7), 3, 4
    qkv = torch.randn(2, 4 * 6 * 7, 3, num_heads, head_dim, dtype=torch.float64)
    heads = qkv[:, :, 1]  # as attention passes them: a slice
    weight = torch.randn(head_dim, 1, *kernel, dtype=torch.float64)

    pooled, pooled_thw = depthwise_pool(heads, thw, weight, stride)

    padding = [size // 2 for size in kernel]
    for head in range(num_heads):
        grid = heads[:, :, head].transpose(1, 2).unflatten(2, thw)
        expected = F.conv3d(grid, weight, None, stride, padding, groups=head_dim)
        assert pooled_thw == tuple(expected.shape[2:])
        actual = pooled[:, :, head].transpose(1, 2).unflatten(2, pooled_thw)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("stride", [(1, 2, 2), (2, 2, 2), (1, 4, 4), (1, 1, 2), (2, 1, 1)])
def test_max_pooling_is_that_in_three_dimensions_with_its_gradient(stride):
    torch.manual_seed(0)
    thw = (4, 7, 6)
    tokens = torch.randn(2, 4 * 7 * 6, 5, requires_grad=True)
    kernel = tuple(step + 1 if step > 1 else 1 for step in stride)
    padding = tuple(size // 2 for size in kernel)

    pooled = max_pool(tokens, thw, stride)
    grid = tokens.transpose(1, 2).unflatten(2, thw)
    expected = F.max_pool3d(grid, kernel, stride, padding).flatten(2).transpose(1, 2)

    assert torch.equal(pooled, expected)
    direction = torch.randn_like(expected)
    (actual_gradient,) = torch.autograd.grad(pooled, tokens, direction)
    (expected_gradient,) = torch.autograd.grad(expected, tokens, direction)
    torch.testing.assert_close(actual_gradient, expected_gradient)
