"""Frozen parameters, groups with equal weight decay and rate, and the optimizer over them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from slowfast_mvit.errors import ConfigError, in_one_message, nearest, pick

HAVE_FUSED_STEPS = {"cuda", "cpu"}  # kinds of devices

NamedParameters = Iterable[tuple[str, nn.Parameter]]


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Take the parameters whose names match a pattern out of training, in place.

    Args:
        model: not wrapped, so that its names are plain.
        patterns: of whole names, as in the shell: "patch_embed.*", "blocks.[0-3].*".

    Returns:
        The names of the frozen parameters, in the model's order.

    Raises:
        ConfigError: a pattern matches no parameter, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    problems = [
        f"{pattern!r} matches no parameter.{_did_you_mean(pattern, parameters)}"
        for pattern in patterns
        if not any(fnmatch.fnmatchcase(name, pattern) for name in parameters)
    ]
    if problems:
        raise ConfigError(in_one_message("TRAIN.FREEZE", problems))
    frozen = [
        name for name in parameters if any(fnmatch.fnmatchcase(name, each) for each in patterns)
    ]
    if len(frozen) == len(parameters):
        raise ConfigError(
            f"TRAIN.FREEZE: {', '.join(patterns)} match all {len(frozen)} parameters, so there is "
            "nothing to train"
        )
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def _did_you_mean(pattern: str, names: Iterable[str]) -> str:
    """The name or the part of the model spelled most like the pattern, as a hint."""
    parts = [name.split(".") for name in names]
    wholes = {".".join([*part[:end], "*"]) for part in parts for end in range(1, len(part))}
    guess = nearest(pattern, sorted({".".join(part) for part in parts} | wholes))
    return f" Did you mean {guess!r}?" if guess else ""


def parameter_groups(
    named_parameters: NamedParameters,
    *,
    weight_decay: float,
    zero_wd_1d: bool,
    no_decay_names: Collection[str] = (),
    layer_decay: float = 1.0,
    depth: int = 0,
) -> list[dict[str, Any]]:
    """Split the parameters into groups as PySlowFast does, so that its optimizer states fit.

    Without layer decay there are two groups, ``[decay, no decay]``; with it, two for each layer, in
    the order in which the model names them. Frozen parameters are left out, empty groups too.

    Args:
        named_parameters: ``model.named_parameters()``, in the model's order.
        weight_decay: of the parameters that are decayed.
        zero_wd_1d: biases and every other 1-D parameter are not decayed.
        no_decay_names: parameters not decayed: every one whose name *contains* one of these; with
            layer decay every one whose *whole* name is one of these.
        layer_decay: the learning rate shrinks by this factor with each layer further from the head;
            1 leaves all equal.
        depth: number of blocks; read only with layer decay.

    Returns:
        Groups for a torch optimizer. ``layer_decay`` in each is the factor on its learning rate;
        ``apply_LARS`` is a key that PySlowFast looks for.

    Source: PySlowFast's two rules differ in how names are matched, and so they do here.
    """
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"SOLVER.LAYER_DECAY must be above 0 and at most 1, got {layer_decay}")
    by_layer = layer_decay < 1
    matches = _is_whole_name if by_layer else _is_part_of_name

    members: dict[tuple[int, bool], list[nn.Parameter]] = {}
    if not by_layer:
        members = {(0, True): [], (0, False): []}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        spared = zero_wd_1d and (parameter.ndim == 1 or name.endswith(".bias"))
        decayed = not (spared or matches(name, no_decay_names))
        layer = layer_of(name, depth) if by_layer else 0
        members.setdefault((layer, decayed), []).append(parameter)

    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decayed else 0.0,
            "layer_decay": layer_decay ** (depth + 1 - layer) if by_layer else 1.0,
            "apply_LARS": False,
        }
        for (layer, decayed), parameters in members.items()
        if parameters
    ]


def layer_of(name: str, depth: int) -> int:
    """The layer of a parameter: 0 for the embeddings, i + 1 for block i, depth + 1 for the rest."""
    if name in ("cls_token", "mask_token") or name.startswith(("pos_embed", "patch_embed")):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return depth + 1


def build_optimizer(
    groups: list[dict[str, Any]],
    *,
    method: str,
    lr: float,
    momentum: float = 0.9,
    dampening: float = 0.0,
    nesterov: bool = True,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Optimizer:
    """The optimizer over ``parameter_groups``; each group brings its own weight decay.

    A step is one kernel ("fused"). On a GPU it also skips a step by itself whose gradients are not
    finite, where the host has to wait for any other until the GPU knows. On a CPU it reads and
    writes each number once: over S, 29 ms of one core for AdamW where torch's default needs 132,
    18 for SGD where that needs 84. It rounds the last bits of Adam differently, those of SGD not.
    SGD with dampening or over slices of weights (FSDP) uses torch's default.

    Args:
        groups: from ``parameter_groups``.
        method: a name in ``OPTIMIZERS``.
        lr: learning rate until ``schedule.set_lr`` sets the first one.
        momentum, dampening, nesterov: of SGD.
        betas: of Adam and AdamW; their epsilon is 1e-8.

    Raises:
        ConfigError: an unknown method, or numbers that torch's optimizer refuses.
    """
    build = pick(OPTIMIZERS, method, "optimizer (SOLVER.OPTIMIZING_METHOD)")
    sgd_only = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
    devices = {p.device.type for group in groups for p in group["params"]}
    fused = devices <= HAVE_FUSED_STEPS or None
    try:
        return build(groups, lr=lr, fused=fused, betas=betas, **sgd_only)
    except ValueError as error:
        raise ConfigError(f"SOLVER: {method} cannot be built with these values: {error}") from error


def _sgd(
    groups: list[dict[str, Any]],
    *,
    fused: bool | None,
    momentum: float,
    dampening: float,
    betas: Any,
    **options: Any,
) -> Optimizer:
    """SGD whose momentum starts at zero, not with the first gradient, where a step is one kernel.

    Without dampening that is the same. Torch's own fused step starts from uninitialised
    memory for the first momentum, and keeps it if this step is skipped (torch 2.14).
    """
    is_sliced = any(isinstance(p, DTensor) for group in groups for p in group["params"])
    fused = None if dampening or is_sliced else fused
    optimizer = SGD(groups, fused=fused, momentum=momentum, dampening=dampening, **options)
    if fused and momentum:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.detach())
    return optimizer


def _adam(
    groups: list[dict[str, Any]], *, lr: float, fused: bool | None, betas: Any, **sgd_only: Any
) -> Optimizer:
    return Adam(groups, lr=lr, betas=betas, eps=1e-8, fused=fused)


def _adamw(
    groups: list[dict[str, Any]], *, lr: float, fused: bool | None, betas: Any, **sgd_only: Any
) -> Optimizer:
    return AdamW(groups, lr=lr, betas=betas, eps=1e-8, fused=fused)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adamw": _adamw, "adam": _adam, "sgd": _sgd}


def _is_part_of_name(name: str, words: Collection[str]) -> bool:
    return any(word in name for word in words)


def _is_whole_name(name: str, words: Collection[str]) -> bool:
    return name in words
