"""Load weights into a model: choose an action for every parameter, then fill it, or raise.

    file -> state dict -> our names -> an action for each parameter   -> LoadReport -> the model
            files.py      names.py     parameter_actions.py, inflate.py  report.py

Nothing is copied before all actions are chosen, so a file that does not fit leaves the model
unchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slowfast_mvit.errors import ConfigError, WeightsError, in_one_message, pick
from slowfast_mvit.weights.architecture import (
    growth_of,
    known_grid,
    misfits,
    published_state,
)
from slowfast_mvit.weights.files import WeightsFile, quantised_error, read_weights
from slowfast_mvit.weights.inflate import INFLATIONS
from slowfast_mvit.weights.names import (
    difference,
    left_out_reason,
    strip_wrappers,
    to_ours,
    without_wrappers,
)
from slowfast_mvit.weights.parameter_actions import HEADS, OF_TIME, Action, LoadContext, decide
from slowfast_mvit.weights.report import LoadReport

log = logging.getLogger(__name__)


def load_weights(
    model: nn.Module,
    path_or_state: str | Path | Mapping[str, Any] | WeightsFile,
    *,
    inflate: str = "center",
    head: str = "auto",
    ema: bool = False,
    clear_name_patterns: Collection[str] = (),
    min_filled: float = 0.9,
) -> LoadReport:
    """Fill a model from weights of this project or of another (see ``sources.py``).

    Args:
        model: an ``MViT``, wrapped by DDP or torch.compile or not. Filled in place, or unchanged
            after an exception.
        path_or_state: a file, a folder with ``model.safetensors``, the name or address of one, a
            state dict, the content of a checkpoint, or the result of ``read_weights``.
        inflate: inflation of an image's convolutions over time: "center", "mean" or "repeat" (see
            ``inflate.py``). "center" also sets the temporal tables to zero; with the others they
            keep the model's values.
        head: "auto" loads the file's head if it has as many classes, and keeps the model's new one
            otherwise; "keep" requires the file's head (testing, predicting); "new" ignores it
            (other classes of the same number).
        ema: load the moving average of the weights in a checkpoint, instead of the weights.
        clear_name_patterns: each is removed from every name of the file where it first occurs
            (PySlowFast's TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN).
        min_filled: least share of the backbone's values, 0 to 1, that has to be from the file.

    Returns:
        The action of every parameter. It is logged too, as a warning if something did not fit.

    Raises:
        WeightsError: if the file cannot be read, is not of an MViT, has no moving average where
            one is requested, has channels that grow in other places than the model's, or fills
            less than ``min_filled``; or if the model is no MViT, is sharded, or has no values.
        ConfigError: for an ``inflate`` or ``head`` that does not exist.
    """
    if head not in HEADS:
        raise ConfigError(f"head must be one of {', '.join(HEADS)}, got {head!r}")
    inflation = pick(INFLATIONS, inflate, "way to inflate")
    bare: Any = getattr(model, "module", model)  # DDP does not pass its attributes on
    model_state = {strip_wrappers(name): value for name, value in model.state_dict().items()}
    _check_model(bare, model_state)
    file = read_weights(path_or_state, ema=ema)
    _check_quantised(file)
    state, source = to_ours(without_wrappers(file, clear_name_patterns), file.path)
    _check_published(file, state)
    _check_growth(state, model_state, file.path)

    from_image = _is_from_image(state, model_state)
    if from_image and "pos_embed_spatial" in model_state:
        state = _separate_positions(state)
    context = LoadContext(
        source=source,
        inflate=inflation,
        zero_time=inflate == "center",
        head=head,
        from_image=from_image,
        grid=bare.trained_thw,
        known_grid=known_grid(
            state,
            model_state,
            grid=bare.trained_thw,
            num_frames=bare.input_size[0],
            trained_frames=file.trained_frames(),
            from_image=from_image,
        ),
        prefix=(int("cls_token" in state), int("cls_token" in model_state)),
    )
    actions = {n: decide(n, state.get(n), value, context) for n, value in model_state.items()}
    report = _report(file, source, state, model_state, actions)
    _check_filled(report, f"file: {_size(state)}; model: {_size(model_state)}", min_filled)
    if head == "keep":
        _check_complete(report)
    values = model.state_dict()
    new = {name: actions[strip_wrappers(name)].value for name in values}
    _check_values(file.path, values, new, is_error=head == "keep")
    model.load_state_dict(values | {n: value for n, value in new.items() if value is not None})
    clean = not (report.missing or report.unexpected)
    log.log(logging.INFO if clean else logging.WARNING, report.table())
    log.debug("%s", report.full_table())
    return report


def _check_model(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    if not hasattr(model, "trained_thw"):
        raise WeightsError(
            f"weights are loaded into an MViT, got a {type(model).__name__}. Pass the MViT in it"
        )
    sharded = [name for name, value in state.items() if hasattr(value, "device_mesh")]
    if sharded:
        raise WeightsError(
            f"the model is sharded ({sharded[0]} is a {type(state[sharded[0]]).__name__}). Load "
            "the weights before fully_shard() or distribute_tensor(), on every rank; or load them "
            "into a whole model and pass its state dict to torch.distributed.checkpoint."
            "state_dict.set_model_state_dict with StateDictOptions(full_state_dict=True)"
        )


def _check_quantised(file: WeightsFile) -> None:
    whole = {n: v.numel() for n, v in file.state.items() if v.dtype in (torch.int8, torch.uint8)}
    if 2 * sum(whole.values()) > sum(value.numel() for value in file.state.values()):
        first = next(iter(whole))
        raise quantised_error(file.path, f"{first} is {file.state[first].dtype}")


def _check_published(file: WeightsFile, state: Mapping[str, Tensor]) -> None:
    """Refuse a file that has the name of published weights, and other parameters."""
    if file.published is None:
        return
    expected = published_state(file.published)
    problems = misfits({n: value for n, value in state.items() if n in expected}, expected)
    if problems:
        headline = f"{file.path}: has the name of published weights, and other parameters"
        raise WeightsError(
            in_one_message(headline, problems, limit=5) + "\nIf it is a file of yours, rename it; "
            f"else fetch it again from {file.published.url}"
        )


def _is_from_image(state: Mapping[str, Tensor], model_state: Mapping[str, Tensor]) -> bool:
    """Return whether the weights are of an image model and the model is for video."""
    theirs, ours = (names["patch_embed.proj.weight"] for names in (state, model_state))
    return ours.ndim == 5 and (theirs.ndim == 4 or theirs.shape[2] == 1 < ours.shape[2])


def _separate_positions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split an image's joint positions into those in space and that of the class token."""
    state = dict(state)
    positions = state.pop("pos_embed", None)
    if positions is not None:
        prefix = int("cls_token" in state)
        state["pos_embed_spatial"] = positions[:, prefix:]
        if prefix:
            state["pos_embed_class"] = positions[:, :1]
    return state


def _check_growth(
    state: Mapping[str, Tensor], model_state: Mapping[str, Tensor], path: str
) -> None:
    in_file, in_model = growth_of(state), growth_of(model_state)
    if in_file and in_model and not set(in_file.values()) & set(in_model.values()):
        raise WeightsError(
            f"{path}: its channels grow {_growth_text(in_file)}, the model's "
            f"{_growth_text(in_model)}. These are different "
            "networks; nothing was loaded. Channels grow in the MLP in MViTv1, in MaskFeat's "
            "models and in the MViTv2-L of ImageNet-1K (mvitv2_large); they grow in attention in "
            "all other MViTv2, so the MViTv2-L of ImageNet-21K (mvitv2_large_cls) fits a video L"
        )


def _growth_text(growth: Mapping[int, str]) -> str:
    texts = []
    for place, text in (("attention", "in attention"), ("MLP", "in the MLP")):
        blocks = [str(block) for block, other in growth.items() if other == place]
        if blocks:
            texts.append(f"{text} (blocks {', '.join(blocks)})")
    return " and ".join(texts)


def _report(
    file: WeightsFile,
    source: str,
    state: Mapping[str, Tensor],
    model_state: Mapping[str, Tensor],
    actions: Mapping[str, Action],
) -> LoadReport:
    groups: dict[str, list[str]] = {}
    details = {name: action.detail for name, action in actions.items() if action.detail}
    for name, action in actions.items():
        groups.setdefault(action.group, []).append(name)
    for_image = _is_from_image(model_state, state)
    for name, value in state.items():
        if name not in actions:
            reason = left_out_reason(source, name)
            if reason is None and for_image and OF_TIME.fullmatch(name):
                reason = "an image has no time"
            groups.setdefault("dropped" if reason else "unexpected", []).append(name)
            details[name] = reason or difference(source, name) or f"{tuple(value.shape)}"
        elif name.startswith("head.") and actions[name].group == "initialised":
            groups.setdefault("dropped", []).append(name)
    backbone = {n: value.numel() for n, value in model_state.items() if not n.startswith("head.")}
    from_file = ("loaded", "resized", "inflated")
    filled = sum(size for name, size in backbone.items() if actions[name].group in from_file)
    return LoadReport(
        path=file.path,
        source="ours" if file.is_ours else source,
        filled=filled / sum(backbone.values()),
        epoch=file.epoch,
        details=details,
        input_spec=file.extra.get("input_spec"),
        **{group: tuple(names) for group, names in groups.items()},
    )


def _check_filled(report: LoadReport, sizes: str, min_filled: float) -> None:
    if report.filled < min_filled:
        groups = "\n".join(report.table().splitlines()[1:])
        raise WeightsError(
            f"{report.path}: does not fit this model: it fills {100 * report.filled:.1f}% of the "
            f"backbone's values, and {100 * min_filled:g}% are required. Nothing was loaded.\n"
            f"  {sizes}\n{groups}\n"
            "  Check that variant and file belong together, or pass a lower min_filled "
            "(TRAIN.CHECKPOINT_MIN_FILLED)"
        )


def _size(state: Mapping[str, Tensor]) -> str:
    numbers = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    return f"{len(numbers)} blocks, {len(state['patch_embed.proj.weight'])} channels in the first"


def _check_complete(report: LoadReport) -> None:
    """Refuse to test or to predict with parameters that the file does not have."""
    if not report.missing:
        return
    head = [name for name in report.missing if name.startswith("head.")]
    if head:
        raise WeightsError(
            f"{report.path}: its head does not fit: {head[0]}: {report.details[head[0]]}. "
            "Nothing was loaded. Build the model with as many classes (MODEL.NUM_CLASSES), or load "
            "with head='auto' to train a new head"
        )
    problems = [f"{name}: {report.details[name]}" for name in report.missing]
    raise WeightsError(
        in_one_message(f"{report.path}: its backbone does not fit the model", problems, limit=5)
        + "\nNothing was loaded. Is this the config of these weights? To train from what fits, "
        "load with head='auto'"
    )


def _check_values(
    path: str, old: Mapping[str, Tensor], new: Mapping[str, Tensor | None], is_error: bool
) -> None:
    """Report parameters with NaN or infinity.

    Raises:
        WeightsError: there are some, and ``is_error``; or the model or the file has no values.
    """
    strange = []
    for name, value in new.items():
        if value is None:
            continue
        if value.is_meta and not old[name].is_meta:
            raise WeightsError(
                f"{path}: {name} is on the meta device and has no values. Save the state dict of a "
                "model that has its weights"
            )
        if old[name].is_meta and not value.is_meta:
            raise WeightsError(
                f"the model is on the meta device ({name} has no values). Build it outside of "
                "torch.device('meta'). Or allocate its values with model.to_empty(device='cpu') "
                "and load with head='keep', min_filled=1.0: those not in the file stay arbitrary"
            )
        exact = value.to(old[name].dtype)  # as in the model: a float64 may be beyond float32
        if not value.is_meta and not exact.isfinite().all():
            strange.append(name)
    if not strange:
        return
    message = (
        f"{path}: {len(strange)} of {len(new)} parameters have values that are NaN or infinite, "
        f"the first {strange[0]}. The training that wrote it has diverged: take an earlier "
        "checkpoint"
    )
    if is_error:
        raise WeightsError(message)
    log.warning("%s", message)
