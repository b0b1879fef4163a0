"""Attention with relative positions on CUDA: fold, one fused attention kernel, unfold.

PyTorch has three fused kernels, and which is fastest depends on the size, the card and the
versions. The first call with a new size times them and logs the times. While a graph is
compiled or captured nothing can be timed, and where results must repeat bit for bit between runs
the choice must not depend on a clock: then the order of ``BACKENDS`` decides.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from slowfast_mvit.fast.cuda.available import why_no_triton
from slowfast_mvit.fast.cuda.folding import MAX_WIDTH, fold_queries, unfold_output
from slowfast_mvit.models.tables import THW, one_hot_keys, resample_table

logger = logging.getLogger(__name__)

BACKENDS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
)
_IN_ORDER = [*BACKENDS, SDPBackend.MATH]  # the last one has every score in memory
_WITH_ONE_WIDTH = SDPBackend.FLASH_ATTENTION  # values as wide as queries and keys
_TIMED_SAMPLES = 4  # at most; enough to fill a card, few enough to fit next to a training step
_TIMED_CALLS = 5


def folded_attention_fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    tables: Sequence[Tensor | None],
    q_thw: THW,
    k_thw: THW,
    num_prefix_tokens: int,
    residual: Tensor | None,
    num_without_residual: int,
) -> Tensor:
    """softmax(scale * q k^T + offsets) v + residual, the offsets computed on the way in.

    Args:
        q: pooled, unscaled queries, (B, Lq, N, D).
        k: (B, Lk, N, D).
        v: (B, Lk, N, D).
        scale: factor of the products of q and k.
        tables: for time, height and width: (rows, D), or None for an axis without offsets.
        q_thw: the grid of the queries.
        k_thw: the grid of the keys.
        num_prefix_tokens: leading queries and keys that get no offset.
        residual: added to the result, (B, Lq, N, D), or None; in MViTv2 the queries.
        num_without_residual: leading tokens to which it is not added.

    Returns:
        (B, Lq, N, D), of the dtype that autocast asks for, or else that of ``q``.
    """
    if torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    axes = _axes(tables)
    folded_q, folded_k = q, k
    if axes:
        rows = [
            resample_table(table, 2 * max(q_thw[axis], k_thw[axis]) - 1)
            for axis, table in enumerate(tables)
            if table is not None
        ]
        head_dim = q.shape[3]
        width = folded_width(head_dim, tables, k_thw)
        folded_q = fold_queries(
            q, torch.cat(rows), axes, q_thw, k_thw, scale, num_prefix_tokens, width
        )
        places = one_hot_keys(
            k_thw, tuple(axes), num_prefix_tokens=num_prefix_tokens, width=width - head_dim, like=k
        )
        folded_k = torch.cat([k, places[:, None].expand(k.shape[0], -1, k.shape[2], -1)], dim=3)
    attended = _attend(folded_q, folded_k, v, scale)
    if residual is None:
        return attended[..., : q.shape[3]]
    out: Tensor = unfold_output(attended, residual.to(attended.dtype), num_without_residual)
    return out


def folded_width(head_dim: int, tables: Sequence[Tensor | None], k_thw: THW) -> int:
    """Channels of a query with its offsets, a multiple of 8 as fused kernels prefer."""
    return -(-(head_dim + sum(k_thw[axis] for axis in _axes(tables))) // 8) * 8


def why_no_attention(width: int, dtype: torch.dtype, device: str) -> str | None:
    """Return the reason why ``folded_attention_fused`` does not support this width, or None."""
    if width > MAX_WIDTH:
        return f"a row has {width} channels, and the kernels hold {MAX_WIDTH}"
    return why_no_triton(device, dtype)


def _axes(tables: Sequence[Tensor | None]) -> list[int]:
    return [axis for axis, table in enumerate(tables) if table is not None]


class Sizes(NamedTuple):
    """Properties that the fastest attention kernel may depend on.

    Attributes:
        q: (B, Lq, N, width).
        k: (B, Lk, N, width).
        value_width: of v; never more than that of k.
        dtype: of all three.
        device: a CUDA device.
        training: whether a backward pass will follow.
    """

    q: tuple[int, ...]
    k: tuple[int, ...]
    value_width: int
    dtype: torch.dtype
    device: torch.device
    training: bool


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attention over tokens without transposing them first; (B, Lq, N, width of v or of q)."""
    if not q.is_cuda:
        return _scaled_dot_product(q, k, v, scale)
    untimed = torch.compiler.is_compiling() or torch.are_deterministic_algorithms_enabled()
    if untimed or torch.cuda.is_current_stream_capturing():
        return _attend_with(_IN_ORDER, q, k, v, scale)
    training = torch.is_grad_enabled() and q.requires_grad
    batch = min(q.shape[0], _TIMED_SAMPLES)
    sizes = Sizes(
        (batch, *q.shape[1:]), (batch, *k.shape[1:]), v.shape[3], q.dtype, q.device, training
    )
    backend = fastest_backend(sizes)
    return _attend_with(_IN_ORDER if backend is None else [backend], q, k, v, scale)


