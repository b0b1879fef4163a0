"""Exact stand-ins for blocks of ``slowfast_mvit.models`` that compute the same faster.

create.py    ``create_model``: a model with fast blocks, by name
install.py   the classes of its layers are chosen, once
block.py     a block and a patch embedding that take what fits, and run the plain forward otherwise
plan.py      what fits: all questions about device, dtype, sizes, hooks and types of layers

cpu/    some tokens at a time, so that what is computed of them stays in the cache:
    norm_linear.py   LayerNorm and a linear layer        mlp.py      LayerNorm, MLP and residual
    blockwise.py     attention with relative positions   casting.py  their bfloat16 products
    pooling.py       pooling and norm of queries, keys and values; max pooling of the skip path
    gelu.py          GELU with the bias before it
    csrc/            kernels of these in C; native.py compiles them at first use
cuda/   in Triton:
    pooling.py       pools and normalises                folding.py  before and after attention
    attention.py     attends between them                *_kernels.py are imported at first launch

``create_model`` has its place here, above the plain models and what stands in for them.
"""

from slowfast_mvit.fast.create import build_mvit, create_model
from slowfast_mvit.fast.install import install

__all__ = ["build_mvit", "create_model", "install"]
