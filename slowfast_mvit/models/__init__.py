"""MViT models in plain PyTorch: needs torch and nothing else.

layers.py      patch embedding, MLP, stochastic depth, head, first values
tables.py      index and resampling of relative position tables
rel_pos.py     decomposed relative positions      positions.py   absolute positions
pooling.py     pooling of tokens without moving them
attention.py   pooling attention                  folded.py      its scores as one ordinary call
blocks.py      attention + MLP + skip path        checkpointing.py  activation checkpointing
specs.py       the record of a block              mvit.py        the whole model
windows.py     attention within windows           backbone.py    the model of a detector
variants.py    the published models, by name      pixel_checks.py  checks of the input
exported.py    a model with its preprocessing and probabilities, as one graph

``slowfast_mvit.fast`` has faster blocks with the same results, and ``create_model``.
"""

from slowfast_mvit.models.backbone import Backbone
from slowfast_mvit.models.mvit import MViT
from slowfast_mvit.models.specs import BlockSpec
from slowfast_mvit.models.variants import BACKBONES, VARIANTS, list_models

__all__ = ["BACKBONES", "VARIANTS", "Backbone", "BlockSpec", "MViT", "list_models"]
