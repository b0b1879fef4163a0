"""From the lists of PySlowFast's ``MVIT`` keys to the records of blocks, and to a model.

embed_dim, dim_mul, ...   ->  block_specs  ->  [BlockSpec, BlockSpec, ...]  ->  MViT
(a few lists of blocks        (a pure           (every number of every
where something changes)      function)         block)
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields
from itertools import accumulate
from typing import Any

from slowfast_mvit.errors import ConfigError, in_one_message, pick
from slowfast_mvit.fast import build_mvit
from slowfast_mvit.models import VARIANTS, BlockSpec, MViT
from slowfast_mvit.models.specs import as_thw, check_specs, divided, first_grid, pooling_kernel
from slowfast_mvit.models.tables import THW
from slowfast_mvit.models.variants import SIZES

# Far beyond every published model: a config from a stranger costs no more than a large one.
MAX_DEPTH = 1000
MAX_WIDTH = 65_536


def mvit_from_lists(
    *,
    input_size: THW,
    embed_dim: int = 96,
    num_heads: int = 1,
    depth: int = 16,
    patch_stride: Sequence[int] = (2, 4, 4),
    cls_token: bool = True,
    dropout: float = 0.0,
    attention: str = "fast",
    **others: Any,
) -> MViT:
    """Build an MViT from the lists that PySlowFast's ``MVIT`` keys give.

    Args:
        input_size: pixels (T, H, W) of the clips it is trained on; T is 1 for images.
        embed_dim: width of the tokens of the first block.
        num_heads: heads of the first block.
        depth: number of blocks.
        patch_stride: three numbers, or two (rows, columns) for an image model (``PATCH_2D``).
        cls_token: prepend a class token and classify by it.
        dropout: rate of the dropouts after the embedding, the attentions and the MLPs.
        attention: "fast", "folded" or "plain": three implementations of one function.
        others: further arguments of ``block_specs``, ``BlockSpec`` and ``MViT``.

    Raises:
        ConfigError: if the lists do not fit together.
        TypeError: none of them takes an argument of this name.
    """
    if min(input_size) < 1:
        raise ConfigError(f"input_size: expected three numbers of at least 1, got {input_size}")
    arguments = {
        "input_size": input_size,
        "embed_dim": embed_dim,
        "num_heads": num_heads,
        "depth": depth,
        "patch_stride": patch_stride,
        "cls_token": cls_token,
        "dropout": dropout,
        **others,
    }
    of_blocks = {name: others.pop(name) for name in _OF_BLOCKS & others.keys()}
    blocks = block_specs(
        grid=first_grid(input_size, patch_stride),
        embed_dim=embed_dim,
        num_heads=num_heads,
        depth=depth,
        num_prefix_tokens=int(cls_token),
        dropout=dropout,
        **of_blocks,
    )
    model = build_mvit(
        blocks,
        attention=attention,
        input_size=input_size,
        patch_stride=patch_stride,
        dropout=dropout,
        **others,
    )
    model.arguments = arguments
    return model


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
    **options: Any,
) -> list[BlockSpec]:
    """Return the blocks that PySlowFast builds from the ``MVIT`` keys of these names.

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
        options: of every ``BlockSpec``.

    Raises:
        ConfigError: if rows name blocks that do not exist, heads do not divide a width, or a kernel
            does not pool queries to the grid of the skip path. Names all of them.
    """
    if not 1 <= depth <= MAX_DEPTH:
        raise ConfigError(f"a model has 1 to {MAX_DEPTH:,} blocks, got {depth!r}")
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
        stride_kv = _adaptive_strides(as_thw(pool_kv_stride_adaptive), stride_q, depth)
    kernel = None if pool_kvq_kernel is None else as_thw(pool_kvq_kernel)
    widths = _widths(depth, embed_dim, num_heads, dim_mul, head_mul, dim_mul_in_att)
    if (widest := max(dim_out for _, _, dim_out, _ in widths)) > MAX_WIDTH:
        raise ConfigError(f"dim_mul: a block has at most {MAX_WIDTH:,} channels, got {widest:,}")

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
                **options,
            )
        )
        grid = divided(grid, step_q)
    check_specs(specs)
    return specs


def _widths(
    depth: int,
    embed_dim: int,
    num_heads: int,
    dim_mul: Sequence[Sequence[float]],
    head_mul: Sequence[Sequence[float]],
    dim_mul_in_att: bool,
) -> list[tuple[int, int, int, int]]:
    """Return dim, dim_att, dim_out and the number of heads of each block."""
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
    """Return the multiple of ``divisor`` nearest to ``width``, but not below 0.9 of it, nor 0."""
    nearest = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * width else nearest


def _strides(rows: Sequence[Sequence[int]]) -> dict[int, THW]:
    return {int(block): as_thw(stride) for block, *stride in rows}


def _adaptive_strides(first: THW, stride_q: dict[int, THW], depth: int) -> dict[int, THW]:
    steps = (stride_q.get(block, (1, 1, 1)) for block in range(depth))
    return dict(enumerate(list(accumulate(steps, divided, initial=first))[1:]))


def _pooling(stride: THW | None, kernel: THW | None) -> tuple[THW | None, THW]:
    """Return kernel and stride of a pooling; no kernel without pooling."""
    if stride is None:
        return None, (1, 1, 1)
    return pooling_kernel(stride, kernel), stride


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


def variant_lists(
    size: str,
    *,
    first_stride_kv: THW = (1, 8, 8),
    kernel: THW | None = (3, 3, 3),
    pools_every_q: bool = True,
) -> dict[str, Any]:
    """Return a size as PySlowFast's ``MVIT`` keys; by default, those of its video models.

    Args:
        size: "T", "S", "B", "L" or "H".
        first_stride_kv: key and value stride of the first block.
        kernel: kernel of every pooling; None makes it one wider than the stride.
        pools_every_q: queries are pooled in every block (MViTv2), or only where the grid shrinks.

    Returns:
        embed_dim, num_heads, depth, dim_mul, head_mul, pool_q_stride, pool_kv_stride_adaptive and
        pool_kvq_kernel, as ``block_specs`` takes them.

    Raises:
        ConfigError: if there is no such size.
    """
    shape = pick(SIZES, size, "MViT size")
    stage_starts = list(accumulate(shape.stages))[:-1]
    strides = {block: [1, 1, 1] for block in range(sum(shape.stages)) if pools_every_q}
    strides |= {block: [1, 2, 2] for block in stage_starts}
    return {
        "embed_dim": shape.embed_dim,
        "num_heads": shape.num_heads,
        "depth": sum(shape.stages),
        "dim_mul": [[block, 2.0] for block in stage_starts],
        "head_mul": [[block, 2.0] for block in stage_starts],
        "pool_q_stride": [[block, *strides[block]] for block in sorted(strides)],
        "pool_kv_stride_adaptive": list(first_stride_kv),
        "pool_kvq_kernel": None if kernel is None else list(kernel),
    }


def variant_as_lists(name: str) -> dict[str, Any]:
    """Return the arguments of ``mvit_from_lists`` for a published model.

    Raises:
        ConfigError: if there is no such model; says which is nearest.
    """
    variant = pick(VARIANTS, name, "model")
    options = dict(variant.blocks)
    of_lists = inspect.signature(variant_lists).parameters
    pooling = {key: options.pop(key) for key in of_lists.keys() & options.keys()}
    if "num_prefix_tokens" in options:
        options["cls_token"] = bool(options.pop("num_prefix_tokens"))
    return {
        "input_size": variant.input_size,
        "num_classes": variant.num_classes,
        "drop_path": variant.drop_path,
        "head_dropout": variant.head_dropout,
        **variant_lists(variant.size, **pooling),
        **options,
        **variant.trunk,
    }


_OF_BLOCKS = {
    *inspect.signature(block_specs).parameters,
    *(field.name for field in fields(BlockSpec)),
}
