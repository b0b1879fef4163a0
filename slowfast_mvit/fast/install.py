"""Which layers of a model get a fast form: their class is chosen here, once, and nowhere else."""

from __future__ import annotations

from typing import Any

from slowfast_mvit.fast.block import FastBlock, FastPatchEmbed
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
        # What is selected to be kept are the results of single linear layers.
        block.tokenwise_in_training = model.run_block is not run_block_keeping_products
    blocks[-1].prefix_is_enough = bool(model.num_prefix_tokens) and not model.mean_pooling
    return model
