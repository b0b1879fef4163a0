"""What each block of an MViT is like: from lists, as PySlowFast's configs give them, to records.

embed_dim, dim_mul, ...   ->  block_specs  ->  [BlockSpec, BlockSpec, ...]  ->  MViT
(a few lists of blocks        (a pure           (every number of every
where something changes)      function)         block, in plain sight)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slowfast_mvit.errors import ConfigError, in_one_message
from slowfast_mvit.kernels import THW


@dataclass(frozen=True)
class BlockSpec:
    """One block.

    Attributes:
        dim: width of the tokens that come in.
        dim_att: width of the attention and of what it gives.
        dim_out: width of the tokens that go out.
        num_heads: number of heads.
        input_thw: grid of the tokens that come in, at the training resolution and rounded down;
            sizes the relative position tables and nothing else.
        kernel_q: query pooling kernel, or None where queries are not pooled.
        stride_q: query pooling stride; the grid of the tokens shrinks by it.
        kernel_kv: key and value pooling kernel, or None where they are not pooled.
        stride_kv: key and value pooling stride.
        drop_path: probability of losing each of the two branches in training.
    """

    dim: int
    dim_att: int
    dim_out: int
    num_heads: int
    input_thw: THW
    kernel_q: THW | None
    stride_q: THW
    kernel_kv: THW | None
    stride_kv: THW
    drop_path: float


def block_specs(
    *,
    grid: THW,
    depth: int,
    embed_dim: int,
    num_heads: int,
    dim_mul: Sequence[Sequence[float]] = (),
    head_mul: Sequence[Sequence[float]] = (),
    dim_mul_in_att: bool = True,
    pool_q_stride: Sequence[Sequence[int]] = (),
    pool_kv_stride: Sequence[Sequence[int]] = (),
    pool_kv_stride_adaptive: Sequence[int] | None = None,
    pool_kvq_kernel: Sequence[int] | None = None,
    drop_path: float = 0.0,
) -> list[BlockSpec]:
    """The blocks that PySlowFast builds from the ``MVIT`` keys of these names.

    Args:
        grid: token grid after the patch embedding.
        depth: number of blocks.
        embed_dim: width of the tokens of the first block.
        num_heads: heads of the first block, before ``head_mul``.
        dim_mul: rows (block, factor): where the tokens get wider.
        head_mul: rows (block, factor): where the heads get more.
        dim_mul_in_att: tokens get wider in the attention of the block named (MViTv2), else in the
            MLP of the block before it (MViTv1).
        pool_q_stride: rows (block, t, h, w). Queries of a block without a row are not pooled at
            all; those of a row with stride 1 are, where the kernel is larger than 1.
        pool_kv_stride: rows (block, t, h, w) for keys and values; not read with the next.
        pool_kv_stride_adaptive: key and value stride of the first block; divided by each query
            stride on the way, so that all blocks have keys of about the same grid.
        pool_kvq_kernel: kernel of every pooling; None makes it one wider than the stride.
        drop_path: rate of the last block; rises linearly from 0 at the first.

    Raises:
        ConfigError: if rows name blocks that do not exist, heads do not divide a width, or a kernel
            does not pool queries to the grid of the skip path. Names all of them.
    """
    _check_rows(
        depth,
        {
            "dim_mul": (dim_mul, 2, depth + 1),
            "head_mul": (head_mul, 2, depth + 1),
            "pool_q_stride": (pool_q_stride, 4, depth),
            "pool_kv_stride": (pool_kv_stride, 4, depth),
        },
    )
    stride_q = _strides(pool_q_stride)
    if pool_kv_stride_adaptive is None:
        stride_kv = _strides(pool_kv_stride)
    else:
        stride_kv = _adaptive_strides(_thw(pool_kv_stride_adaptive), stride_q, depth)
    kernel = None if pool_kvq_kernel is None else _thw(pool_kvq_kernel)
    widths = _widths(depth, embed_dim, num_heads, dim_mul, head_mul, dim_mul_in_att)

    specs = []
    for block, (dim, dim_att, dim_out, heads) in enumerate(widths):
        kernel_q, step_q = _pooling(stride_q.get(block), kernel)
        kernel_kv, step_kv = _pooling(stride_kv.get(block), kernel)
        specs.append(
            BlockSpec(
                dim=dim,
                dim_att=dim_att,
                dim_out=dim_out,
                num_heads=heads,
                input_thw=grid,
                kernel_q=kernel_q,
                stride_q=step_q,
                kernel_kv=kernel_kv,
                stride_kv=step_kv,
                drop_path=drop_path * block / max(depth - 1, 1),
            )
        )
        grid = _divided(grid, step_q)
    _check_specs(specs)
    return specs


def _widths(
    depth: int,
    embed_dim: int,
    num_heads: int,
    dim_mul: Sequence[Sequence[float]],
    head_mul: Sequence[Sequence[float]],
    dim_mul_in_att: bool,
) -> list[tuple[int, int, int, int]]:
    """For each block: dim, dim_att, dim_out and the number of heads."""
    dim_factors = {int(block): factor for block, factor in dim_mul}
    head_factors = {int(block): factor for block, factor in head_mul}
    widths = []
    dim, heads = embed_dim, num_heads
    for block in range(depth):
        heads = _rounded(heads * head_factors.get(block, 1.0), 1)
        widens_at = block if dim_mul_in_att else block + 1
        # The factor of the heads counts once more here. No published model can tell.
        divisor = _rounded(heads * head_factors.get(widens_at, 1.0), 1)
        dim_out = _rounded(dim * dim_factors.get(widens_at, 1.0), divisor)
        widths.append((dim, dim_out if dim_mul_in_att else dim, dim_out, heads))
        dim = dim_out
    return widths


def _rounded(width: float, divisor: int) -> int:
    """The multiple of ``divisor`` nearest to ``width``, but not below 0.9 of it, nor 0."""
    nearest = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * width else nearest


def _strides(rows: Sequence[Sequence[int]]) -> dict[int, THW]:
    return {int(block): _thw(stride) for block, *stride in rows}


def _adaptive_strides(first: THW, stride_q: dict[int, THW], depth: int) -> dict[int, THW]:
    strides = {}
    stride = first
    for block in range(depth):
        stride = _divided(stride, stride_q.get(block, (1, 1, 1)))
        strides[block] = stride
    return strides


def _pooling(stride: THW | None, kernel: THW | None) -> tuple[THW | None, THW]:
    """Kernel and stride of a pooling; no kernel where there is nothing to pool."""
    if stride is None:
        return None, (1, 1, 1)
    if kernel is None:
        kernel = _thw([step + 1 if step > 1 else 1 for step in stride])
    pools = math.prod(kernel) > 1 or math.prod(stride) > 1
    return (kernel if pools else None), stride


def _divided(thw: THW, stride: THW) -> THW:
    return _thw([max(length // step, 1) for length, step in zip(thw, stride, strict=True)])


def _thw(values: Sequence[int]) -> THW:
    t, h, w = (int(value) for value in values)
    return t, h, w


def _check_rows(depth: int, lists: dict[str, tuple[Sequence[Sequence[float]], int, int]]) -> None:
    """Check each list of rows: (the rows, numbers in a row, the first block it may not name)."""
    problems = []
    for name, (rows, length, end) in lists.items():
        for row in rows:
            if len(row) != length:
                problems.append(f"{name}: expected {length} numbers in a row, got {list(row)}")
            elif not 0 <= row[0] < end:
                problems.append(f"{name}: {list(row)} names a block; there are 0 to {depth - 1}")
            elif min(row[1:]) <= 0:
                problems.append(f"{name}: factors and strides must be above 0, got {list(row)}")
    if problems:
        raise ConfigError(in_one_message(f"an MViT of {depth} blocks", problems))


def _check_specs(specs: Sequence[BlockSpec]) -> None:
    problems = []
    for block, spec in enumerate(specs):
        if spec.dim_att % spec.num_heads:
            problems.append(
                f"block {block}: {spec.num_heads} heads do not divide a width of {spec.dim_att}"
            )
        # Pooling by an even kernel rounds up where one by an odd kernel rounds down.
        for axis, step in zip("thw", spec.stride_q, strict=True):
            size = (spec.kernel_q or (1, 1, 1))["thw".index(axis)]
            if size % 2 != (step + 1 if step > 1 else 1) % 2:
                problems.append(
                    f"block {block}: a query kernel of {size} and a stride of {step} along {axis} "
                    "do not give the grid of the skip path; use a kernel of stride + 1, or an odd "
                    "one with an even stride or a stride of 1"
                )
    if problems:
        raise ConfigError(in_one_message(f"an MViT of {len(specs)} blocks", problems))
