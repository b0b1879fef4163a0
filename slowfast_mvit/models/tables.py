"""Relative position tables: which row belongs to a query and a key, and tables of another length.

A table holds one row for each distance between a query and a key along one axis: 2*L - 1 rows for
a grid of L positions. Where queries and keys are pooled by different strides, the positions of the
coarser grid count for more, and distances are cut to whole rows.

Tensors that depend on lengths only are computed once for each device and cached.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

THW = tuple[int, int, int]  # a token grid: (frames, rows, columns)

_CACHE_SIZE = 512  # tensors; a video model of any size needs fewer than 20 for each input size
_cache: dict[tuple[object, ...], Tensor] = {}


def resample_table(table: Tensor, length: int) -> Tensor:
    """The table with ``length`` rows, linearly interpolated; itself if it already has them.

    Args:
        table: (rows, D).
        length: rows wanted.
    """
    if table.shape[0] == length:
        return table
    rows = F.interpolate(table.t().unsqueeze(0), size=length, mode="linear")  # (1, D, length)
    return rows.squeeze(0).t()


def index_table(q_length: int, k_length: int) -> Tensor:
    """The row of a table of ``2 * max(q_length, k_length) - 1`` rows for each query and key.

    The order of the operations and their float32 rounding are PySlowFast's. They decide 103 of the
    780 entries for 78 queries and 10 keys (MViTv2-L at 312 pixels), which are one row lower
    than in exact arithmetic; its weights were trained with those rows.

    Returns:
        (q_length, k_length) int64, on the CPU.
    """
    q_step = max(k_length / q_length, 1.0)
    k_step = max(q_length / k_length, 1.0)
    q_positions = torch.arange(q_length, dtype=torch.float32, device="cpu") * q_step
    k_positions = torch.arange(k_length, dtype=torch.float32, device="cpu") * k_step
    distances = q_positions[:, None] - k_positions[None, :]
    distances = distances + (k_length - 1) * k_step
    return distances.long()


def gather_table(table: Tensor, q_length: int, k_length: int) -> Tensor:
    """The row of the table for each query and key of one axis, (q_length, k_length, D).

    Args:
        table: (rows, D); resampled first if these lengths need another number of rows.
    """
    table = resample_table(table, 2 * max(q_length, k_length) - 1)
    return table[_cached(_index_on_device, q_length, k_length, table.device)]


def one_hot_keys(
    k_thw: THW,
    axes: tuple[int, ...],
    *,
    num_prefix_tokens: int,
    width: int,
    like: Tensor,
) -> Tensor:
    """For each key its position along each axis, one-hot, in adjacent columns.

    Args:
        k_thw: the grid of the keys.
        axes: which axes, of 0 (time), 1 (height) and 2 (width), in this order.
        num_prefix_tokens: leading rows of zeros.
        width: columns; those beyond the lengths of the axes are zeros.
        like: a tensor with the dtype and the device of the result.

    Returns:
        (num_prefix_tokens + T*H*W, width).
    """
    return _cached(_one_hot_keys, k_thw, axes, num_prefix_tokens, width, like.dtype, like.device)


def _cached(make: Callable[..., Tensor], *lengths: object) -> Tensor:
    """Return the result of ``make``, cached.

    Two kinds of tensor must not be cached: those of a graph being traced, which are invalid
    afterwards, and those of ``torch.inference_mode``, which training could not use.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return make(*lengths)
    key = (make, *lengths)
    if key not in _cache:
        with torch.inference_mode(False):
            made = make(*lengths)
        if type(made) is not Tensor:  # FakeTensorMode and the like
            return made
        if len(_cache) >= _CACHE_SIZE:
            _cache.clear()
        _cache[key] = made
    return _cache[key]


def _index_on_device(q_length: int, k_length: int, device: torch.device) -> Tensor:
    return index_table(q_length, k_length).to(device)


def _one_hot_keys(
    k_thw: THW,
    axes: tuple[int, ...],
    num_prefix_tokens: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    lengths = [torch.arange(length, device=device) for length in k_thw]
    positions = torch.cartesian_prod(*lengths)  # (T*H*W, 3)
    columns = [F.one_hot(positions[:, axis], k_thw[axis]) for axis in axes]
    keys = torch.cat(columns, dim=1)
    keys = F.pad(keys, (0, width - keys.shape[1], num_prefix_tokens, 0))
    return keys.to(dtype)
