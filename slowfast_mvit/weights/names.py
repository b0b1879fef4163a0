"""Parameter names: what other projects call the parameters of this one.

Ours are PySlowFast's. ``sources.py`` has the tables, a key map for every origin; here they are
applied:

    names of a file -> whose they are, and what stands before all of them -> our names
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cache

import torch
from torch import Tensor

from slowfast_mvit.errors import WeightsError
from slowfast_mvit.weights.sources import (
    FIRST_CHOICES,
    FOREIGN,
    LEFT_OUT,
    SOURCES,
    TORCHVISION,
    KeyMap,
    Reasons,
    Source,
)

# Put around a module's name by torch.compile, activation checkpointing and FSDP, at any depth.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
# Put in front of every name by DistributedDataParallel and by training scripts around the model.
_FRONTS = ("module.", "model.")


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
        Names that are of no network of ours stay; ``why_left_out`` may know them.

    Raises:
        WeightsError: if no source has such names, several networks are in the file, or two names
            become one.
    """
    source, front = recognise(state.keys(), where)
    names = rename(state.keys(), SOURCES[source], front)
    check_unique(names, where)
    return fuse_qkv({names[key]: _shaped(names[key], state[key]) for key in state}), source


def recognise(names: Collection[str], where: str) -> tuple[str, str]:
    """Whose names these are.

    Args:
        names: names as the file has them, without wrappers' prefixes.
        where: the file, for the message.

    Returns:
        A key of ``SOURCES``, and what stands before every name of the network, often "".

    Raises:
        WeightsError: if no source has such names, or several networks are in the file.
    """
    for source, described in SOURCES.items():
        fronts = _fronts(names, described)
        chosen = [front for front in FIRST_CHOICES if front in fronts] or fronts
        if chosen[1:] and chosen[0] not in FIRST_CHOICES:
            raise WeightsError(
                f"{where}: {len(fronts)} networks are in it, with names that begin with "
                f"{', '.join(map(repr, fronts))}. Say which: give that beginning as a pattern to "
                "clear from the names (clear_name_patterns, TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN)"
            )
        if chosen:
            return source, chosen[0]
    raise _unknown(names, where)


def rename(names: Collection[str], source: Source, front: str = "") -> dict[str, str]:
    """Their names -> our names, for all names of a state dict at once.

    Args:
        names: the number of a block in a staged model depends on the other names.
        source: whose they are.
        front: what stands before every name of the network.
    """
    bare = {name: name[len(front) :] for name in names if name.startswith(front)}
    ordered = source.order(list(bare.values()))
    return {
        name: translate(ordered[bare[name]], source.key_map + source.outside)
        if name in bare
        else translate(name, source.outside)
        for name in names
    }


def why_left_out(source: str, name: str) -> str | None:
    """Return why a name of a file is in no model of ours, or None if there is no good reason.

    Args:
        source: a key of ``SOURCES``.
        name: as ``to_ours`` returned it.
    """
    return _reason(name, SOURCES[source].left_out + LEFT_OUT)


def what_differs(source: str, name: str) -> str | None:
    """In what a network with a parameter of this name differs from ours, or None if unknown."""
    return _reason(name, SOURCES[source].differs)


def why_absent(source: str, name: str) -> str | None:
    """Return why files of this source never have this parameter, or None if they should."""
    return _reason(name, SOURCES[source].absent)


def to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict as torchvision's ``mvit_v2_s`` or ``mvit_v1_b`` loads it, strictly.

    Args:
        state: a model's state dict, in our names.

    Returns:
        The same tensors under torchvision's names; tokens and positions lose their leading ones.
    """
    backwards = tuple((theirs, ours) for ours, theirs in TORCHVISION)
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
        found = _as_pattern(theirs).fullmatch(name)
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


@cache
def _as_pattern(spelling: str) -> re.Pattern[str]:
    escaped = re.escape(spelling)
    for letter, pattern in ((r"\#", r"(\d+)"), (r"\?", "([qkv])"), (r"\*", "(.+)")):
        escaped = escaped.replace(letter, pattern)
    return re.compile(escaped)


def _fronts(names: Collection[str], source: Source) -> list[str]:
    """Return the prefixes of the names of each network of this source; empty if there are none."""
    first, *others = source.signs
    return [
        name.removesuffix(first)
        for name in names
        if f".{name}".endswith(f".{first}")
        and all(_shows(names, sign, name.removesuffix(first)) for sign in others)
    ]


def _shows(names: Collection[str], sign: str, front: str = "") -> bool:
    """Return whether there is a name like ``sign`` behind ``front``."""
    patterns = [_as_pattern(alternative) for alternative in sign.split("|")]
    return any(
        pattern.fullmatch(name, len(front))
        for name in names
        if name.startswith(front)
        for pattern in patterns
    )


def _unknown(names: Collection[str], where: str) -> WeightsError:
    """The error for names of no source: what they look like, and what comes nearest."""
    like = next((what for sign, what in FOREIGN if any(re.search(sign, n) for n in names)), None)
    near = [
        f"{source.title} (here there is no {', '.join(map(_example, lacking))})"
        for source, lacking in _nearest(names)
    ]
    known = "; ".join(source.title for source in SOURCES.values())
    return WeightsError(
        f"{where}: these are not the weights of an MViT"
        + (f", but of {like}" if like else "")
        + f". The first of its {len(names)} names are {', '.join(list(names)[:3]) or '(none)'}. "
        + (f"Nearest: {'; '.join(near)}" if near else f"Known: {known}")
    )


def _nearest(names: Collection[str]) -> list[tuple[Source, list[str]]]:
    """The sources of which a file shows some signs but not all, each with those that it lacks."""
    lacking = {
        source: [
            sign
            for sign in described.signs
            if not any(_as_pattern(_first(sign)).search(name) for name in names)
        ]
        for source, described in SOURCES.items()
    }
    shown = {source: len(SOURCES[source].signs) - len(signs) for source, signs in lacking.items()}
    best = min((len(lacking[source]), -shown[source]) for source in SOURCES)
    return [
        (SOURCES[source], signs)
        for source, signs in lacking.items()
        if shown[source] and (len(signs), -shown[source]) == best
    ]


def _first(sign: str) -> str:
    return sign.partition("|")[0]


def _example(sign: str) -> str:
    """A name that fits a sign."""
    return _first(sign).replace("#", "0").replace("?", "q")


def _reason(name: str, reasons: Reasons) -> str | None:
    return next((why for names, why in reasons if _as_pattern(names).fullmatch(name)), None)


def _shaped(name: str, value: Tensor) -> Tensor:
    """Tokens and positions are (1, N, C) here; torchvision leaves the ones away."""
    if name == "cls_token" or name.startswith("pos_embed"):
        return value.reshape(1, -1, value.shape[-1])
    return value
