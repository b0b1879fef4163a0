"""Parameter names: what other projects call the parameters of this one.

Ours are PySlowFast's. Every other source has a row in ``SOURCES``: how to recognise its files by
the names in them, and what each name is called here. A key map is a tuple of pairs, (theirs, ours),
read in either direction; in both spellings

    ``#`` stands for a number    ``?`` for one of q, k, v    ``*`` for whatever is left

and the first pair that fits a name counts. A name that no pair fits stays as it is.

Where the maps come from: torchvision 0.29.1 (``mvit_v2_s``, ``mvit_v1_b``) and timm 1.0.31
(``mvitv2_*``, ``mvitv2_*_cls``), from the state dicts of those models.
``tests/weights/test_weight_names.py`` compares with the installed versions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from slowfast_mvit.errors import WeightsError

KeyMap = tuple[tuple[str, str], ...]

# Put around a module's name by torch.compile, activation checkpointing and FSDP, at any depth.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
# Put in front of every name by DistributedDataParallel and by training scripts around the model.
_FRONTS = ("module.", "model.")

_TORCHVISION: KeyMap = (
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
)

# After the blocks of all stages have been numbered through.
_TIMM: KeyMap = (
    ("blocks.#.shortcut_proj_attn.*", "blocks.#.proj.*"),
    ("blocks.#.shortcut_proj_mlp.*", "blocks.#.proj.*"),
    ("head.fc.*", "head.projection.*"),
)


@dataclass(frozen=True)
class SourceMap:
    """One origin of weights.

    Attributes:
        title: what the origin is called in messages.
        recognise: whether a state dict with these names comes from there.
        rename: their name -> our name, for all names of a state dict at once (the number of a
            block in a staged model depends on the other names).
    """

    title: str
    recognise: Callable[[Collection[str]], bool]
    rename: Callable[[Collection[str]], dict[str, str]]


def strip_wrappers(name: str) -> str:
    """A parameter's name without what compile, DDP, FSDP and checkpoint wrappers put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    while name.startswith(_FRONTS):
        name = name.partition(".")[2]
    return name


def to_ours(state: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], str]:
    """Give every parameter of a state dict our name and the leading ones of our shapes.

    Args:
        state: names as the file has them, without wrappers' prefixes.
        where: the file, for the message.

    Returns:
        The state dict in our names, and the source it was recognised as: a key of ``SOURCES``.

    Raises:
        WeightsError: if no source has such names, or two names become one.
    """
    for source, source_map in SOURCES.items():
        if source_map.recognise(state.keys()):
            names = source_map.rename(state.keys())
            check_unique(names, where)
            return fuse_qkv({names[key]: _shaped(names[key], state[key]) for key in state}), source
    known = "; ".join(source_map.title for source_map in SOURCES.values())
    raise WeightsError(
        f"{where}: these are not the weights of an MViT. The first of its {len(state)} names are "
        f"{', '.join(list(state)[:3]) or '(none)'}. Known: {known}"
    )


def to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict as torchvision's ``mvit_v2_s`` or ``mvit_v1_b`` loads it, strictly.

    Args:
        state: a model's state dict, in our names.

    Returns:
        The same tensors under torchvision's names; tokens and positions lose their leading ones.
    """
    backwards = tuple((theirs, ours) for ours, theirs in _TORCHVISION)
    translated = {}
    for name, value in state.items():
        if name in ("cls_token", "pos_embed_class"):
            value = value.flatten()  # (1, 1, C) -> (C,)
        elif name in ("pos_embed_spatial", "pos_embed_temporal"):
            value = value.squeeze(0)  # (1, N, C) -> (N, C)
        translated[translate(name, backwards)] = value
    return translated


def translate(name: str, key_map: KeyMap) -> str:
    """One name through a key map, from the left spelling to the right one."""
    for theirs, ours in key_map:
        found = re.fullmatch(_as_pattern(theirs), name)
        if found:
            parts = iter(found.groups())
            return re.sub(r"[#?*]", lambda _: next(parts), ours)  # noqa: B023 - used at once
    return name


def check_unique(names: Mapping[str, str], where: str) -> None:
    """Raise a ``WeightsError`` if two names of a file stand for one parameter."""
    twice = [ours for ours, count in Counter(names.values()).items() if count > 1]
    if twice:
        both = " and ".join(name for name, ours in names.items() if ours == twice[0])
        raise WeightsError(
            f"{where}: {len(twice)} parameters are there twice, the first as {both}. "
            "Save the state dict of one model only"
        )


def fuse_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the separate ``attn.q``, ``attn.k`` and ``attn.v`` of a block, where it has them.

    Our blocks have one ``attn.qkv`` whose rows are those of q, then k, then v.
    """
    fused: dict[str, Tensor] = {}
    for name, value in state.items():
        found = re.fullmatch(r"(blocks\.\d+\.attn\.)([qkv])(\.weight|\.bias)", name)
        if not found:
            fused[name] = value
            continue
        front, letter, kind = found.groups()
        parts = [state.get(f"{front}{part}{kind}") for part in "qkv"]
        if any(part is None for part in parts):
            fused[name] = value  # reported as unexpected
        elif letter == "q":
            fused[f"{front}qkv{kind}"] = torch.cat([part for part in parts if part is not None])
    return fused


def _as_pattern(spelling: str) -> str:
    escaped = re.escape(spelling)
    for letter, pattern in ((r"\#", r"(\d+)"), (r"\?", "([qkv])"), (r"\*", "(.+)")):
        escaped = escaped.replace(letter, pattern)
    return escaped


def _shaped(name: str, value: Tensor) -> Tensor:
    """Tokens and positions are (1, N, C) here; torchvision leaves the ones away."""
    if name == "cls_token" or name.startswith("pos_embed"):
        return value.reshape(1, -1, value.shape[-1])
    return value


def _rename_slowfast(names: Collection[str]) -> dict[str, str]:
    return {name: name for name in names}


def _rename_torchvision(names: Collection[str]) -> dict[str, str]:
    return {name: translate(name, _TORCHVISION) for name in names}


def _rename_timm(names: Collection[str]) -> dict[str, str]:
    """``stages.S.blocks.B`` becomes ``blocks.N``: the blocks of all stages, counted through."""
    staged = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)")
    places = {(int(m[1]), int(m[2])) for m in map(staged.fullmatch, names) if m}
    numbers = {place: number for number, place in enumerate(sorted(places))}

    def rename(name: str) -> str:
        found = staged.fullmatch(name)
        if found:
            name = f"blocks.{numbers[int(found[1]), int(found[2])]}.{found[3]}"
        return translate(name, _TIMM)

    return {name: rename(name) for name in names}


def _has(*wanted: str) -> Callable[[Collection[str]], bool]:
    """A test for state dicts that hold all of these names."""
    return lambda names: all(name in names for name in wanted)


SOURCES: dict[str, SourceMap] = {
    "slowfast": SourceMap(
        "PySlowFast, facebookresearch/mvit and this project",
        _has("patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.proj.weight"),
        _rename_slowfast,
    ),
    "torchvision": SourceMap(
        "torchvision's mvit_v2_s and mvit_v1_b",
        _has("conv_proj.weight", "pos_encoding.class_token", "blocks.0.attn.project.0.weight"),
        _rename_torchvision,
    ),
    "timm": SourceMap(
        "timm's mvitv2_*",
        _has("patch_embed.proj.weight", "stages.0.blocks.0.attn.proj.weight"),
        _rename_timm,
    ),
}
