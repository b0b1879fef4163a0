"""When the fast forms of ``kernels`` may stand in for modules, and how they are called.

Each stands in for the modules it is given only where nobody could tell: plain layers without hooks,
no dropout at work, outside of ``torch.compile``, which fuses for itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast_mvit.kernels import casting, mlp, norm_linear
from slowfast_mvit.kernels.pooled_attention import Source
from slowfast_mvit.models.layers import NORM_EPS, DropPath, Mlp

if TYPE_CHECKING:
    from slowfast_mvit.models.attention import MultiScaleAttention


def is_bare_norm(norm: nn.Module) -> bool:
    """Whether this is a LayerNorm as the models have it, and nothing more."""
    return (
        isinstance(norm, nn.LayerNorm)
        and is_bare(norm)
        and norm.weight is not None
        and norm.bias is not None
        and norm.eps == NORM_EPS
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody wants to be called when this module is."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def is_bare(layer: nn.Linear | nn.LayerNorm) -> bool:
    """Whether calling this layer is nothing but arithmetic on its own, whole float32 parameters."""
    weights = (layer.weight, layer.bias)
    return (
        type(layer) in (nn.Linear, nn.LayerNorm)
        and not has_hooks(layer)
        and all(
            one is None or (type(one) in (nn.Parameter, Tensor) and one.dtype == torch.float32)
            for one in weights
        )
    )


def apply_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """layer(x), also where autocast wants products that this CPU has no instructions for."""
    if casting.emulates_bfloat16(x) and is_bare(layer):
        return casting.emulated(F.linear, x, layer.weight, layer.bias)
    out: Tensor = layer(x)
    return out


def is_plain_cpu(tokens: Tensor) -> bool:
    """Whether these tokens are computed with on a CPU, right now, in a format that is known."""
    return (
        tokens.device.type == "cpu"
        and tokens.dtype in (torch.float32, casting.compute_dtype())
        and casting.compute_dtype() in casting.DTYPES
        and not torch.compiler.is_compiling()
    )


def keeps_little(x: Tensor) -> bool:
    """Whether what is cheap to compute again is not to be kept for a backward pass."""
    return x.device.type == "cpu" and x.requires_grad and not torch.compiler.is_compiling()


def attention_is_fast(norm: nn.LayerNorm, attention: MultiScaleAttention, tokens: Tensor) -> bool:
    """Whether ``fast_norm_linear`` can be used before the attention, and clips left out of it.

    A dropout draws its mask before the branch is dropped, for the dropped clips, too.
    """
    return (
        is_plain_cpu(tokens)
        and attention.dropout.p == 0.0
        and not has_hooks(attention)
        and is_bare_norm(norm)
        and is_bare(attention.qkv)
    )


def mlp_is_fast(norm: nn.LayerNorm, layers: Mlp, tokens: Tensor) -> bool:
    """Whether ``fast_mlp_residual`` can be used."""
    return (
        is_plain_cpu(tokens)
        and not (layers.training and layers.dropout.p > 0.0)
        and not has_hooks(layers)
        and type(layers.act) is nn.GELU
        and is_bare_norm(norm)
        and is_bare(layers.fc1)
        and is_bare(layers.fc2)
    )


def fast_norm_linear(tokens: Tensor, norm: nn.LayerNorm, layer: nn.Linear) -> Tensor:
    """layer(norm(tokens)), (B, L, K)."""
    return norm_linear.norm_linear(
        tokens, (norm.weight, norm.bias), (layer.weight, layer.bias), eps=norm.eps
    )


def source_of(tokens: Tensor, norm: nn.LayerNorm, layer: nn.Linear) -> Source:
    """What ``fast_norm_linear`` gives its result for, to compute it again from."""
    return Source(tokens, (norm.weight, norm.bias), (layer.weight, layer.bias), norm.eps)


def draw_kept(drop_path: DropPath, tokens: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Which clips of the batch keep their branch, and the factors of those branches.

    The mask is drawn on the CPU, so nothing has to be waited for to know it.

    Returns:
        Indices of the clips, None for all of them; and factors (kept, 1, 1), None for 1.
    """
    if not drop_path.is_active:
        return None, None
    factors = drop_path.draw(len(tokens), dtype=casting.compute_dtype(), device=tokens.device)
    kept = factors.nonzero().squeeze(1)
    return None if len(kept) == len(tokens) else kept, factors[kept].view(-1, 1, 1)


def fast_mlp_residual(
    tokens: Tensor, norm: nn.LayerNorm, layers: Mlp, drop_path: DropPath
) -> Tensor:
    """tokens + drop_path(layers(norm(tokens))), (B, L, C)."""
    factors = None
    if drop_path.is_active:
        drawn = drop_path.draw(len(tokens), dtype=casting.compute_dtype(), device=tokens.device)
        factors = drawn.tolist()
    return mlp.mlp_residual(
        tokens,
        (norm.weight, norm.bias),
        (layers.fc1.weight, layers.fc1.bias),
        (layers.fc2.weight, layers.fc2.bias),
        eps=norm.eps,
        factors=factors,
    )
