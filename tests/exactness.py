"""The rule of all tests of exactness, whatever the processor computes with.

PyTorch's own error depends on the instructions of the CPU. Fast forms are therefore never held to
a constant, nor to PyTorch's result, but to the error that PyTorch's plain operations have on the
same machine, both measured against float64.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor


def _attends_in_bfloat16() -> bool:
    q = torch.zeros(1, 1, 64, 32, dtype=torch.bfloat16)
    try:
        F.scaled_dot_product_attention(q, q, q)
    except RuntimeError:  # "pack_vnni2 is only supported when avx512 is supported"
        return False
    return True


needs_bfloat16_attention = pytest.mark.skipif(
    not _attends_in_bfloat16(),
    reason="PyTorch's bfloat16 attention fails where ATEN_CPU_CAPABILITY leaves out AVX-512",
)


def allowed(plain_error: float | Tensor) -> float | Tensor:
    """Return the largest error allowed where PyTorch's plain result has ``plain_error``."""
    return 4 * plain_error + 1e-7


def largest_error(actual: Tensor, exact: Tensor) -> float:
    """Return the largest error as a share of the largest value: what is 0 in theory is noise."""
    error = (actual.double() - exact.double()).abs().max() / exact.abs().max().clamp(min=1e-12)
    return error.item()


def assert_exact(
    actual: Iterable[Tensor], plain: Iterable[Tensor], exact: Iterable[Tensor]
) -> None:
    """Check tensors against those of PyTorch's plain operations and those of float64."""
    for number, (one, other, truth) in enumerate(zip(actual, plain, exact, strict=True)):
        error, plain_error = largest_error(one, truth), largest_error(other, truth)
        assert error <= allowed(plain_error), (
            f"tensor {number}: {error:.2e} of the largest value, PyTorch {plain_error:.2e}"
        )
