"""Choice of the fast forms that replace the layers of a block in one call: the only place for it.

All conditions are here: device, dtype, sizes, compiling, and for each layer that a form does not
call, that a call would be nothing but its arithmetic: the class is that of ``models``, parameters
are whole and float32, and there are no hooks. Other layers are called as usual, so an adapter that
replaces ``attn.qkv`` keeps the fast attention.

    form          where                      the layers that it does not call
    attention     CPU, CUDA                  attn; with pools also its pool_* and norm_*
    projects      CPU, not compiled          norm1, attn.qkv, proj, drop_path
    mlp           CPU, not compiled          norm2, mlp and all in it, drop_path
    skips         CPU                        (a max pooling, no layer)
    prefix_only   CPU, CUDA                  the attention of all tokens but the class token
"""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as global_hooks

from slowfast_mvit.fast.cpu import casting, native
from slowfast_mvit.fast.cuda.attention import folded_width, why_no_attention
from slowfast_mvit.fast.cuda.available import HAS_TRITON
from slowfast_mvit.fast.cuda.pooling import why_no_pooling
from slowfast_mvit.models import MViT
from slowfast_mvit.models.attention import MultiScaleAttention
from slowfast_mvit.models.folded import folded_attention
from slowfast_mvit.models.layers import NORM_EPS, DropPath, Mlp
from slowfast_mvit.models.pooling import HeadPool, kernel_of_stride, pooled_thw
from slowfast_mvit.models.tables import THW

if TYPE_CHECKING:
    from slowfast_mvit.fast.block import FastBlock

logger = logging.getLogger(__name__)

# The classes of a block's layers, as ``models`` builds them.
_LAYERS = {MultiScaleAttention, HeadPool, Mlp, DropPath}
_LAYERS |= {nn.Linear, nn.LayerNorm, nn.GELU, nn.Dropout}
# Fewest scores of a head for which blockwise attention pays: each head of each clip is a call.
MIN_SCORES = 1 << 16


@dataclass(frozen=True)
class Plan:
    """The forms of one call of a block.

    Attributes:
        q_thw: the grid of the pooled queries.
        k_thw: the grid of the pooled keys.
        q_in_window: the grid of the queries that attend together: of a window, or the whole one.
        k_in_window: that of their keys.
        attention: "blockwise" (CPU), "fused" (CUDA), or "folded", that of ``models``.
        pools: queries, keys and values are pooled and normalised in one operator.
        pools_again: blockwise attention saves no pooled tensors; the backward pass pools again.
        projects: norm and projections by blocks of tokens, and none of a dropped branch.
        mlp: the MLP likewise.
        skips: the skip path is pooled by the operator for CPUs.
        prefix_only: only the prefix tokens attend and are returned.
        emulates: ``attn.proj`` multiplies in bfloat16 for a CPU without such instructions.
    """

    q_thw: THW
    k_thw: THW
    q_in_window: THW
    k_in_window: THW
    attention: str
    pools: bool
    pools_again: bool = False
    projects: bool = False
    mlp: bool = False
    skips: bool = False
    prefix_only: bool = False
    emulates: bool = False


def kernels_on(device: torch.device) -> str:
    """Describe the kernels of the fast forms on a device."""
    if device.type == "cuda" and HAS_TRITON:
        return f"Triton {version('triton')}"
    return "in C" if device.type == "cpu" and native.is_built() else "PyTorch's own operations"


def plan_of(
    block: FastBlock, tokens: Tensor, thw: THW, *, prefix_only: bool = False
) -> Plan | None:
    """Return the plan of this call; None for the plain forward, with the reason logged once."""
    device = tokens.device.type
    build = _on_cpu if device == "cpu" else _on_cuda
    plan = _why_plain(block, device) or build(block, tokens, thw, prefix_only)
    if isinstance(plan, Plan):
        return plan
    log_once("a block", plan)
    return None


def class_token_is_enough(model: MViT, block_class: type) -> bool:
    """Return whether the last block's class token is classified and nothing reads its others.

    A hook, a layer of another class or a replaced method may read them.
    """
    is_classified = model.global_pool == "token" and not model.mean_pooling
    if not is_classified or "forward_features" in model.__dict__:
        return False
    layers = [*model.blocks[-1].modules(), model.norm]
    known = {block_class, *_LAYERS}
    return all(_class_without_fsdp(layer) in known and not _is_watched(layer) for layer in layers)


