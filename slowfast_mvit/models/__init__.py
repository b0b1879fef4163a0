"""MViT models: needs torch and nothing else.

layers.py      patch embedding, MLP, stochastic depth, head, first values
rel_pos.py     decomposed relative positions      positions.py   absolute positions
attention.py   pooling attention                  blocks.py      attention + MLP + skip path
specs.py       lists from a config -> records     mvit.py        the whole model
variants.py    the published models, by name
"""

from slowfast_mvit.models.mvit import MViT, mvit_from_lists
from slowfast_mvit.models.specs import BlockSpec, block_specs
from slowfast_mvit.models.variants import VARIANTS, create_model, list_models, variant_lists

__all__ = [
    "VARIANTS",
    "BlockSpec",
    "MViT",
    "block_specs",
    "create_model",
    "list_models",
    "mvit_from_lists",
    "variant_lists",
]
