"""Fast, exact replacements of the blocks of ``slowfast_mvit.models``.

create.py    ``create_model``: a model with fast blocks, by name
install.py   sets the classes of its layers, once
block.py     a block and a patch embedding: the forms of a plan, or the plain forward
plan.py      the choice of forms: all conditions on device, dtype, sizes, hooks and layers

cpu/    blocks of tokens, so that intermediate results stay in the cache:
    norm_linear.py   LayerNorm and a linear layer        mlp.py      LayerNorm, MLP and residual
    blockwise.py     attention with relative positions   casting.py  their bfloat16 products
    pooling.py       pooling and norm of queries, keys and values; max pooling of the skip path
    gelu.py          GELU with the bias before it
    csrc/            kernels of these in C; native.py compiles them at first use
cuda/   in Triton:
    pooling.py       pooling and norm                    folding.py  before and after attention
    attention.py     attention between them              *_kernels.py are imported at first launch

``create_model`` is here, above the plain models and their replacements.
"""

from slowfast_mvit.fast.create import build_mvit, create_model
from slowfast_mvit.fast.install import fast_paths_of, install

__all__ = ["build_mvit", "create_model", "fast_paths_of", "install"]