def emulates_bfloat16(layer: nn.Module, x: Tensor) -> bool:
    """Return whether a layer is in bfloat16 by autocast on a CPU without instructions for it."""
    return (
        x.device.type == "cpu"
        and casting.compute_dtype() == torch.bfloat16
        and not casting.HAS_BF16_INSTRUCTIONS
        and not torch.compiler.is_compiling()
        and _is_bare(layer, nn.Linear, nn.Conv2d, nn.Conv3d)
    )


def log_once(subject: str, reason: str) -> None:
    """Log, the first time in this process, that something runs in plain PyTorch.

    Not from within a graph that is being compiled, which could not hold it.
    """
    if not torch.compiler.is_compiling():
        _log(subject, reason)


@functools.cache
def _log(subject: str, reason: str) -> None:
    logger.info("%s runs in plain PyTorch: %s", subject, reason)


def _why_plain(block: FastBlock, device: str) -> str | None:
    """Return the reason why this block has no fast form on this type of device, or None."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return "an exported graph must run where this package is not installed"
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return "the fast forms have no rules for torch.func and forward-mode differentiation"
    if device not in ("cpu", "cuda"):
        return f"there are fast forms for CPU and CUDA devices, not for {device!r}"
    if not torch.compiler.is_compiling() and global_hooks._has_any_global_hook():
        return "there are hooks for all modules"
    if not is_unmodified(block.attn, MultiScaleAttention):
        return "attn is hooked or replaced"
    if block.attn.scaled_dot_product is not folded_attention:
        return "attn.scaled_dot_product is replaced"
    pools = (block.attn.pool_q, block.attn.pool_k, block.attn.pool_v)
    if not all(pool is None or isinstance(pool, HeadPool) for pool in pools):
        return "a pooling of attn is replaced"
    return None


def _on_cpu(block: FastBlock, tokens: Tensor, thw: THW, prefix_only: bool) -> Plan | str:
    dtype = casting.compute_dtype() if torch.is_autocast_enabled("cpu") else tokens.dtype
    if dtype not in native.DTYPES or tokens.dtype not in (torch.float32, dtype):
        return f"the fast forms for CPUs support float32 and bfloat16, not {dtype}"
    attn, compiled = block.attn, torch.compiler.is_compiling()
    native_fits = native.is_built() and native.fits(block.spec.head_dim)
    pools = (
        native_fits
        and _pools_are_unmodified(attn)
        and max(map(max, _kernels(attn))) <= native.MAX_KERNEL
    )
    grids = _grids(attn, thw)
    blockwise = native_fits and _blockwise_pays(attn, dtype, *grids[2:])
    tokenwise = not compiled and (block.tokenwise_in_training or not block.training)
    tokenwise = tokenwise and dtype == casting.compute_dtype()
    return Plan(
        *grids,
        attention="blockwise" if blockwise else "folded",
        pools=pools,
        pools_again=blockwise and pools and torch.is_grad_enabled() and not compiled,
        projects=tokenwise and _projections_are_unmodified(block),
        mlp=tokenwise and not block.spec.widens_in_mlp and _mlp_is_unmodified(block),
        skips=native.is_built() and _skip_fits(block),
        prefix_only=prefix_only,
        emulates=emulates_bfloat16(attn.proj, tokens),
    )


def _on_cuda(block: FastBlock, tokens: Tensor, thw: THW, prefix_only: bool) -> Plan | str:
    attn, dtype = block.attn, tokens.dtype
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
    grids = _grids(attn, thw)
    width = folded_width(block.spec.head_dim, attn.tables, grids[3])
    reason = why_no_attention(width, dtype, "cuda")
    if reason is not None:
        return reason
    pools = _pools_are_unmodified(attn)
    if pools:
        sample = (block.spec.num_prefix_tokens + math.prod(thw)) * 3 * block.spec.dim_att
        reason = why_no_pooling(dtype, sample, block.spec.head_dim, _kernels(attn), "cuda")
        if reason is not None:
            log_once("pooling", reason)
            pools = False
    return Plan(*grids, attention="fused", pools=pools, prefix_only=prefix_only)


def _grids(attn: MultiScaleAttention, thw: THW) -> tuple[THW, THW, THW, THW]:
    """The grids of the pooled queries and keys, and of those in a window."""
    q_thw, k_thw = (
        thw if pool is None else pooled_thw(thw, pool.kernel_size, pool.stride)
        for pool in (attn.pool_q, attn.pool_k)
    )
    return q_thw, k_thw, *attn.grids_in_window(q_thw, k_thw)


def _kernels(attn: Any) -> list[tuple[int, ...]]:
    return [tuple(pool.kernel_size) for pool in (attn.pool_q, attn.pool_k, attn.pool_v)]


def _blockwise_pays(attn: MultiScaleAttention, dtype: torch.dtype, q_thw: THW, k_thw: THW) -> bool:
    """Return whether blockwise attention is the fastest and supports these sizes.

    In float32, heads of few scores are faster together, in PyTorch's fused attention. In bfloat16
    that attention is the faster one where it alone has the instructions, and very slow where there
    are none.
    """
    if dtype == torch.float32:
        num_queries = attn.num_prefix_tokens + math.prod(q_thw)
        pays = num_queries * (1 + math.prod(k_thw)) >= MIN_SCORES
    else:
        pays = native.multiplies_bfloat16() or not casting.HAS_BF16_INSTRUCTIONS
    return pays and sum(k_thw) <= native.MAX_WIDTH and k_thw[1] * k_thw[2] <= native.MAX_PLANE


def _pools_are_unmodified(attn: MultiScaleAttention) -> bool:
    """Return whether one operator can pool and normalise queries, keys and values."""
    pools = (attn.pool_q, attn.pool_k, attn.pool_v)
    norms = (attn.norm_q, attn.norm_k, attn.norm_v)
    return all(is_unmodified(pool, HeadPool) for pool in pools) and all(map(_is_bare_norm, norms))


def _projections_are_unmodified(block: FastBlock) -> bool:
    """Return whether norm and projections can run by blocks of tokens and skip clips.

    A dropout draws its mask before the branch is dropped, for the dropped clips too.
    """
    return (
        not _drops(block.attn.dropout)
        and is_unmodified(block.drop_path, DropPath)
        and _is_bare_norm(block.norm1)
        and _is_bare(block.attn.qkv, nn.Linear)
        and (not block.spec.widens_in_attention or _is_bare(block.proj, nn.Linear))
    )


def _mlp_is_unmodified(block: FastBlock) -> bool:
    layers = block.mlp
    return (
        is_unmodified(layers, Mlp)
        and is_unmodified(layers.act, nn.GELU)
        and layers.act.approximate == "none"
        and is_unmodified(layers.dropout, nn.Dropout)
        and not _drops(layers.dropout)
        and is_unmodified(block.drop_path, DropPath)
        and _is_bare_norm(block.norm2)
        and _is_bare(layers.fc1, nn.Linear)
        and _is_bare(layers.fc2, nn.Linear)
    )


def _drops(dropout: nn.Module) -> bool:
    """Return whether a layer used as a dropout may change its input."""
    return not isinstance(dropout, nn.Dropout) or (dropout.training and dropout.p > 0.0)


def _skip_fits(block: FastBlock) -> bool:
    kernel = kernel_of_stride(block.spec.stride_q)
    return (
        block.spec.dim_att % native.LANES == 0
        and max(kernel) <= native.MAX_KERNEL
        and math.prod(kernel) <= native.MAX_TAPS
    )


def is_unmodified(layer: Any, *classes: type) -> bool:
    """Return whether a call of this layer runs only the forward of one of these classes.

    Adapters, quantisation and parametrizations change the class or replace the layer; pruning and
    inspection tools register hooks; some tools replace ``forward`` itself.
    """
    return type(layer) in classes and not (
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or "forward" in layer.__dict__
    )


def _is_watched(layer: nn.Module) -> bool:
    """Return whether a hook, other than FSDP's, or a replaced forward may read the tokens."""
    hooks = (
        *layer._forward_hooks.values(),
        *layer._forward_pre_hooks.values(),
        *layer._backward_hooks.values(),
        *layer._backward_pre_hooks.values(),
    )
    return "forward" in layer.__dict__ or not all(map(_is_of_fsdp, hooks))


def _class_without_fsdp(layer: nn.Module) -> type:
    return next(one for one in type(layer).__mro__ if not _is_of_fsdp(one))


def _is_of_fsdp(one: Any) -> bool:
    return f"{getattr(one, '__module__', '')}.".startswith("torch.distributed.fsdp.")


def _is_bare(layer: Any, *classes: type) -> bool:
    """``is_unmodified``, and weight and bias are plain float32 parameters."""
    return is_unmodified(layer, *classes) and all(
        one is None or (type(one) in (nn.Parameter, Tensor) and one.dtype == torch.float32)
        for one in (layer.weight, layer.bias)
    )


def _is_bare_norm(norm: Any) -> bool:
    return bool(
        _is_bare(norm, nn.LayerNorm)
        and norm.weight is not None
        and norm.bias is not None
        and norm.eps == NORM_EPS
    )
