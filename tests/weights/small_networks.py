"""Small networks, names written down in files, and state dicts renamed, for tests of weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.models import MViT

REFERENCE = Path(__file__).resolve().parents[1] / "reference" / "state_dicts"

Network = TypeVar("Network", bound=nn.Module)

# Three blocks, widths 16 and 32.
LISTS = {
    "depth": 3,
    "embed_dim": 16,
    "dim_mul": [[1, 2.0]],
    "head_mul": [[1, 2.0]],
    "pool_q_stride": [[1, 1, 2, 2]],
    "pool_kv_stride_adaptive": [1, 4, 4],
}
IMAGE = {
    "input_size": (1, 64, 64),
    "patch_kernel": (7, 7),
    "patch_stride": (4, 4),
    "patch_padding": (3, 3),
    "pool_kvq_kernel": (1, 3, 3),
}
# What makes an MViTv1 of an MViTv2.
V1 = {"dim_mul_in_att": False, "residual_pooling": False, "rel_pos_spatial": False}


def small(**changes: Any) -> MViT:
    """A network for video."""
    options = {"input_size": (4, 64, 64), "num_classes": 5, "pool_kvq_kernel": (3, 3, 3), **LISTS}
    return mvit_from_lists(**(options | changes)).double().eval()


def image(**changes: Any) -> MViT:
    """The same for images, with a time axis of one in its pooling kernels, as PySlowFast has it."""
    return small(**(IMAGE | {"cls_token": False, "rel_pos_temporal": False} | changes))


def scrambled(model: Network) -> Network:
    """The model with values everywhere, so that no two parameters may be taken for each other."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter) + 0.1)
    return model


def assert_equal_states(one: nn.Module, other: nn.Module) -> None:
    theirs = other.state_dict()
    assert [k for k, value in one.state_dict().items() if not torch.equal(value, theirs[k])] == []


def named(state: Mapping[str, Tensor], *rules: tuple[str, str]) -> dict[str, Tensor]:
    """Names replaced by regular expressions, written apart from the key maps."""
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def names_and_shapes(path: str) -> dict[str, tuple[int, ...]]:
    """A state dict as a file of ``tests/reference/state_dicts`` has it."""
    content = json.loads((REFERENCE / path).read_text())
    return {name: tuple(shape) for name, shape in content.items()}


def on_meta(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A state dict of these shapes, without values."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
