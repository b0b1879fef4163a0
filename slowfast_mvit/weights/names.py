"""Parameter names: the source of a file's names, and their translation to ours.

Ours are PySlowFast's. ``sources.py`` has the tables, a key map for every source; here they are
applied:

    names of a file -> their source and common prefix -> our names
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cache

import torch
from torch import Tensor

from slowfast_mvit.errors import WeightsError, in_one_message
from slowfast_mvit.weights.files import WeightsFile
from slowfast_mvit.weights.sources import (
    DIFFERS,
    FIRST_CHOICES,
    FOREIGN,
    LEFT_OUT,
    SOURCES,
    TORCHVISION,
    KeyMap,
    Reasons,
    Source,
)

# Added to a module's name by torch.compile, activation checkpointing and FSDP, at any depth.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
# Prefixes of every name, of DistributedDataParallel and of training scripts around the model.
_PREFIXES = ("module.", "model.")
# Parameters whose sizes are read before they are compared with a model -> numbers of axes.
_AXES = (
    (re.compile(r"patch_embed\.proj\.weight|blocks\.\d+\.attn\.pool_[qkv]\.weight"), (4, 5)),
    (re.compile(r"blocks\.\d+\.attn\.rel_pos_[thw]|head\.projection\.weight"), (2,)),
    (re.compile(r"head\.projection\.bias"), (1,)),
    (re.compile(r"cls_token|pos_embed(_spatial|_temporal|_class)?"), (1, 2, 3)),
)
# Left out of a model only if it has no such parameter, and no model is known when converting.
_OF_MODELS = ("head.projection.", "cls_token")


def strip_wrappers(name: str) -> str:
    """Return a parameter's name without the parts that compile, DDP, FSDP and others added."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def without_wrappers(
    file: WeightsFile, clear_name_patterns: Collection[str] = ()
) -> dict[str, Tensor]:
    """Return the state dict of a file without the parts of names that wrappers added.

    Args:
        file: from ``read_weights``.
        clear_name_patterns: each is removed from every name where it first occurs.

    Raises:
        WeightsError: if two names become one.
    """
    names = {}
    for name in file.state:
        cleared = name
        for pattern in clear_name_patterns:
            cleared = cleared.replace(pattern, "", 1)
        names[name] = strip_wrappers(cleared)
    check_unique(names, file.path)
    return {names[name]: value for name, value in file.state.items()}


def state_in_our_names(file: WeightsFile) -> tuple[dict[str, Tensor], str, tuple[str, ...]]:
    """Return the parameters of a file that a model for recognition may have.

    Returns:
        The state dict in our names; the source, a key of ``SOURCES``; and the names that were left
        out: parts of a detector, of pre-training by masks and the like.

    Raises:
        WeightsError: if these are not the weights of an MViT.
    """
    state, source = to_ours(without_wrappers(file), file.path)
    left_out = tuple(
        name for name in state if not name.startswith(_OF_MODELS) and left_out_reason(source, name)
    )
    return {name: value for name, value in state.items() if name not in left_out}, source, left_out


def to_ours(state: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], str]:
    """Give every parameter of a state dict our name and the leading ones of our shapes.

    Args:
        state: names of the file, without wrappers' prefixes.
        where: the file, for the message.

    Returns:
        The state dict in our names, and its source: a key of ``SOURCES``. Names that are in no
        network of ours stay; see ``left_out_reason``.

    Raises:
        WeightsError: if no source has such names, several networks are in the file, or two names
            become one.
    """
    source, prefix = identify_source(state.keys(), where)
    names = rename(state.keys(), SOURCES[source], prefix)
    check_unique(names, where)
    _check_axes({names[key]: value for key, value in state.items()}, where)
    ours = {names[key]: _shaped(names[key], state[key]) for key in state}
    _check_order_of_pooling(ours, where)
    return fuse_qkv(ours), source


