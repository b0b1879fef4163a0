"""Activation checkpointing: tensors that a block saves for its backward pass, or recomputes.

    activation_checkpointing   saved of each block                   MiB for a clip of S 16x4
                                                                     in float32    in bf16
    False                      all that the backward pass reads         820          506
    "selective"                inputs, and outputs of linear layers     565          302
    True                       inputs                                    54           46

(On a CPU; ``bytes_kept`` in ``tests/models/test_checkpointing.py`` counts them.) Dropout and drop
path draw the same masks again, and gradients are the same bits; with "selective" on a CPU they may
be rounded differently, as linear layers and norms are not computed together there.

With "selective" an autocast context must contain one forward pass only, as in a training step: a
second one would find weights that are cast already, which the backward pass would have to cast
again; torch raises an error there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from slowfast_mvit.errors import ConfigError
from slowfast_mvit.models.tables import THW

RunBlock = Callable[..., tuple[Tensor, THW]]

# Recorded operators of a linear layer, with a bias and without. Products inside an attention are
# other operators, so they are computed again.
_LINEAR_LAYERS = [torch.ops.aten.addmm.default, torch.ops.aten.mm.default]


def run_block(block: nn.Module, tokens: Tensor, thw: THW, **options: Any) -> tuple[Tensor, THW]:
    """Run the block and save all that its backward pass reads.

    Args:
        block: from tokens (B, P + T*H*W, C) and their grid (T, H, W) to such a pair.
        tokens, thw, options: its inputs.
    """
    out: tuple[Tensor, THW] = block(tokens, thw, **options)
    return out


def run_block_keeping_products(
    block: nn.Module, tokens: Tensor, thw: THW, **options: Any
) -> tuple[Tensor, THW]:
    """``run_block``, but pooling, norms, attention and activations are computed again.

    Linear layers are most of the arithmetic; their outputs are less than half of all tensors saved.
    """
    out: tuple[Tensor, THW] = checkpoint(
        block,
        tokens,
        thw,
        use_reentrant=False,
        context_fn=functools.partial(create_selective_checkpoint_contexts, _LINEAR_LAYERS),
        **options,
    )
    return out


def run_block_keeping_nothing(
    block: nn.Module, tokens: Tensor, thw: THW, **options: Any
) -> tuple[Tensor, THW]:
    """``run_block``, but all of the block is computed again: a third more time."""
    out: tuple[Tensor, THW] = checkpoint(block, tokens, thw, use_reentrant=False, **options)
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
