"""The record of one block: every number and option of it, in plain sight.

The published models make theirs by stages (``variants.py``); ``slowfast_mvit.builders`` translates
the lists of PySlowFast's configs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slowfast_mvit.errors import ConfigError, in_one_message
from slowfast_mvit.models.pooling import kernel_of_stride
from slowfast_mvit.models.tables import THW


@dataclass(frozen=True)
class BlockSpec:
    """One block.

    Attributes:
        dim: width of the input tokens.
        dim_att: width of the attention and of its output; a multiple of ``num_heads``.
        dim_out: width of the output tokens.
        num_heads: number of heads.
        input_thw: token grid (frames, rows, columns) of the input, at the training
            resolution and rounded down; sizes the relative position tables and nothing else.
        kernel_q: query pooling kernel, or None where queries are not pooled.
        stride_q: query pooling stride; the grid of the tokens shrinks by it.
        kernel_kv: key and value pooling kernel, or None where they are not pooled.
        stride_kv: key and value pooling stride; changes the cost, not the grid of the tokens.
        drop_path: probability of losing each of the two branches in training.
        mlp_ratio: width of the hidden layer of the MLP, as a multiple of its input's.
        num_prefix_tokens: 1 with a class token, 0 without.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        rel_pos_spatial: relative positions for height and width.
        rel_pos_temporal: relative positions for time.
        residual_pooling: the attention adds the pooled queries to its output.
        residual_cls_token: it adds that of the class token too.
        dropout: rate of the dropouts in the attention and in the MLP.
        window: side of the windows that tokens attend in, in tokens of the input; 0 for attention
            over the whole grid.
        rel_pos_joint: one table of relative positions over all axes, instead of one for each.
    """

    dim: int
    dim_att: int
    dim_out: int
    num_heads: int
    input_thw: THW
    kernel_q: THW | None = (3, 3, 3)
    stride_q: THW = (1, 1, 1)
    kernel_kv: THW | None = (3, 3, 3)
    stride_kv: THW = (1, 1, 1)
    drop_path: float = 0.0
    mlp_ratio: float = 4.0
    num_prefix_tokens: int = 1
    qkv_bias: bool = True
    rel_pos_spatial: bool = True
    rel_pos_temporal: bool = True
    residual_pooling: bool = True
    residual_cls_token: bool = False
    dropout: float = 0.0
    window: int = 0
    rel_pos_joint: bool = False

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim_att // self.num_heads

    @property
    def widens_in_attention(self) -> bool:
        """Return whether tokens get wider in the attention (MViTv2)."""
        return self.dim_att != self.dim

    @property
    def widens_in_mlp(self) -> bool:
        """Return whether tokens get wider in the MLP (MViTv1)."""
        return self.dim_out != self.dim_att


def pooling_kernel(stride: THW, kernel: THW | None) -> THW | None:
    """The kernel of a pooling, one wider than the stride if None; None if there is no pooling."""
    kernel = kernel or kernel_of_stride(stride)
    return kernel if math.prod(kernel) > 1 or math.prod(stride) > 1 else None


def first_grid(input_size: THW, patch_stride: Sequence[int]) -> THW:
    """The token grid after patches of this stride; (rows, columns) for images."""
    return divided(input_size, as_thw((1, 1, *patch_stride)[-3:]))


def divided(thw: THW, stride: THW) -> THW:
    """The grid after a stride, rounded down as PySlowFast does for the sizes of tables."""
    return as_thw([max(length // step, 1) for length, step in zip(thw, stride, strict=True)])


def as_thw(values: Sequence[int]) -> THW:
    """Three numbers as a tuple of integers."""
    t, h, w = (int(value) for value in values)
    return t, h, w


def check_specs(specs: Sequence[BlockSpec]) -> None:
    """Check that each block can be built.

    Raises:
        ConfigError: heads do not divide a width, a kernel does not pool queries to the grid of
            the skip path, a window is not pooled to whole tokens, or options exclude each other.
            The message names all of them.
    """
    problems: list[str] = []
    for block, spec in enumerate(specs):
        if spec.dim_att % spec.num_heads:
            problems.append(
                f"block {block}: {spec.num_heads} heads do not divide a width of {spec.dim_att}"
            )
        # Pooling by an even kernel rounds up where one by an odd kernel rounds down.
        kernel = spec.kernel_q or (1, 1, 1)
        skip_kernel = kernel_of_stride(spec.stride_q)
        for axis, size, step, skip_size in zip(
            "thw", kernel, spec.stride_q, skip_kernel, strict=True
        ):
            if size % 2 != skip_size % 2:
                problems.append(
                    f"block {block}: a query kernel of {size} and a stride of {step} along {axis} "
                    "do not give the grid of the skip path; use a kernel of stride + 1, or an odd "
                    "one with an even stride or a stride of 1"
                )
        problems += [f"block {block}: {problem}" for problem in _window_problems(spec)]
        if spec.rel_pos_joint and (spec.rel_pos_spatial or spec.rel_pos_temporal):
            problems.append(f"block {block}: positions are either joint or separate for each axis")
    if problems:
        raise ConfigError(in_one_message(f"an MViT of {len(specs)} blocks", problems))


def _window_problems(spec: BlockSpec) -> list[str]:
    """List the reasons why queries and keys of this block have no windows of the same tokens."""
    if not spec.window:
        return []
    problems = []
    if spec.window < 0:
        problems.append(
            f"a window has 1 or more tokens on a side, or 0 for none; got {spec.window}"
        )
    if spec.num_prefix_tokens:
        problems.append("a class token is in no window; use windows without one")
    for name, kernel, stride in (
        ("query", spec.kernel_q, spec.stride_q),
        ("key", spec.kernel_kv, spec.stride_kv),
    ):
        if any(spec.window % step for step in stride[1:]):
            problems.append(
                f"a window of {spec.window} is not a multiple of its {name} stride of "
                f"{stride[1]} x {stride[2]}; use a multiple"
            )
        if any(size % 2 == 0 for size in (kernel or ())[1:]):
            problems.append(f"windows need odd {name} kernels, got {kernel}")
    return problems