def identify_source(names: Collection[str], where: str) -> tuple[str, str]:
    """Identify the source of names.

    Args:
        names: of the file, without wrappers' prefixes.
        where: the file, for the message.

    Returns:
        A key of ``SOURCES``, and the prefix of every name of the network, often "".

    Raises:
        WeightsError: if no source has such names, or several networks are in the file.
    """
    for name, source in SOURCES.items():
        prefixes = _prefixes(names, source)
        chosen = [prefix for prefix in FIRST_CHOICES if prefix in prefixes] or prefixes
        if chosen[1:] and chosen[0] not in FIRST_CHOICES:
            raise WeightsError(
                f"{where}: contains {len(prefixes)} networks, with names that begin with "
                f"{', '.join(map(repr, prefixes))}. Choose one: give that beginning as a pattern "
                "to clear from the names (clear_name_patterns, "
                "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN)"
            )
        if chosen:
            return name, chosen[0]
    raise _unknown(names, where)


def rename(names: Collection[str], source: Source, prefix: str = "") -> dict[str, str]:
    """Map all names of a state dict to ours.

    Args:
        names: all of them, as the number of a block in a staged model depends on the others.
        source: of the names.
        prefix: of every name of the network.
    """
    bare = {name: name[len(prefix) :] for name in names if name.startswith(prefix)}
    ordered = source.order(list(bare.values()))
    return {
        name: translate(ordered[bare[name]], source.key_map + source.outside)
        if name in bare
        else translate(name, source.outside)
        for name in names
    }


def left_out_reason(source: str, name: str) -> str | None:
    """Return the reason why a name of a file, in ours, is in no model of ours; None if unknown."""
    return _reason(name, SOURCES[source].left_out | LEFT_OUT)


def difference(source: str, name: str) -> str | None:
    """Return the difference from ours of a network with this parameter, or None if unknown."""
    return _reason(name, SOURCES[source].differs | DIFFERS)


def absence_reason(source: str, name: str) -> str | None:
    """Return the reason why files of this source never have a parameter; None if they should."""
    return _reason(name, SOURCES[source].absent)


def to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our state dict as torchvision's ``mvit_v2_s`` or ``mvit_v1_b`` loads it, strictly.

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
    """Translate a name by a key map, from the left spelling to the right one."""
    for theirs, ours in key_map:
        match = _as_pattern(theirs).fullmatch(name)
        if match:
            parts = iter(match.groups())
            return re.sub(r"[#?*]", lambda _: next(parts), ours)  # noqa: B023 - used at once
    return name


def check_unique(names: Mapping[str, str], where: str) -> None:
    """Raise a ``WeightsError`` if two names of a file are those of one parameter."""
    duplicates = [ours for ours, count in Counter(names.values()).items() if count > 1]
    if duplicates:
        both = " and ".join(name for name, ours in names.items() if ours == duplicates[0])
        raise WeightsError(
            f"{where}: {len(duplicates)} parameters are there twice, the first as {both}. "
            "Save the state dict of one model only"
        )


