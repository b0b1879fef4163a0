"""Backbones, weights and images of ``tests/reference/detection_small.json``, by its rules.

The file holds what detectron2 itself computed with these weights and images.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from typing import Any

import torch
from reference_models import REFERENCE, scaled
from torch import Tensor, nn

from slowfast_mvit.fast import build_mvit
from slowfast_mvit.models import Backbone
from slowfast_mvit.models.variants import Size, detection_specs

DETECTION = json.loads((REFERENCE / "detection_small.json").read_text())
CONFIGS = json.loads((REFERENCE / "detection_configs_and_state_dicts.json").read_text())
STAGES = ["scale2", "scale3", "scale4", "scale5"]


def backbone_of(keys: dict[str, Any], *, attention: str = "plain") -> Backbone:
    """The backbone that detectron2's MViT is with these arguments."""
    ends = [-1, *keys["last_block_indexes"]]
    stages = tuple(end - start for start, end in itertools.pairwise(ends))
    patch, side, pretrained = (
        keys["patch_stride"][0],
        keys["img_size"],
        keys["pretrain_img_size"],
    )
    model = build_mvit(
        detection_specs(
            Size(stages, keys["embed_dim"], keys["num_heads"]),
            input_thw=(1, side // patch, side // patch),
            window=keys["adaptive_window_size"],
            first_stride_kv=(1, keys["adaptive_kv_stride"], keys["adaptive_kv_stride"]),
            drop_path=keys["drop_path_rate"],
            rel_pos_spatial=keys["use_rel_pos"],
            residual_pooling=keys["residual_pooling"],
        ),
        attention=attention,
        model_class=Backbone,
        input_size=(1, side, side),
        patch_kernel=keys["patch_kernel"],
        patch_stride=keys["patch_stride"],
        patch_padding=keys["patch_padding"],
        out_indices=[STAGES.index(name) for name in keys["out_features"]],
        pos_embed_grid=(pretrained // patch,) * 2 if keys["use_abs_pos"] else None,
        pos_embed_cls=keys["pretrain_use_cls_token"],
    )
    assert isinstance(model, Backbone)
    return model


def filled(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """A state dict with the values that ``fill_rule`` derives from names, float64."""
    state = {}
    for name, shape in shapes.items():
        phase = zlib.crc32(name.encode()) % 1000 / 1000 * 2 * math.pi
        wave = torch.sin(0.37 * torch.arange(math.prod(shape), dtype=torch.float64) + phase)
        value = wave.view(shape)
        if "scale" in name and name.endswith(("_norm.weight", "_norm.bias")):
            state[name] = 1 + 0.1 * value if name.endswith("weight") else 0.05 * value
        else:
            state[name] = scaled(value, name)
    return state


def probe_loss(outputs: dict[str, Tensor]) -> Tensor:
    """The loss of ``probe_rule``."""
    loss = torch.zeros((), dtype=torch.float64)
    for out in outputs.values():
        wave = torch.cos(0.11 * torch.arange(out.numel(), dtype=torch.float64))
        loss = loss + (out.flatten() * wave).sum() / math.sqrt(out.numel())
    return loss


def assert_summary(out: Tensor, expected: dict[str, Any]) -> None:
    """Compare a map with its summary, to 1e-9."""
    assert list(out.shape) == expected["shape"]
    actual = out.flatten()[expected["index"]]
    value = torch.tensor(expected["value"], dtype=torch.float64)
    torch.testing.assert_close(actual, value, rtol=1e-9, atol=1e-9)
    sums = torch.stack([out.sum(), out.abs().sum(), out.square().sum()])
    wanted = torch.tensor([expected[k] for k in ("sum", "abs_sum", "sq_sum")], dtype=out.dtype)
    torch.testing.assert_close(sums, wanted, rtol=1e-9, atol=1e-9 * expected["abs_sum"])


def grad_norms_differ(model: nn.Module, expected: dict[str, float]) -> list[str]:
    """The parameters whose gradients have another norm, to 1e-9; or are on one side only."""
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    return [
        name
        for name in norms.keys() | expected.keys()
        if name not in norms
        or name not in expected
        or abs(norms[name] - expected[name]) > 1e-9 * max(1, expected[name])
    ]
