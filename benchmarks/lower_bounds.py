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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from slowfast_mvit.builders.lists import mvit_from_lists, variant_as_lists
from slowfast_mvit.models import BlockSpec, MViT
from slowfast_mvit.models.pooling import pooled_thw
from slowfast_mvit.models.tables import THW
from slowfast_mvit.models.variants import VARIANTS

MODELS = {"S": "mvitv2_s_16x4", "B": "mvitv2_b_32x3", "L": "mvitv2_l_40x3"}
FLOAT_BYTES = {"fp32": 4, "bf16": 2}
MLP_RATIO = 4
NORM_OPERATIONS = 2 * 5  # for each element of a LayerNorm, as fvcore counts
WEIGHT_BYTES = {"infer": 4, "train": 4 * (2 + 1 + 4 + 3)}  # for each weight
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
REPEATS = {"cpu": 1, "cuda": 20}  # runs timed together: launching a kernel must not count
NUM_TRIES = 5
CLIPS_OF_PRODUCTS = {"cpu": 1, "cuda": 4}  # rows of the matrix products whose rate counts
# Where bfloat16 is emulated: a training step of torchvision takes seconds, not ten minutes.
SMALL_CLIP = (4, 96, 96)


class Case(NamedTuple):
    """A case to run.

    Attributes:
        size: a key of ``MODELS``.
        input_size: pixels (T, H, W).
        mode: "infer" or "train".
        precision: "fp32", or "bf16" by autocast, as in training.
        batch: clips.
        device: where.
        checkpointing: a key of ``contenders.CHECKPOINTING``: "blocks" keeps only the input of each
            block and computes the rest again in the backward pass; "selective" is the form of ours
            only.
    """

    size: str
    input_size: THW
    mode: str
    precision: str
    batch: int = 1
    device: torch.device = torch.device("cpu")
    checkpointing: str = "none"


class Need(NamedTuple):
    """The least that one pass over one batch takes.

    Attributes:
        operations: floating-point operations.
        bytes: moved to and from memory.
    """

    operations: float
    bytes: float

    def floor_s(self, rate: float, bandwidth: float) -> float:
        """Return the seconds of a pass that computes and moves at the same time.

        Args:
            rate: operations a second.
            bandwidth: bytes a second.
        """
        return max(self.operations / rate, self.bytes / bandwidth)


class Step(NamedTuple):
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
        """Return the floats to and from memory in one pass of a mode of ``MODES``."""
        forward = self.reads + self.writes
        if mode == "infer":
            return forward
        gradients = self.writes + (self.reads if self.has_gradient else 0)
        return forward + 2 * self.kept + self.reads + gradients


def need(case: Case) -> Need:
    """Return what a pass over the batch of a case needs."""
    size, input_size, mode, precision, batch, *_ = case
    operations = batch * count_operations(size, input_size, mode)
    num_weights = sum(parameter.numel() for parameter in on_meta(size, input_size).parameters())
    floats = batch * sum(step.moved(mode) for step in steps_of(size, input_size))
    pixels = batch * 4 * (1 + (mode == "train")) * 3 * math.prod(input_size)
    moved = floats * FLOAT_BYTES[precision] + pixels + num_weights * WEIGHT_BYTES[mode]
    return Need(operations, moved)


@functools.cache
def on_meta(size: str, input_size: THW) -> MViT:
    """Return the plain model, shapes without values."""
    with torch.device("meta"):
        return mvit_from_lists(attention="plain", **arguments_of(size, input_size)).eval()


def arguments_of(size: str, input_size: THW) -> dict[str, Any]:
    """Return the arguments of ``mvit_from_lists`` for another size of clips."""
    return {**variant_as_lists(MODELS[size]), "input_size": input_size}


def published_input(size: str) -> THW:
    """Return the pixels (T, H, W) that a model was published for."""
    return VARIANTS[MODELS[size]].input_size


def count_operations(size: str, input_size: THW, mode: str) -> float:
    """Return the floating-point operations for one clip."""
    forward = _count_forward(size, input_size)
    patch_weights = on_meta(size, input_size).patch_embed.proj.weight.numel()
    of_patches = 2.0 * patch_weights * num_tokens(input_size)
    return forward if mode == "infer" else 3 * forward - of_patches


@functools.cache
def _count_forward(size: str, input_size: THW) -> float:
    of_norms = {torch.ops.aten.native_layer_norm: _norm_operations}
    with FlopCounterMode(display=False, custom_mapping=of_norms) as counter:
        _run_on_meta(size, input_size)
    return float(counter.get_total_flops())


def _norm_operations(shape: Sequence[int], *_: object, out_shape: object) -> int:
    return NORM_OPERATIONS * math.prod(shape)


@torch.no_grad()
def _run_on_meta(size: str, input_size: THW) -> None:
    on_meta(size, input_size)(torch.empty(1, 3, *input_size, device="meta"))


def linear_shapes(size: str, input_size: THW) -> list[tuple[int, int, int]]:
    """Return (rows, columns in, columns out) of the linear layers of the blocks, each once."""
    shapes: dict[tuple[int, int, int], None] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows = math.prod(inputs[0].shape[:-1])
        shapes[rows, inputs[0].shape[-1], output.shape[-1]] = None

    layers = on_meta(size, input_size).blocks.modules()
    hooks = [one.register_forward_hook(note) for one in layers if isinstance(one, nn.Linear)]
    _run_on_meta(size, input_size)
    for hook in hooks:
        hook.remove()
    return list(shapes)


