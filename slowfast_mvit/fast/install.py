"""Fast classes for a model and its layers: the only place that chooses them."""

from __future__ import annotations

from typing import Any

import torch

from slowfast_mvit.fast.block import FastBackbone, FastBlock, FastMViT, FastPatchEmbed
from slowfast_mvit.fast.plan import kernels_on
from slowfast_mvit.models import Backbone, MViT


def install(model: MViT) -> MViT:
    """Give a plain model and its layers their fast classes; parameters and names stay.

    Returns:
        The same model.
    """
    model.__class__ = FastBackbone if isinstance(model, Backbone) else FastMViT
    model.patch_embed.__class__ = FastPatchEmbed
    block: Any
    for block in model.blocks:
        block.__class__ = FastBlock
    model.set_grad_checkpointing(model.activation_checkpointing)
    return model


def fast_paths_of(model: MViT, device: torch.device) -> str:
    """Describe the fast paths of a model on a device, for the numerics of a checkpoint."""
    is_fast = any(isinstance(block, FastBlock) for block in model.blocks)
    return kernels_on(device) if is_fast else "none"
