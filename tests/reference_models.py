"""Models, weights and inputs of the golden files, made by the rules written in those files.

``tests/reference/mvit_small_models.json`` and ``full_models_fp32.json`` hold what PySlowFast itself
computed with these weights and inputs.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.models import MViT

REFERENCE = Path(__file__).resolve().parent / "reference"
SMALL_MODELS = json.loads((REFERENCE / "mvit_small_models.json").read_text())
FULL_MODELS = json.loads((REFERENCE / "full_models_fp32.json").read_text())

# PySlowFast's defaults of the keys that a golden case may set and the base does not.
DEFAULTS = {
    "MVIT.PATCH_2D": False,
    "MVIT.MLP_RATIO": 4.0,
    "MVIT.QKV_BIAS": True,
    "MVIT.SEP_POS_EMBED": False,
    "MVIT.USE_MEAN_POOLING": False,
    "MVIT.NORM_STEM": False,
    "MVIT.POOL_KV_STRIDE": [],
}


def from_keys(keys: dict[str, Any], *, attention: str) -> MViT:
    """The model that PySlowFast builds from these keys."""
    keys = {**DEFAULTS, **keys}
    crop = keys["DATA.TRAIN_CROP_SIZE"]
    abs_pos = "separate" if keys["MVIT.SEP_POS_EMBED"] else "joint"
    return mvit_from_lists(
        input_size=(keys["DATA.NUM_FRAMES"], crop, crop),
        num_classes=keys["MODEL.NUM_CLASSES"],
        patch_kernel=keys["MVIT.PATCH_KERNEL"],
        patch_stride=keys["MVIT.PATCH_STRIDE"],
        patch_padding=keys["MVIT.PATCH_PADDING"],
        embed_dim=keys["MVIT.EMBED_DIM"],
        num_heads=keys["MVIT.NUM_HEADS"],
        depth=keys["MVIT.DEPTH"],
        mlp_ratio=keys["MVIT.MLP_RATIO"],
        qkv_bias=keys["MVIT.QKV_BIAS"],
        dim_mul=keys["MVIT.DIM_MUL"],
        head_mul=keys["MVIT.HEAD_MUL"],
        dim_mul_in_att=keys["MVIT.DIM_MUL_IN_ATT"],
        pool_q_stride=keys["MVIT.POOL_Q_STRIDE"],
        pool_kv_stride=keys["MVIT.POOL_KV_STRIDE"],
        pool_kv_stride_adaptive=keys["MVIT.POOL_KV_STRIDE_ADAPTIVE"],
        pool_kvq_kernel=keys["MVIT.POOL_KVQ_KERNEL"],
        cls_token=keys["MVIT.CLS_EMBED_ON"],
        abs_pos=abs_pos if keys["MVIT.USE_ABS_POS"] else None,
        rel_pos_spatial=keys["MVIT.REL_POS_SPATIAL"],
        rel_pos_temporal=keys["MVIT.REL_POS_TEMPORAL"],
        residual_pooling=keys["MVIT.RESIDUAL_POOLING"],
        mean_pooling=keys["MVIT.USE_MEAN_POOLING"],
        norm_stem=keys["MVIT.NORM_STEM"],
        attention=attention,
    )


@torch.no_grad()
def fill(model: MViT) -> MViT:
    """Give each parameter the values that the golden files' ``fill_rule`` derives from its name."""
    for name, parameter in model.state_dict().items():
        phase = zlib.crc32(name.encode()) % 1000 / 1000 * 2 * math.pi
        wave = torch.sin(0.37 * torch.arange(parameter.numel(), dtype=torch.float64) + phase)
        parameter.copy_(scaled(wave.view_as(parameter), name))
    return model


def scaled(wave: Tensor, name: str) -> Tensor:
    """A parameter of this name from a wave of its shape."""
    if ".norm" in name or name.startswith("norm"):
        return 1 + 0.1 * wave if name.endswith("weight") else 0.05 * wave
    if name.endswith("bias"):
        return 0.05 * wave
    if any(part in name for part in ("rel_pos", "pos_embed", "cls_token")):
        return 0.2 * wave
    return wave * 1.5 / math.sqrt(wave.numel() / wave.shape[0])


def clip(*shape: int) -> Tensor:
    """The input that the golden files' ``input_rule`` describes, float64."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(0.013 * i) + 0.5 * torch.cos(0.00071 * i)).view(shape)
