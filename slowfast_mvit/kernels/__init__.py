"""The few tensor operations that make MViT fast, each exact and each tested against a plain form.

    tables.py    index and resampling of relative position tables, and the one-hot key matrix
    pooling.py   pooling of tokens without moving them: they already lie channels-last
    folded.py    attention with relative positions as one ordinary scaled-dot-product call
    triton_*.py  the same on CUDA: triton_pooling.py pools and normalises, triton_attention.py
                 attends, between the operators of triton_folding.py. *_kernels.py hold the
                 kernels and are imported when one is first launched

Nothing here has parameters or knows a model; ``slowfast_mvit.models`` is built on it.
"""

from slowfast_mvit.kernels.folded import folded_attention
from slowfast_mvit.kernels.pooling import depthwise_pool, max_pool
from slowfast_mvit.kernels.tables import (
    THW,
    gather_table,
    index_table,
    one_hot_keys,
    resample_table,
)

__all__ = [
    "THW",
    "depthwise_pool",
    "folded_attention",
    "gather_table",
    "index_table",
    "max_pool",
    "one_hot_keys",
    "resample_table",
]
