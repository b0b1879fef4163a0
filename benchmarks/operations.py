"""Theoretical lower bounds of an MViT: the operations and the bytes of a pass.

**Operations** are counted, on the plain form and without computing anything: convolutions and
matrix products, 2 for each multiply-add, and 5 multiply-adds for each normed element. A forward
pass gives twice the published GFLOPs, which are multiply-adds. A training step needs three times as
many, for the gradients of what goes in and of the weights take as much each; pixels get none. (The
counter of PyTorch 2.14 cannot be asked for the backward pass: it counts the gradient of a depthwise
convolution as that of a full one, 420 GFLOP for S instead of 6.)

**Bytes** follow from a rule. What works on each token for itself (norms, linear layers, GELU, sums,
drop path, the hidden layer of the MLP) stays on the chip until tokens are mixed; so does the
matrix of attention scores. What goes from one of these steps to the next, does not:

    patches     reads the pixels                        writes the tokens
    qkv         reads the tokens                        writes queries, keys and values
    pooling     reads queries, keys and values          writes them pooled
    attention   reads them pooled                       writes one vector for each query
    joining     reads these, and the tokens that skip   writes the tokens
    MLP         reads the tokens                        writes the tokens

Weights are read once. In a training step each of these reads again what it read, reads the
gradients of what it wrote and writes those of what it read (but for pixels); the hidden layer of
the MLP is written and read once, for the operations do not count it twice. Weights are read twice,
their gradients are written, and AdamW reads four numbers for each weight and writes three. A float
in between has the bytes of the precision; pixels, weights and what belongs to them have four.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slowfast_mvit.builders.lists import mvit_from_lists, variant_as_lists
from slowfast_mvit.models import BlockSpec, MViT
from slowfast_mvit.models.tables import THW
from slowfast_mvit.models.variants import VARIANTS

MODELS = {"S": "mvitv2_s_16x4", "B": "mvitv2_b_32x3", "L": "mvitv2_l_40x3"}
FLOAT_BYTES = {"fp32": 4, "bf16": 2}
MLP_RATIO = 4
NORM_OPERATIONS = 2 * 5  # for each element of a LayerNorm, as fvcore counts
WEIGHT_BYTES = {"infer": 4, "train": 4 * (2 + 1 + 4 + 3)}  # for each weight


@dataclass(frozen=True)
class Need:
    """The least that one pass over one batch takes.

    Attributes:
        operations: floating-point operations.
        bytes: moved to and from memory.
    """

    operations: float
    bytes: float

    def floor_s(self, rate: float, bandwidth: float) -> float:
        """Seconds, when computing and moving go on at the same time.

        Args:
            rate: operations a second.
            bandwidth: bytes a second.
        """
        return max(self.operations / rate, self.bytes / bandwidth)


@dataclass(frozen=True)
class Step:
    """One row of the table above, in floats.

    Attributes:
        reads, writes: from and to memory in a forward pass.
        kept: written for the backward pass only.
        has_gradient: whether what it reads needs a gradient.
    """

    reads: int
    writes: int
    kept: int = 0
    has_gradient: bool = True

    def moved(self, mode: str) -> int:
        """Floats to and from memory in one pass of a mode of ``MODES``."""
        forward = self.reads + self.writes
        if mode == "infer":
            return forward
        gradients = self.writes + (self.reads if self.has_gradient else 0)
        return forward + 2 * self.kept + self.reads + gradients


def need(size: str, mode: str, precision: str, *, input_size: THW, batch: int = 1) -> Need:
    """Return what a model needs for a batch.

    Args:
        size: a key of ``MODELS``.
        mode: "infer", a forward pass, or "train": forward, backward and AdamW.
        precision: a key of ``FLOAT_BYTES``.
        input_size: pixels (T, H, W).
        batch: clips.
    """
    operations = batch * count_operations(size, input_size, mode)
    num_weights = sum(parameter.numel() for parameter in on_meta(size, input_size).parameters())
    floats = batch * sum(step.moved(mode) for step in steps_of(size, input_size))
    pixels = batch * 4 * (1 + (mode == "train")) * 3 * math.prod(input_size)
    moved = floats * FLOAT_BYTES[precision] + pixels + num_weights * WEIGHT_BYTES[mode]
    return Need(operations, moved)


@functools.cache
def on_meta(size: str, input_size: THW) -> MViT:
    """The plain model, shapes without values."""
    with torch.device("meta"):
        return mvit_from_lists(attention="plain", **arguments_of(size, input_size))


def arguments_of(size: str, input_size: THW) -> dict[str, Any]:
    """Of ``mvit_from_lists``, for another size of clips."""
    return {**variant_as_lists(MODELS[size]), "input_size": input_size}


def published_input(size: str) -> THW:
    """The pixels (T, H, W) that a model was published for."""
    return VARIANTS[MODELS[size]].input_size


def count_operations(size: str, input_size: THW, mode: str) -> float:
    """Floating-point operations for one clip."""
    forward = _count_forward(size, input_size)
    patch_weights = on_meta(size, input_size).patch_embed.proj.weight.numel()
    of_patches = 2.0 * patch_weights * math.prod(_grid(input_size))
    return forward if mode == "infer" else 3 * forward - of_patches


@functools.cache
def _count_forward(size: str, input_size: THW) -> float:
    of_norms = {torch.ops.aten.native_layer_norm: _norm_operations}
    with FlopCounterMode(display=False, custom_mapping=of_norms) as counter, torch.no_grad():
        on_meta(size, input_size).eval()(torch.empty(1, 3, *input_size, device="meta"))
    return float(counter.get_total_flops())


def _norm_operations(shape: Sequence[int], *_: object, out_shape: object) -> int:
    return NORM_OPERATIONS * math.prod(shape)


def linear_shapes(size: str, input_size: THW) -> list[tuple[int, int, int]]:
    """(rows, columns in, columns out) of the linear layers of the blocks, each once; one clip."""
    model = on_meta(size, input_size)
    shapes: dict[tuple[int, int, int], None] = {}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        rows = math.prod(inputs[0].shape[:-1])
        shapes[rows, inputs[0].shape[-1], output.shape[-1]] = None

    layers = [layer for layer in model.blocks.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        model.eval()(torch.empty(1, 3, *input_size, device="meta"))
    for hook in hooks:
        hook.remove()
    return list(shapes)


def specs_of(size: str, input_size: THW) -> list[BlockSpec]:
    """The blocks of a model."""
    return [block.spec for block in on_meta(size, input_size).blocks]


def steps_of(size: str, input_size: THW) -> list[Step]:
    """Return what each block moves, and the patches before them; one clip, with a class token."""
    specs = specs_of(size, input_size)
    grid = _grid(input_size)
    steps = [Step(0, _tokens(grid) * specs[0].dim, has_gradient=False)]  # pixels are counted apart
    for spec in specs:
        q_grid = pooled(grid, spec.kernel_q, spec.stride_q)
        k_grid = pooled(grid, spec.kernel_kv, spec.stride_kv)
        num, num_q, num_k = _tokens(grid), _tokens(q_grid), _tokens(k_grid)
        wide, pooled_qkv = spec.dim_att, (num_q + 2 * num_k) * spec.dim_att
        steps += [
            Step(num * spec.dim, 3 * num * wide),
            Step(3 * num * wide, pooled_qkv),
            Step(pooled_qkv, num_q * wide),
            Step(num_q * wide + num * spec.dim, num_q * wide),
            Step(num_q * wide, num_q * spec.dim_out, kept=MLP_RATIO * num_q * wide),
        ]
        grid = q_grid
    return steps


def pooled(grid: THW, kernel: Sequence[int] | None, stride: Sequence[int]) -> THW:
    """The grid that a pooling leaves, padded by half its kernel."""
    kernel = kernel or (1, 1, 1)
    t, h, w = (
        (length + 2 * (size // 2) - size) // step + 1
        for length, size, step in zip(grid, kernel, stride, strict=True)
    )
    return t, h, w


def num_tokens(input_size: THW) -> int:
    """Of a clip, before the first block, without the class token."""
    return math.prod(_grid(input_size))


def _grid(input_size: THW) -> THW:
    """The token grid after the patches, which are (3, 7, 7) pixels, (2, 4, 4) apart."""
    return pooled(input_size, (3, 7, 7), (2, 4, 4))


def _tokens(grid: THW) -> int:
    return 1 + math.prod(grid)
