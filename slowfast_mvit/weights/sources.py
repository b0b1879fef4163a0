"""Whose weights can be read: for every origin, its names and what they are called here.

Our names are PySlowFast's. A key map is a tuple of pairs, (theirs, ours), read in either direction;
in both spellings

    ``#`` stands for a number    ``?`` for one of q, k, v    ``*`` for whatever is left

and the first pair that fits a name counts. A name that no pair fits stays as it is.

Where the maps come from: the state dicts of torchvision 0.29.1 (``mvit_v2_s``, ``mvit_v1_b``), timm
1.0.31 (``mvitv2_*``), pytorchvideo 0.1.5 (``mvit_base_*``), mmaction2 1.2.0 and mmpretrain 1.2.0
(``MViT``); detectron2's ``modeling/backbone/mvit.py``; PySlowFast's ``masked.py`` and
``contrastive.py``. ``tests/weights/test_weight_sources.py`` compares with those that are installed,
and with names written down in ``tests/reference/state_dicts``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

KeyMap = tuple[tuple[str, str], ...]
# (names, why): names as in a key map, and what the report says about them.
Reasons = tuple[tuple[str, str], ...]

_POOLING = "blocks.#.attn.pool_?.weight"


def as_they_are(names: Collection[str]) -> dict[str, str]:
    """Nothing has to be done before the key map is applied."""
    return {name: name for name in names}


def count_through_stages(names: Collection[str]) -> dict[str, str]:
    """``stages.S.blocks.B`` becomes ``blocks.N``: the blocks of all stages, counted through."""
    staged = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)")
    found = {name: staged.fullmatch(name) for name in names}
    places = {(int(place[1]), int(place[2])) for place in found.values() if place}
    numbers = {place: number for number, place in enumerate(sorted(places))}
    return {
        name: f"blocks.{numbers[int(place[1]), int(place[2])]}.{place[3]}" if place else name
        for name, place in found.items()
    }


def last_norm(names: Collection[str]) -> dict[str, str]:
    """``norm3`` of four stages becomes ``norm``: the one with the highest number."""
    numbered = re.compile(r"norm(\d+)\.(.+)")
    found = {name: numbered.fullmatch(name) for name in names}
    last = max((int(place[1]) for place in found.values() if place), default=-1)
    return {
        name: f"norm.{place[2]}" if place and int(place[1]) == last else name
        for name, place in found.items()
    }


@dataclass(frozen=True)
class Source:
    """One origin of weights.

    Attributes:
        title: what the origin is called in messages.
        signs: names that its files have, as in a key map, ``|`` between alternatives. The first, of
            the patch embedding, has no placeholder: what stands before it stands before every name
            of the network.
        key_map: the names of the network.
        outside: names beside the network, where something stands before the network's names.
        order: what has to be counted before the key map is applied, over all names.
        left_out: names in its files that no model of ours has, and why.
        differs: names in its files that show another network than ours, and in what.
        absent: names of ours that its files never have, and why.
    """

    title: str
    signs: tuple[str, ...]
    key_map: KeyMap = ()
    outside: KeyMap = ()
    order: Callable[[Collection[str]], dict[str, str]] = as_they_are
    left_out: Reasons = ()
    differs: Reasons = ()
    absent: Reasons = ()


TORCHVISION: KeyMap = (
    ("conv_proj.*", "patch_embed.proj.*"),
    ("pos_encoding.class_token", "cls_token"),
    ("pos_encoding.spatial_pos", "pos_embed_spatial"),
    ("pos_encoding.temporal_pos", "pos_embed_temporal"),
    ("pos_encoding.class_pos", "pos_embed_class"),
    ("blocks.#.attn.project.0.*", "blocks.#.attn.proj.*"),
    ("blocks.#.attn.pool_?.pool.weight", "blocks.#.attn.pool_?.weight"),
    ("blocks.#.attn.pool_?.norm_act.0.*", "blocks.#.attn.norm_?.*"),
    ("blocks.#.project.*", "blocks.#.proj.*"),
    ("blocks.#.mlp.0.*", "blocks.#.mlp.fc1.*"),
    ("blocks.#.mlp.3.*", "blocks.#.mlp.fc2.*"),
    ("head.1.*", "head.projection.*"),
    ("head.weight", "head.projection.weight"),  # of whoever put a linear layer in place of the head
    ("head.bias", "head.projection.bias"),
)

# After the blocks of all stages have been counted through.
TIMM: KeyMap = (
    ("blocks.#.shortcut_proj_attn.*", "blocks.#.proj.*"),
    ("blocks.#.shortcut_proj_mlp.*", "blocks.#.proj.*"),
    ("head.fc.*", "head.projection.*"),
)

_PYTORCHVIDEO: KeyMap = (
    ("patch_embed.patch_model.*", "patch_embed.proj.*"),
    ("cls_positional_encoding.*", "*"),
    ("norm_patch_embed.*", "norm_stem.*"),
    ("norm_embed.*", "norm.*"),
    ("head.proj.*", "head.projection.*"),
)

_MASKED = "only pre-training by masks has it"
_CONTRASTIVE = "only contrastive pre-training has it"
_DETECTOR = "the detector's, behind the backbone"

# The first whose signs a file shows counts.
SOURCES: dict[str, Source] = {
    "torchvision": Source(
        "torchvision's mvit_v2_s and mvit_v1_b",
        signs=("conv_proj.weight", "blocks.#.attn.pool_?.pool.weight"),
        key_map=TORCHVISION,
    ),
    "timm": Source(
        "timm's mvitv2_*",
        signs=("patch_embed.proj.weight", f"stages.#.{_POOLING}"),
        key_map=TIMM,
        order=count_through_stages,
    ),
    "pytorchvideo": Source(
        "pytorchvideo's mvit_base_*",
        signs=("patch_embed.patch_model.weight", _POOLING),
        key_map=_PYTORCHVIDEO,
    ),
    "mmaction2": Source(
        "MViT of mmaction2 and mmpretrain",
        signs=("patch_embed.projection.weight", _POOLING),
        key_map=(("patch_embed.projection.*", "patch_embed.proj.*"),),
        outside=(
            ("cls_head.fc_cls.*", "head.projection.*"),
            ("head.fc.*", "head.projection.*"),
        ),
        order=last_norm,
        left_out=(
            ("cls_token", "mmaction2 writes one for networks without a class token, too"),
            ("mask_token", _MASKED),
            ("neck.*", _MASKED),
            ("target_generator.*", _MASKED),
            ("roi_head.*", _DETECTOR),
        ),
        differs=(("norm#.*", "it normalises between the stages, too"),),
    ),
    "detectron2": Source(
        "detectron2's MViT backbones",
        signs=("patch_embed.proj.weight", _POOLING, "scale#_norm.weight"),
        left_out=(
            ("scale#_norm.*", "the norm of a feature map that goes to the detector"),
            ("backbone.*", "the feature pyramid, behind the backbone"),
            ("proposal_generator.*", _DETECTOR),
            ("roi_heads.*", _DETECTOR),
            ("pixel_mean", "the detector's input statistics"),
            ("pixel_std", "the detector's input statistics"),
        ),
        absent=(
            ("norm.*", "a detection backbone ends in a norm for each feature map"),
            ("cls_token", "a detection backbone has no class token"),
        ),
    ),
    "maskfeat": Source(
        "PySlowFast's pre-training by masks (MaskFeat)",
        signs=("patch_embed.proj.weight", _POOLING, "mask_token"),
        left_out=(
            ("mask_token", _MASKED),
            ("pred_head.*", _MASKED),
            ("hogs.*", _MASKED),
            ("dec_pos_embed_*", _MASKED),
            ("decoder_*", _MASKED),
        ),
        absent=(("norm.*", "pre-training by masks ends before the norm"),),
    ),
    "slowfast": Source(
        "PySlowFast, facebookresearch/mvit and this project",
        signs=("patch_embed.proj.weight", f"{_POOLING}|head.projection.weight"),
        left_out=(
            ("backbone_hist.*", _CONTRASTIVE),
            ("queue_*", _CONTRASTIVE),
            ("ptr", _CONTRASTIVE),
            ("iter", _CONTRASTIVE),
            ("knn_mem.*", _CONTRASTIVE),
            ("memory.*", _CONTRASTIVE),
            ("swav_prototypes.*", _CONTRASTIVE),
        ),
    ),
}

# In files of any origin.
LEFT_OUT: Reasons = (
    ("head.*", "part of a head that the model does not have"),
    ("n_averaged", "a count beside averaged weights"),
)

# What stands before the names of the network, where a file holds more than one network.
FIRST_CHOICES = ("", "backbone.")

# (regular expression found in a name, what network that is), the first that is found counts.
FOREIGN: tuple[tuple[str, str], ...] = (
    (r"rev_backbone\.", "PySlowFast's reversible MViT, which this project leaves out"),
    (r"relative_position_bias_table$", "a Swin transformer"),
    (r"^s\d\.pathway\d_", "a convolutional network of PySlowFast (SlowFast, I3D, X3D)"),
    (r"(^|\.)layer\d\.\d+\.conv\d\.", "a ResNet"),
    (r"encoder\.layers?\.(encoder_layer_)?\d+\.", "a transformer without pooling (ViT, VideoMAE)"),
    (
        r"blocks\.\d+\.attn\.(qkv|q)\.weight$",
        "a transformer without pooling convolutions (ViT, VideoMAE, Hiera, or an MViT that pools "
        "by maximum or mean)",
    ),
)
