"""Load weights into a model: choose an action for every parameter, then fill it, or raise.

    file -> state dict -> our names -> an action for each parameter   -> LoadReport -> the model
            files.py      names.py     parameter_actions.py, inflate.py  report.py

Nothing is copied before everything is decided, so a file that does not fit leaves the model as it
was.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slowfast_mvit.errors import ConfigError, WeightsError, pick
from slowfast_mvit.models.tables import THW
from slowfast_mvit.weights import inflate as sizes
from slowfast_mvit.weights.files import WeightsFile, read_weights
from slowfast_mvit.weights.names import strip_wrappers, to_ours, what_differs, why_left_out
from slowfast_mvit.weights.parameter_actions import (
    HEADS,
    Action,
    LoadContext,
    decide,
    why_of_no_image,
)
from slowfast_mvit.weights.renamed_state import without_wrappers
from slowfast_mvit.weights.report import LoadReport
from slowfast_mvit.weights.trained_grids import known_grid

log = logging.getLogger(__name__)


def load_weights(
    model: nn.Module,
    path_or_state: str | Path | Mapping[str, Any],
    *,
    inflate: str = "center",
    head: str = "auto",
    ema: bool = False,
    clear_name_patterns: Collection[str] = (),
    min_filled: float = 0.9,
) -> LoadReport:
    """Fill a model from weights of this project or of another (see ``sources.py``).

    Args:
        model: an ``MViT``, wrapped by DDP or torch.compile or not. Filled in place, or, when this
            raises, left as it was.
        path_or_state: a file, a folder with ``model.safetensors``, a state dict, or the content of
            a checkpoint (see ``files.py``).
        inflate: how an image's convolutions get a time axis: "center", "mean" or "repeat" (see
            ``inflate.py``). "center" also sets the temporal tables to zero; with the others they
            keep the model's own values.
        head: "auto" takes the file's head if it has as many classes, and leaves the model's new one
            otherwise; "keep" insists on the file's head (testing, predicting); "new" leaves it in
            the file (other classes of the same number).
        ema: take the moving average of the weights that a checkpoint holds, instead of the weights.
        clear_name_patterns: each is taken out of every name of the file where it first occurs
            (PySlowFast's TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN).
        min_filled: least share of the backbone's values, 0 to 1, that has to come from the file.

    Returns:
        What became of every parameter. It is logged too, as a warning if something did not fit.

    Raises:
        WeightsError: if the file cannot be read, is not of an MViT, holds no moving average where
            one is wanted, grows its channels elsewhere than the model does, or fills less than
            ``min_filled``.
        ConfigError: for an ``inflate`` or ``head`` that does not exist.
    """
    if head not in HEADS:
        raise ConfigError(f"head must be one of {', '.join(HEADS)}, got {head!r}")
    inflation = pick(sizes.INFLATIONS, inflate, "way to inflate")
    own = {strip_wrappers(name): value for name, value in model.state_dict().items()}
    file = read_weights(path_or_state, ema=ema)
    state, source = to_ours(without_wrappers(file, clear_name_patterns), file.path)
    _check_growth(state, own, file.path)

    from_image = _is_from_image(state, own)
    if from_image and "pos_embed_spatial" in own:
        state = _separate_positions(state)
    grid, num_frames = _trained_sizes(model)
    context = LoadContext(
        source=source,
        inflate=inflation,
        zero_time=inflate == "center",
        head=head,
        from_image=from_image,
        grid=grid,
        known_grid=known_grid(
            file, state, own, grid=grid, num_frames=num_frames, from_image=from_image
        ),
        prefix=(int("cls_token" in state), int("cls_token" in own)),
    )
    actions = {name: decide(name, state.get(name), own[name], context) for name in own}
    report = _account(file, source, state, own, actions)
    _check_filled(report, state, own, min_filled)
    if head == "keep":
        _check_head(report)
    _fill(model, actions)
    clean = not (report.missing or report.unexpected)
    log.log(logging.INFO if clean else logging.WARNING, report.table())
    log.debug("%s", report.full_table())
    return report


def _fill(model: nn.Module, actions: Mapping[str, Action]) -> None:
    values = model.state_dict()
    for name in values:
        filling = actions[strip_wrappers(name)].value
        if filling is not None:
            values[name] = filling
    model.load_state_dict(values)


def _is_from_image(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Return whether the weights are of an image model and the model is for video."""
    theirs, ours = (names["patch_embed.proj.weight"] for names in (state, own))
    return ours.ndim == 5 and (theirs.ndim == 4 or theirs.shape[2] == 1 < ours.shape[2])


def _separate_positions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An image's joint positions are positions in space, and one of the class token."""
    state = dict(state)
    positions = state.pop("pos_embed", None)
    if positions is not None:
        prefix = int("cls_token" in state)
        state["pos_embed_spatial"] = positions[:, prefix:]
        if prefix:
            state["pos_embed_class"] = positions[:, :1]
    return state


def _trained_sizes(model: Any) -> tuple[THW, int]:
    """The token grid of a model's first block, and the frames of the clips that it is for."""
    bare = getattr(model, "module", model)  # DDP hides what the model knows
    return bare.trained_thw, bare.input_size[0]


def _growth(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Return where the channels grow: "attention" and "the MLP" -> the blocks in which they do."""
    places: dict[str, list[int]] = {}
    for name, value in state.items():
        found = re.fullmatch(r"blocks\.(\d+)\.proj\.weight", name)
        qkv = state.get(f"blocks.{found[1]}.attn.qkv.weight") if found else None
        if found and qkv is not None:
            place = "attention" if len(qkv) == 3 * len(value) else "the MLP"
            places.setdefault(place, []).append(int(found[1]))
    return places


def _check_growth(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str) -> None:
    in_file, in_model = _growth(state), _growth(own)
    if in_file and in_model and not in_file.keys() & in_model.keys():
        texts = [
            " and ".join(
                f"in {place} (blocks {', '.join(map(str, blocks))})"
                for place, blocks in growth.items()
            )
            for growth in (in_file, in_model)
        ]
        raise WeightsError(
            f"{path}: its channels grow {texts[0]}, the model's {texts[1]}. These are different "
            "networks; nothing was loaded. Channels grow in the MLP in MViTv1, in MaskFeat's "
            "models and in the MViTv2-L of ImageNet-1K (mvitv2_large); they grow in attention in "
            "all other MViTv2, so the MViTv2-L of ImageNet-21K (mvitv2_large_cls) fits a video L"
        )


def _account(
    file: WeightsFile,
    source: str,
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    actions: Mapping[str, Action],
) -> LoadReport:
    groups: dict[str, list[str]] = {}
    details = {name: action.detail for name, action in actions.items() if action.detail}
    for name, action in actions.items():
        groups.setdefault(action.group, []).append(name)
    for name, value in state.items():
        if name not in actions:
            reason = why_left_out(source, name) or (
                why_of_no_image(name) if _is_from_image(own, state) else None
            )
            groups.setdefault("dropped" if reason else "unexpected", []).append(name)
            details[name] = reason or what_differs(source, name) or f"{tuple(value.shape)}"
        elif name.startswith("head.") and actions[name].group == "initialised":
            groups.setdefault("dropped", []).append(name)
    backbone = {name: value.numel() for name, value in own.items() if not name.startswith("head.")}
    from_file = sum(
        size
        for name, size in backbone.items()
        if actions[name].group in ("loaded", "resized", "inflated")
    )
    return LoadReport(
        path=file.path,
        source="ours" if file.is_ours else source,
        filled=from_file / sum(backbone.values()),
        epoch=file.epoch,
        details=details,
        **{group: tuple(names) for group, names in groups.items()},
    )


def _check_filled(
    report: LoadReport,
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    min_filled: float,
) -> None:
    if report.filled < min_filled:
        groups = "\n".join(report.table().splitlines()[1:])
        raise WeightsError(
            f"{report.path}: does not fit this model: it fills {100 * report.filled:.1f}% of the "
            f"backbone's values, and {100 * min_filled:g}% are wanted. Nothing was loaded.\n"
            f"  file: {_size(state)}; model: {_size(own)}\n"
            f"{groups}\n"
            "  Check that variant and file belong together, or pass a lower min_filled "
            "(TRAIN.CHECKPOINT_MIN_FILLED)"
        )


def _size(state: Mapping[str, Tensor]) -> str:
    numbers = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    return f"{len(numbers)} blocks, {len(state['patch_embed.proj.weight'])} channels in the first"


def _check_head(report: LoadReport) -> None:
    lacking = [name for name in report.missing if name.startswith("head.")]
    if lacking:
        raise WeightsError(
            f"{report.path}: its head does not fit: {lacking[0]}: {report.details[lacking[0]]}. "
            "Nothing was loaded. Build the model with as many classes (MODEL.NUM_CLASSES), or load "
            "with head='auto' to train a new head"
        )
