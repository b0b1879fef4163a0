"""State dicts of other libraries under this project's names.

Written out here, apart from ``slowfast_mvit.weights``, so that the models and the key maps are not
tested with one another's mistakes.
"""

from __future__ import annotations

import re
from itertools import accumulate

import torch
from torch import Tensor

TORCHVISION = [
    (r"^conv_proj", "patch_embed.proj"),
    (r"^pos_encoding\.class_token", "cls_token"),
    (r"^pos_encoding\.spatial_pos", "pos_embed_spatial"),
    (r"^pos_encoding\.temporal_pos", "pos_embed_temporal"),
    (r"^pos_encoding\.class_pos", "pos_embed_class"),
    (r"\.pool_([qkv])\.norm_act\.0", r".norm_\1"),
    (r"\.pool_([qkv])\.pool", r".pool_\1"),
    (r"\.attn\.project\.0", ".attn.proj"),
    (r"\.project\.", ".proj."),
    (r"\.mlp\.0", ".mlp.fc1"),
    (r"\.mlp\.3", ".mlp.fc2"),
    (r"^head\.1", "head.projection"),
]
PYTORCHVIDEO = [
    (r"^patch_embed\.patch_model", "patch_embed.proj"),
    (r"^cls_positional_encoding\.", ""),
    (r"^norm_embed", "norm"),
    (r"^head\.proj", "head.projection"),
]
TIMM = [
    (r"\.shortcut_proj_(attn|mlp)", ".proj"),
    (r"^head\.fc", "head.projection"),
]


def renamed(state: dict[str, Tensor], rules: list[tuple[str, str]]) -> dict[str, Tensor]:
    result = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[name] = value
    return result


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Also its gradients: class token and absolute positions have other shapes there."""
    state = renamed(state, TORCHVISION)
    return {
        name: value.view(1, -1, value.shape[-1])
        if name.startswith(("cls_token", "pos_embed"))
        else value
        for name, value in state.items()
    }


def from_pytorchvideo(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """It has three linear layers where this project has ``qkv``."""
    result = {}
    for name, value in renamed(state, PYTORCHVIDEO).items():
        if re.search(r"attn\.[kv]\.(weight|bias)$", name):
            continue
        if ".attn.q." in name:
            parts = [state[name.replace(".q.", f".{part}.")] for part in "qkv"]
            name, value = name.replace(".q.", ".qkv."), torch.cat(parts)
        result[name] = value
    return result


def from_timm(state: dict[str, Tensor], stages: tuple[int, ...]) -> dict[str, Tensor]:
    """It counts blocks within stages, and its pooling filters have no time axis."""
    first_blocks = [0, *accumulate(stages)]
    result = {}
    for name, value in renamed(state, TIMM).items():
        found = re.match(r"stages\.(\d+)\.blocks\.(\d+)\.(.*)", name)
        if found:
            stage, block, rest = found.groups()
            name = f"blocks.{first_blocks[int(stage)] + int(block)}.{rest}"
        result[name] = value.unsqueeze(2) if re.search(r"\.pool_[qkv]\.weight$", name) else value
    return result
