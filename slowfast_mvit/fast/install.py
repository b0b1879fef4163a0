"""Fast classes for the layers of a model: the only place that chooses them."""

from __future__ import annotations

from typing import Any

import torch

from slowfast_mvit.fast.block import FastBlock, FastPatchEmbed
from slowfast_mvit.fast.plan import kernels_on
from slowfast_mvit.models import MViT
from slowfast_mvit.models.checkpointing import run_block_keeping_products


def install(model: MViT) -> MViT:
    """Give the layers of a plain model their fast classes; parameters and names stay.

    Returns:
        The same model.
    """
    model.patch_embed.__class__ = FastPatchEmbed
    blocks: list[Any] = list(model.blocks)
    for block in blocks:
        block.__class__ = FastBlock
        # Selective checkpointing saves the results of single linear layers.
        block.tokenwise_in_training = model.run_block is not run_block_keeping_products
    blocks[-1].prefix_is_enough = bool(model.num_prefix_tokens) and not model.mean_pooling
    return model


def fast_paths_of(model: MViT, device: torch.device) -> str:
    """Describe the fast paths of a model on a device, for the numerics of a checkpoint."""
    is_fast = any(isinstance(block, FastBlock) for block in model.blocks)
    return kernels_on(device) if is_fast else "none"