def specs_of(size: str, input_size: THW) -> list[BlockSpec]:
    """Return the blocks of a model."""
    return [block.spec for block in on_meta(size, input_size).blocks]


def steps_of(size: str, input_size: THW) -> list[Step]:
    """Return what each block moves, and the patches before them; one clip, with a class token."""
    specs = specs_of(size, input_size)
    grid = first_grid(input_size)
    steps = [Step(0, _tokens(grid) * specs[0].dim, has_gradient=False)]  # pixels: see ``need``
    for spec in specs:
        q_grid, k_grid = pooled_grids(spec, grid)
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


def pooled_grids(spec: BlockSpec, thw: THW) -> tuple[THW, THW]:
    """Return the grids of pooled queries and of pooled keys."""
    none = (1, 1, 1)
    return (
        pooled_thw(thw, spec.kernel_q or none, spec.stride_q),
        pooled_thw(thw, spec.kernel_kv or none, spec.stride_kv),
    )


def first_grid(input_size: THW) -> THW:
    """Return the token grid after the patches, which are (3, 7, 7) pixels, (2, 4, 4) apart."""
    return pooled_thw(input_size, (3, 7, 7), (2, 4, 4))


def num_tokens(input_size: THW) -> int:
    """Return the tokens of a clip, before the first block, without the class token."""
    return math.prod(first_grid(input_size))


def _tokens(grid: THW) -> int:
    return 1 + math.prod(grid)


class Machine:
    """The rates of a device, and so the floors.

    Attributes:
        rates: by precision and shape of the linear layer, operations a second.
        bandwidth: bytes a second.
    """

    def __init__(self, size: str, device: torch.device) -> None:
        self.bandwidth = copy_bandwidth(device)
        self.rates = {}
        clips = CLIPS_OF_PRODUCTS[device.type]
        for precision in DTYPES:
            shapes = linear_shapes(size, input_size_of(size, precision, device))
            shapes = [(clips * rows, width, width_out) for rows, width, width_out in shapes]
            self.rates[precision] = product_rates(shapes, precision, device)

    def floor_s(self, case: Case) -> float:
        """Return the least seconds for one pass over the batch of a case."""
        # float32 units can compute bfloat16, too
        precisions = DTYPES if case.precision == "bf16" else (case.precision,)
        best = max(max(self.rates[name].values()) for name in precisions)
        return need(case).floor_s(best, self.bandwidth)

    def summary(self) -> dict[str, Any]:
        """Return the best and the worst product of each precision, and the copy."""
        products: dict[str, Any] = {}
        for precision, rates in self.rates.items():
            products[precision] = {}
            for name, choose in (("best", max), ("worst", min)):
                shape = choose(rates, key=rates.__getitem__)
                products[precision][f"{name}_gflop_per_s"] = round(rates[shape] / 1e9, 1)
                products[precision][f"{name}_shape"] = shape
        return {"products": products, "copy_gb_per_s": round(self.bandwidth / 1e9, 1)}


def input_size_of(size: str, precision: str, device: torch.device) -> tuple[int, int, int]:
    """Return the pixels (T, H, W) that a precision is measured on."""
    return published_input(size) if precision == "fp32" or has_bf16(device) else SMALL_CLIP


def has_bf16(device: torch.device) -> bool:
    """Return whether the device has instructions for bfloat16; without, products are emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def product_rates(
    shapes: Sequence[tuple[int, int, int]], precision: str, device: torch.device
) -> dict[str, float]:
    """Return operations a second of linear layers without a bias, the best of a few tries.

    Args:
        shapes: (rows, columns in, columns out) of each layer.
        precision: a key of ``DTYPES``; "fp32" with the settings of this process for TF32.
        device: where.

    Returns:
        For each layer, by its shape as text ("1569 x 384 x 1536").
    """
    rates = {}
    for rows, width, width_out in shapes:
        tokens = torch.randn(rows, width, device=device).to(DTYPES[precision])
        weight = torch.randn(width_out, width, device=device).to(DTYPES[precision])
        names = {"linear": torch.nn.functional.linear, "tokens": tokens, "weight": weight}
        seconds = best_seconds("linear(tokens, weight)", device, names)
        rates[f"{rows} x {width} x {width_out}"] = 2.0 * rows * width * width_out / seconds
    return rates


def copy_bandwidth(device: torch.device) -> float:
    """Return bytes read and written a second by a copy, the best of a few tries."""
    source = torch.ones(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    names = {"source": source, "target": torch.empty_like(source)}
    return 2.0 * source.numel() / best_seconds("target.copy_(source)", device, names)


def best_seconds(statement: str, device: torch.device, names: dict[str, Any]) -> float:
    """Time one run of a statement, by the clock on all threads; the best of a few tries."""
    timer = Timer(statement, globals=names, num_threads=torch.get_num_threads())
    return min(timer.timeit(REPEATS[device.type]).median for _ in range(NUM_TRIES))