def fuse_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the separate ``attn.q``, ``attn.k`` and ``attn.v`` of a block, where it has them.

    Our blocks have one ``attn.qkv`` whose rows are those of q, then k, then v. Where only q and v
    have a bias (BEiT: ``attn.q_bias`` and ``attn.v_bias``), that of k is 0.
    """
    state = {re.sub(r"(\.attn\.[qkv])_bias$", r"\1.bias", name): one for name, one in state.items()}
    for name in [name for name in state if name.endswith(".attn.q.bias")]:
        prefix = name.removesuffix("q.bias")
        if f"{prefix}v.bias" in state and f"{prefix}qkv.bias" not in state:
            state.setdefault(f"{prefix}k.bias", torch.zeros_like(state[name]))
    fused: dict[str, Tensor] = {}
    for name, value in state.items():
        match = re.fullmatch(r"(blocks\.\d+\.attn\.)([qkv])(\.weight|\.bias)", name)
        parts = [state.get(f"{match[1]}{letter}{match[3]}") for letter in "qkv"] if match else []
        present = [part for part in parts if part is not None]
        kinds = {(part.shape[1:], part.dtype) for part in present}
        # A set that is not whole is reported as unexpected.
        if not match or len(present) < 3 or len(kinds) > 1 or not value.ndim:
            fused[name] = value
        elif match[2] == "q":
            fused[f"{match[1]}qkv{match[3]}"] = torch.cat(present)
    return fused


@cache
def _as_pattern(spelling: str) -> re.Pattern[str]:
    escaped = re.escape(spelling)
    for letter, pattern in ((r"\#", r"(\d+)"), (r"\?", "([qkv])"), (r"\*", "(.+)")):
        escaped = escaped.replace(letter, pattern)
    return re.compile(escaped)


def _prefixes(names: Collection[str], source: Source) -> list[str]:
    """Return the prefixes of the names of each network of this source; empty if there are none."""
    first, *others = source.signs
    prefixes = [name.removesuffix(first) for name in names if f".{name}".endswith(f".{first}")]
    return [prefix for prefix in prefixes if all(_has_sign(names, sign, prefix) for sign in others)]


def _has_sign(names: Collection[str], sign: str, prefix: str) -> bool:
    """Return whether there is a name like ``sign`` after ``prefix``."""
    patterns = [_as_pattern(alternative) for alternative in sign.split("|")]
    return any(
        pattern.fullmatch(name, len(prefix))
        for name in names
        if name.startswith(prefix)
        for pattern in patterns
    )


def _unknown(names: Collection[str], where: str) -> WeightsError:
    """Return the error for names of no source, with a similar network and the nearest sources."""
    like = next((what for sign, what in FOREIGN if any(re.search(sign, n) for n in names)), None)
    near = [
        f"{source.title} (here there is no {', '.join(map(_example, missing))})"
        for source, missing in _nearest(names)
    ]
    known = "; ".join(source.title for source in SOURCES.values())
    return WeightsError(
        f"{where}: these are not the weights of an MViT"
        + (f", but of {like}" if like else "")
        + f". The first of its {len(names)} names are {', '.join(list(names)[:3]) or '(none)'}. "
        + (f"Nearest: {'; '.join(near)}" if near else f"Known: {known}")
    )


def _nearest(names: Collection[str]) -> list[tuple[Source, list[str]]]:
    """Return the sources of which a file has the most signs but not all, with the missing signs."""
    missing = {
        key: [
            sign
            for sign in source.signs
            if not any(map(_as_pattern(sign.partition("|")[0]).search, names))
        ]
        for key, source in SOURCES.items()
    }
    ranks = {
        key: (len(signs), len(signs) - len(SOURCES[key].signs)) for key, signs in missing.items()
    }
    best = min(ranks.values())
    return [(SOURCES[key], missing[key]) for key in SOURCES if ranks[key] == best and best[1]]


def _example(sign: str) -> str:
    """Return a name that matches a sign."""
    return sign.partition("|")[0].replace("#", "0").replace("?", "q")


def _reason(name: str, reasons: Reasons) -> str | None:
    for reason, patterns in reasons.items():
        if any(_as_pattern(pattern).fullmatch(name) for pattern in patterns.split()):
            return reason
    return None


def _check_axes(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors of another number of axes than their parameter has, and empty ones."""
    problems = [
        f"{name}: {tuple(value.shape)}; expected {' or '.join(map(str, allowed))} axes, not empty"
        for name, value in state.items()
        for pattern, allowed in _AXES
        if pattern.fullmatch(name) and (value.ndim not in allowed or not value.numel())
    ]
    if problems:
        raise WeightsError(in_one_message(f"{where}: damaged", problems, limit=5))


def _check_order_of_pooling(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse attention that pools before it projects (MVIT.POOL_FIRST), as that of MeMViT does.

    Its names are those of separate projections. Where tokens get wider, its kernels are narrower
    than a head.
    """
    for name, table in state.items():
        match = re.fullmatch(r"(blocks\.\d+\.attn\.)rel_pos_[thw]", name)
        kernel = state.get(f"{match[1]}pool_k.weight") if match else None
        narrower = match and f"{match[1]}k.weight" in state and kernel is not None
        if narrower and len(kernel) != table.shape[1]:  # type: ignore[arg-type]
            raise WeightsError(
                f"{where}: its attention pools before it projects (MVIT.POOL_FIRST, as in MeMViT), "
                "which no model here does: with these weights it would compute something else"
            )


def _shaped(name: str, value: Tensor) -> Tensor:
    """Give tokens and positions the shape (1, N, C); torchvision omits the ones."""
    if name == "cls_token" or name.startswith("pos_embed"):
        return value.reshape(1, -1, value.shape[-1])
    return value
