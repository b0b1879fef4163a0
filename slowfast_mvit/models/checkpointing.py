"""Activation checkpointing: what a block keeps for its backward pass and what it recomputes.

    activation_checkpointing   kept of each block                    MiB for a clip of S 16x4
                                                                     in float32    in bf16
    False                      all that the backward pass reads         820          506
    "selective"                what goes in, what linear layers give    565          302
    True                       what goes in                              54           46

(On a CPU; ``bytes_kept`` in ``tests/models/test_checkpointing.py`` counts them.) Dropout and drop
path draw the same masks again, and gradients are the same bits; with "selective" on a CPU they may
be rounded otherwise, as linear layers and norms are not computed together there.

With "selective" an autocast context holds one forward pass, as that of a training step does: what a
second one finds cast already would have to be cast in the backward pass, where torch does not
expect it and stops.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from slowfast_mvit.errors import ConfigError
from slowfast_mvit.models.tables import THW

RunBlock = Callable[[nn.Module, Tensor, THW], tuple[Tensor, THW]]

# What a linear layer becomes when it is recorded for the backward pass, with a bias and without.
# Products inside an attention are others, so they are computed again.
_LINEAR_LAYERS = [torch.ops.aten.addmm.default, torch.ops.aten.mm.default]


def run_block(block: nn.Module, tokens: Tensor, thw: THW) -> tuple[Tensor, THW]:
    """The block, keeping everything.

    Args:
        block: takes tokens (B, P + T*H*W, C) and their grid (T, H, W), and gives such a pair.
        tokens, thw: what it takes.
    """
    out: tuple[Tensor, THW] = block(tokens, thw)
    return out


def run_block_keeping_products(block: nn.Module, tokens: Tensor, thw: THW) -> tuple[Tensor, THW]:
    """``run_block``, but pooling, norms, attention and activations are computed again.

    Linear layers are most of the arithmetic and give less than half of what is kept otherwise.
    """
    out: tuple[Tensor, THW] = checkpoint(
        block,
        tokens,
        thw,
        use_reentrant=False,
        context_fn=functools.partial(create_selective_checkpoint_contexts, _LINEAR_LAYERS),
    )
    return out


def run_block_keeping_nothing(block: nn.Module, tokens: Tensor, thw: THW) -> tuple[Tensor, THW]:
    """``run_block``, but all of the block is computed again: a third more time."""
    out: tuple[Tensor, THW] = checkpoint(block, tokens, thw, use_reentrant=False)
    return out


RUN_BLOCK: dict[bool | str, RunBlock] = {
    False: run_block,
    "selective": run_block_keeping_products,
    True: run_block_keeping_nothing,
}


def pick_run_block(activation_checkpointing: bool | str) -> RunBlock:
    """The function in ``RUN_BLOCK``.

    Raises:
        ConfigError: there is none for this value.
    """
    if activation_checkpointing not in RUN_BLOCK:
        raise ConfigError(
            f"there is no activation checkpointing named {activation_checkpointing!r}. "
            f"Choose from: {', '.join(map(str, RUN_BLOCK))}"
        )
    return RUN_BLOCK[activation_checkpointing]