@functools.lru_cache(maxsize=1024)
def fastest_backend(sizes: Sizes) -> SDPBackend | None:
    """The kernel that took least time, measured once for each size; None if none of them works.

    It is measured in a separate thread: there neither autocast nor the modes of activation
    checkpointing and of operation counters are on.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        times_ms = thread.submit(times_ms_of_backends, sizes).result()
    times = ", ".join(f"{backend.name} {ms:.3f} ms" for backend, ms in times_ms.items())
    logger.info("attention of %s with %s in %s: %s", sizes.q, sizes.k, sizes.dtype, times or "none")
    return min(times_ms, key=times_ms.__getitem__, default=None)


def times_ms_of_backends(sizes: Sizes) -> dict[SDPBackend, float]:
    """Milliseconds of each kernel that supports these sizes, with its backward pass in training."""
    generator = torch.Generator(sizes.device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(
            shape,
            generator=generator,
            dtype=sizes.dtype,
            device=sizes.device,
            requires_grad=sizes.training,
        )

    q, k = random(*sizes.q), random(*sizes.k)
    v = random(*sizes.k[:3], sizes.value_width)
    times_ms = {}
    with torch.cuda.device(sizes.device):
        for backend in BACKENDS:
            try:
                times_ms[backend] = _median_ms(functools.partial(_once, backend, q, k, v))
            except RuntimeError as problem:  # not for these sizes, this card or this PyTorch
                logger.debug("%s cannot attend %s: %s", backend.name, sizes, problem)
    return times_ms


def _once(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> None:
    with warnings.catch_warnings():  # of kernels that do not take these sizes
        warnings.simplefilter("ignore", UserWarning)
        out = _attend_with([backend], q, k, v, 1.0)
    if q.requires_grad:
        torch.autograd.grad(out, (q, k, v), torch.ones_like(out))


def _median_ms(work: Callable[[], None]) -> float:
    work()  # loads the kernel
    times_ms: list[float] = []
    for _ in range(_TIMED_CALLS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times_ms.append(start.elapsed_time(end))
    return sorted(times_ms)[_TIMED_CALLS // 2]


def _attend_with(
    backends: list[SDPBackend], q: Tensor, k: Tensor, v: Tensor, scale: float
) -> Tensor:
    """Attention by the first of these kernels that supports the sizes."""
    if _WITH_ONE_WIDTH in backends:
        v = F.pad(v, (0, k.shape[3] - v.shape[3]))
    with sdpa_kernel(backends, set_priority=True):
        return _scaled_dot_product(q, k, v, scale)


def _scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    q, k, v = (tokens.transpose(1, 2) for tokens in (q, k, v))  # (B, N, L, width)
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)
