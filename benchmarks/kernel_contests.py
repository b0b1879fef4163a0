"""Contests for ``kernels.py``: kernels and their twins on one block, three ways of attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from benchmarks.operations import pooled, published_input, specs_of
from slowfast_mvit.fast.cuda import folding as plain_folding
from slowfast_mvit.fast.cuda import folding_launch
from slowfast_mvit.fast.cuda.attention import folded_attention_fused
from slowfast_mvit.fast.cuda.pooling import pool_qkv_backward, pool_qkv_forward
from slowfast_mvit.models import BlockSpec
from slowfast_mvit.models.attention import plain_attention
from slowfast_mvit.models.layers import NORM_EPS
from slowfast_mvit.models.pooling import depthwise_pool
from slowfast_mvit.models.rel_pos import axis_offsets
from slowfast_mvit.models.tables import THW

PATCH_KERNEL, PATCH_STRIDE = (3, 7, 7), (2, 4, 4)

Work = Callable[[], object]


@dataclass(frozen=True)
class Contest:
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


@dataclass(frozen=True)
class Block:
    """One block at random tokens.

    Attributes:
        spec: widths, heads and pooling.
        thw: the grid of its tokens.
        clips: batch.
        dtype: of the tokens; parameters are float32.
        device: where.
    """

    spec: BlockSpec
    thw: THW
    clips: int
    dtype: torch.dtype
    device: torch.device

    @property
    def q_thw(self) -> THW:
        return pooled(self.thw, self.spec.kernel_q, self.spec.stride_q)

    @property
    def k_thw(self) -> THW:
        return pooled(self.thw, self.spec.kernel_kv, self.spec.stride_kv)

    @property
    def head_dim(self) -> int:
        return self.spec.dim_att // self.spec.num_heads

    def tokens(self, thw: THW, *inner: int) -> Tensor:
        """Random tokens of a grid, with a class token before them."""
        shape = (self.clips, 1 + math.prod(thw), *inner)
        return torch.randn(shape, device=self.device).to(self.dtype)

    def parameter(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device)


def blocks_of(
    size: str, numbers: Sequence[int], clips: int, dtype: torch.dtype, device: torch.device
) -> dict[int, Block]:
    """Blocks of a published model by their number in it."""
    thw = pooled(published_input(size), PATCH_KERNEL, PATCH_STRIDE)
    blocks = {}
    for number, spec in enumerate(specs_of(size, published_input(size))):
        blocks[number] = Block(spec, thw, clips, dtype, device)
        thw = blocks[number].q_thw
    return {number: blocks[number] for number in numbers}


def pooling(block: Block) -> dict[str, Contest]:
    """Pooling and LayerNorm of queries, keys and values."""
    heads, width, kernel = block.spec.num_heads, block.head_dim, block.spec.kernel_q or (1, 1, 1)
    qkv = block.tokens(block.thw, 3, heads, width)
    weights = [block.parameter(width, 1, *kernel) for _ in range(3)]
    norm_weights, norm_biases = ([block.parameter(width) for _ in range(3)] for _ in range(2))
    numbers = (block.thw, block.spec.stride_q, block.spec.stride_kv, 1, NORM_EPS)
    grads = [block.tokens(thw, heads, width) for thw in (block.q_thw, block.k_thw, block.k_thw)]

    leaves = [qkv.detach().requires_grad_()]
    for parameter in (*weights, *norm_weights, *norm_biases):
        leaves.append(parameter.to(block.dtype).requires_grad_())

    def twin() -> list[Tensor]:
        return pool_one_by_one(block, leaves[0], leaves[1:])

    with torch.enable_grad():
        results = twin()
    parameters = (weights, norm_weights, norm_biases)
    return {
        "pool_forward": Contest(
            lambda: pool_qkv_forward(qkv, *parameters, *numbers), without_grad(twin), (qkv, *grads)
        ),
        "pool_backward": Contest(
            lambda: pool_qkv_backward(*grads, qkv, *parameters, *numbers),
            lambda: torch.autograd.grad(results, leaves, grads, retain_graph=True),
            (qkv, *grads, qkv),  # the last one for its gradient
        ),
    }


def pool_one_by_one(block: Block, qkv: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Three convolutions, three LayerNorms: three weights, three norm weights, three biases."""
    spec, results = block.spec, []
    for which, stride in enumerate((spec.stride_q, spec.stride_kv, spec.stride_kv)):
        weight, norm_weight, norm_bias = parameters[which::3]
        heads = qkv[:, :, which]
        patches, _ = depthwise_pool(heads[:, 1:], block.thw, weight, stride)
        tokens = torch.cat([heads[:, :1], patches], dim=1)
        results.append(F.layer_norm(tokens, norm_weight.shape, norm_weight, norm_bias, NORM_EPS))
    return results


