"""The sources of weights that can be read: the names of each and their key map to ours.

Our names are PySlowFast's. A key map is a tuple of pairs, (source's, ours), read in either
direction; in both spellings

    ``#`` is a number    ``?`` is one of q, k, v    ``*`` is the rest of the name

and the first matching pair counts. A name without a matching pair stays unchanged.

Where the maps come from: the state dicts of torchvision 0.29.1 (``mvit_v2_s``, ``mvit_v1_b``), timm
1.0.31 (``mvitv2_*``), pytorchvideo 0.1.5 (``mvit_base_*``), mmaction2 1.2.0 and mmpretrain 1.2.0
(``MViT``); detectron2's ``modeling/backbone/mvit.py``; PySlowFast's ``masked.py`` and
``contrastive.py``. ``tests/weights/test_weight_sources.py`` compares with those that are installed,
and with the names in ``tests/reference/state_dicts``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

KeyMap = tuple[tuple[str, str], ...]
# Reason in the report -> names as in a key map, separated by blanks.
Reasons = dict[str, str]

_POOLING = "blocks.#.attn.pool_?.weight"


def as_they_are(names: Collection[str]) -> dict[str, str]:
    """Return the names unchanged."""
    return {name: name for name in names}


def count_through_stages(names: Collection[str]) -> dict[str, str]:
    """Rename ``stages.S.blocks.B`` to ``blocks.N``, numbered over all stages."""
    staged = re.compile(r"stages\.([0-9]{1,6})\.blocks\.([0-9]{1,6})\.(.+)")
    matches = {name: staged.fullmatch(name) for name in names}
    blocks = sorted({(int(match[1]), int(match[2])) for match in matches.values() if match})
    return {
        name: f"blocks.{blocks.index((int(match[1]), int(match[2])))}.{match[3]}" if match else name
        for name, match in matches.items()
    }


def last_norm(names: Collection[str]) -> dict[str, str]:
    """Rename the ``norm3`` of four stages, the one with the highest number, to ``norm``."""
    matches = {name: re.fullmatch(r"norm([0-9]{1,6})\.(.+)", name) for name in names}
    last = max((int(match[1]) for match in matches.values() if match), default=-1)
    return {
        name: f"norm.{match[2]}" if match and int(match[1]) == last else name
        for name, match in matches.items()
    }


@dataclass(frozen=True)
class Source:
    """A source of weights: a library, or a kind of pre-training.

    Attributes:
        title: its name in messages.
        signs: names that its files have, as in a key map, ``|`` between alternatives. The first, of
            the patch embedding, has no placeholder: its prefix is that of every name of the
            network.
        key_map: the names of the network.
        outside: names outside the network, without its prefix.
        order: renaming that depends on all names, before the key map is applied.
        left_out: names in its files that no model of ours has, by reason.
        differs: names in its files that show a network that differs from ours, by difference.
        absent: names of ours that its files never have, by reason.
    """

    title: str
    signs: tuple[str, ...]
    key_map: KeyMap = ()
    outside: KeyMap = ()
    order: Callable[[Collection[str]], dict[str, str]] = as_they_are
    left_out: Reasons = field(default_factory=dict)
    differs: Reasons = field(default_factory=dict)
    absent: Reasons = field(default_factory=dict)


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
    ("head.weight", "head.projection.weight"),  # where a linear layer replaced the head
    ("head.bias", "head.projection.bias"),
)

# After ``count_through_stages``.
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
_DETECTOR = "the detector's, after the backbone"

# The first source with all its signs in a file counts.
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
        left_out={
            "mmaction2 writes one for networks without a class token, too": "cls_token",
            _MASKED: "mask_token neck.* target_generator.*",
            _DETECTOR: "roi_head.*",
        },
        differs={"it normalises between the stages, too": "norm#.*"},
    ),
    "detectron2": Source(
        "detectron2's MViT backbones",
        signs=("patch_embed.proj.weight", _POOLING, "scale#_norm.weight"),
        left_out={
            "the norm of a feature map for the detector": "scale#_norm.*",
            "the feature pyramid, after the backbone": "backbone.*",
            _DETECTOR: "proposal_generator.* roi_heads.*",
            "the detector's input statistics": "pixel_mean pixel_std",
        },
        absent={
            "a detection backbone ends in a norm for each feature map": "norm.*",
            "a detection backbone has no class token": "cls_token",
        },
    ),
    "maskfeat": Source(
        "PySlowFast's pre-training by masks (MaskFeat)",
        signs=("patch_embed.proj.weight", _POOLING, "mask_token"),
        left_out={_MASKED: "mask_token pred_head.* hogs.* dec_pos_embed_* decoder_*"},
        absent={"pre-training by masks ends before the norm": "norm.*"},
    ),
    "slowfast": Source(
        "PySlowFast, facebookresearch/mvit and this project",
        signs=("patch_embed.proj.weight", f"{_POOLING}|head.projection.weight"),
        left_out={
            "only contrastive pre-training has it": "backbone_hist.* queue_* ptr iter knn_mem.* "
            "memory.* swav_prototypes.*",
        },
    ),
}

# In files of any source.
LEFT_OUT: Reasons = {
    "part of a head that the model does not have": "head.*",
    "the number of updates of averaged weights": "n_averaged",
    "the number of updates of averaged weights, by mmengine": "steps",
}

# Names in files of any source that show a network that differs from ours, by difference.
DIFFERS: Reasons = {
    "an adapter (LoRA): merge it first, with peft by merge_and_unload()": "*.lora_A.* *.lora_B.* "
    "*.base_layer.*",
    "a parametrization: first call torch.nn.utils.parametrize.remove_parametrizations": "*."
    "parametrizations.*",
    "pruned: first call torch.nn.utils.prune.remove": "*_orig *_mask",
}

# Prefixes of the network to load, where a file contains more than one network.
FIRST_CHOICES = ("", "backbone.")

# (regular expression, network with such a name); the first match counts.
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
