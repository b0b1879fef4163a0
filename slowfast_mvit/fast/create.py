"""Models with fast blocks: by their records, or a published one by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slowfast_mvit.errors import pick
from slowfast_mvit.fast.install import install
from slowfast_mvit.models import BACKBONES, Backbone, BlockSpec, MViT
from slowfast_mvit.models.variants import variant_arguments

# The attention of a block where its fast form does not apply.
_ATTENTION = {"fast": "folded", "folded": "folded", "plain": "plain"}


def build_mvit(
    blocks: Sequence[BlockSpec],
    *,
    attention: str = "fast",
    model_class: type[MViT] = MViT,
    **trunk: Any,
) -> MViT:
    """An MViT with fresh weights.

    Args:
        blocks: a record of each block.
        attention: "fast", "folded" or "plain": three implementations of the same function.
        model_class: ``MViT``, or ``Backbone`` for the maps of its stages.
        trunk: other arguments of this class.

    Raises:
        ConfigError: if blocks cannot be built, or there is no such attention.
    """
    model = model_class(blocks, attention=pick(_ATTENTION, attention, "attention"), **trunk)
    return install(model) if attention == "fast" else model


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    input_size: Sequence[int] | None = None,
    attention: str = "fast",
    drop_path: float | None = None,
    head_dropout: float | None = None,
    in_chans: int = 3,
) -> MViT:
    """A published model by name, with fresh weights; a ``Backbone`` for those of detectors.

    Args:
        name: one of ``list_models()``.
        num_classes: classes; 0 for the features before the head, None for as many as it was
            published for.
        input_size: pixels (T, H, W) of the clips to train on; None for the published size.
        attention: "fast", "folded" or "plain": three implementations of the same function.
        drop_path: stochastic depth of the last block; None for that of the published recipe.
        head_dropout: dropout before the classifier; None for that of the published recipe.
        in_chans: channels of the pixels.

    Raises:
        ConfigError: if there is no such model; the message names the nearest one.
    """
    arguments = variant_arguments(
        name,
        num_classes=num_classes,
        input_size=input_size,
        drop_path=drop_path,
        head_dropout=head_dropout,
    )
    model_class = Backbone if name in BACKBONES else MViT
    return build_mvit(attention=attention, in_chans=in_chans, model_class=model_class, **arguments)