def folding(block: Block) -> dict[str, Contest]:
    """Return what comes before and after the attention kernel."""
    heads, width = block.spec.num_heads, block.head_dim
    q = block.tokens(block.q_thw, heads, width)
    lengths = [2 * max(sizes) - 1 for sizes in zip(block.q_thw, block.k_thw, strict=True)]
    tables = block.parameter(sum(lengths), width)
    folded_width = -(-(width + sum(block.k_thw)) // 8) * 8
    numbers = ((0, 1, 2), block.q_thw, block.k_thw, width**-0.5, 1)
    plain, launch = plain_folding, folding_launch
    folded = plain.plain_fold_queries(q, tables, *numbers, folded_width)
    return {
        "fold_forward": Contest(
            lambda: launch.fold(q, tables, *numbers, folded_width),
            lambda: plain.plain_fold_queries(q, tables, *numbers, folded_width),
            (q, folded),
        ),
        "fold_backward": Contest(
            lambda: launch.fold_backward(folded, folded, tables, *numbers),
            lambda: plain.plain_fold_queries_backward(folded, folded, tables, *numbers),
            (folded, q, q),  # the gradient, the queries in ``folded``, and their gradient
        ),
        "unfold_forward": Contest(
            lambda: launch.unfold(folded, q, 1),
            lambda: plain.plain_unfold_output(folded, q, 1),
            (q, q, q),
        ),
        "unfold_backward": Contest(
            lambda: launch.unfold_backward(q, folded_width, 1),
            lambda: plain.plain_unfold_output_backward(q, folded_width, 1),
            (q, folded, q),
        ),
    }


def attentions(block: Block) -> dict[str, Callable[..., Tensor]]:
    """Ways of attention with offsets and residual: functions of q, k, v and three tables."""
    numbers = {"scale": block.head_dim**-0.5, "q_thw": block.q_thw, "k_thw": block.k_thw}

    def ours(q: Tensor, k: Tensor, v: Tensor, *tables: Tensor) -> Tensor:
        return folded_attention_fused(
            q,
            k,
            v,
            tables=tables,
            num_prefix_tokens=1,
            residual=q,
            num_without_residual=1,
            **numbers,
        )

    def plain(q: Tensor, k: Tensor, v: Tensor, *tables: Tensor) -> Tensor:
        q_heads, k_heads, v_heads = (tokens.transpose(1, 2) for tokens in (q, k, v))
        attended = plain_attention(
            q_heads,
            k_heads,
            v_heads,
            scale=numbers["scale"],
            offsets=axis_offsets(q_heads[:, :, 1:], tables, block.q_thw, block.k_thw),
            k_thw=block.k_thw,
            num_prefix_tokens=1,
        )
        return with_residual(attended.transpose(1, 2), q)

    attend = flex_attention
    if block.device.type == "cuda":
        attend = torch.compile(flex_attention, dynamic=False)

    def flex(q: Tensor, k: Tensor, v: Tensor, *tables: Tensor) -> Tensor:
        q_heads, k_heads, v_heads = (tokens.transpose(1, 2) for tokens in (q, k, v))
        offsets = axis_offsets(q_heads[:, :, 1:], tables, block.q_thw, block.k_thw)
        attended = attend(
            q_heads,
            k_heads,
            v_heads,
            score_mod=offset_of(offsets, block.k_thw),
            scale=numbers["scale"],
        )
        return with_residual(attended.transpose(1, 2), q)

    return {"ours": ours, "plain": plain, "flex": flex}


def offset_of(offsets: Sequence[Tensor | None], k_thw: THW) -> Callable[..., Tensor]:
    """FlexAttention's rule: add what the three axes say, but not for the class token."""
    of_t, of_h, of_w = (offset for offset in offsets if offset is not None)
    _, k_h, k_w = k_thw

    def rule(score: Tensor, clip: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row, place = (query - 1).clamp(min=0), (key - 1).clamp(min=0)
        offset = of_t[clip, head, row, place // (k_h * k_w)]
        offset = offset + of_h[clip, head, row, place // k_w % k_h]
        offset = offset + of_w[clip, head, row, place % k_w]
        return score + torch.where((query > 0) & (key > 0), offset, 0.0)

    return rule


def with_residual(attended: Tensor, q: Tensor) -> Tensor:
    return torch.cat([attended[:, :1], attended[:, 1:] + q[:, 1:]], dim=1)


def attention_inputs(block: Block) -> list[Tensor]:
    """q, k, v and three tables, all with gradients."""
    inner = (block.spec.num_heads, block.head_dim)
    tokens = [block.tokens(thw, *inner) for thw in (block.q_thw, block.k_thw, block.k_thw)]
    lengths = [2 * max(sizes) - 1 for sizes in zip(block.q_thw, block.k_thw, strict=True)]
    tables = [block.parameter(length, block.head_dim).to(block.dtype) for length in lengths]
    return [one.requires_grad_() for one in (*tokens, *tables)]


def without_grad(work: Work) -> Work:
    def run() -> object:
        with torch.no_grad():
            return work()

    return run
