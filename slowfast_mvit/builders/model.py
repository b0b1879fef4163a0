"""The model that the ``MVIT`` and ``MODEL`` keys describe."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from slowfast_mvit.builders.data import channel_statistics, clip_spec, view_plan
from slowfast_mvit.builders.lists import mvit_from_lists, variant_as_lists, variant_lists
from slowfast_mvit.config import Config, load_config, load_config_text
from slowfast_mvit.config.config import KEYS
from slowfast_mvit.errors import ConfigError, UserError, WeightsError
from slowfast_mvit.models import MViT
from slowfast_mvit.weights import load_weights
from slowfast_mvit.weights.architecture import anatomy_of, matching_variant
from slowfast_mvit.weights.files import CONFIG_IN_FOLDER, WeightsFile, read_weights
from slowfast_mvit.weights.names import state_in_our_names
from slowfast_mvit.weights.zoo import assumed

logger = logging.getLogger(__name__)

# An image model that is inflated to clips has fewer values than the model, but not this much.
MOST_TIMES_LARGER = 4


def build_model(config: Config, *, attention: str = "fast") -> MViT:
    """Build the model that the ``MVIT`` and ``MODEL`` keys describe, initialised, on the CPU.

    Args:
        config: from ``load_config``.
        attention: "fast", "folded" or "plain": three implementations of one function.

    Raises:
        ConfigError: the keys of the blocks do not fit together.
    """
    model = mvit_from_lists(attention=attention, **model_arguments(config))
    model.input_spec = input_spec(config)
    return model


def model_arguments(config: Config) -> dict[str, Any]:
    """Return the arguments of ``mvit_from_lists``, including those of ``MVIT.VARIANT``."""
    mvit = config.mvit
    side_px = config.data.train_crop_size
    return {
        "input_size": (1 if mvit.patch_2d else config.data.num_frames, side_px, side_px),
        "num_classes": config.model.num_classes,
        "patch_kernel": mvit.patch_kernel,
        "patch_stride": mvit.patch_stride,
        "patch_padding": mvit.patch_padding,
        **_block_lists(config),
        "dim_mul_in_att": mvit.dim_mul_in_att,
        "mlp_ratio": mvit.mlp_ratio,
        "qkv_bias": mvit.qkv_bias,
        "cls_token": mvit.cls_embed_on,
        "abs_pos": _absolute_positions(mvit.use_abs_pos, mvit.sep_pos_embed),
        "rel_pos_spatial": mvit.rel_pos_spatial,
        "rel_pos_temporal": mvit.rel_pos_temporal,
        "rel_pos_zero_init": mvit.rel_pos_zero_init,
        "residual_pooling": mvit.residual_pooling,
        "mean_pooling": mvit.use_mean_pooling,
        "norm_stem": mvit.norm_stem,
        "dropout": mvit.dropout_rate,
        "drop_path": mvit.droppath_rate,
        "head_dropout": config.model.dropout_rate,
        "head_init_scale": mvit.head_init_scale,
        "detach_head": config.model.detach_final_fc,
        "activation_checkpointing": config.model.act_checkpoint,
    }


def _block_lists(config: Config) -> dict[str, Any]:
    """Return the per-block keys: those that are set, and the others from ``MVIT.VARIANT``."""
    mvit = config.mvit
    lists = {k.attribute: k.value_in(config) for k in KEYS.values() if k.rule.from_variant}
    if not mvit.variant:
        return lists
    image: dict[str, Any] = {"first_stride_kv": (1, 4, 4), "kernel": (1, 3, 3)}
    filled = variant_lists(mvit.variant, **(image if mvit.patch_2d else {}))
    if config.is_set("MVIT.POOL_KV_STRIDE"):
        del filled["pool_kv_stride_adaptive"]
    return lists | {
        name: value for name, value in filled.items() if not config.is_set(f"MVIT.{name.upper()}")
    }


def _absolute_positions(used: bool, separate: bool) -> str | None:
    if not used:
        return None
    return "separate" if separate else "joint"


def input_spec(config: Config, class_names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return the preprocessing for this model: plain values, part of every checkpoint."""
    mean, std = channel_statistics(config)
    clip = clip_spec(config, config.test.dataset)
    plan = view_plan(config, num_clips=1, num_crops=1)
    return {
        "num_frames": clip.num_frames,
        "sampling_rate": clip.sampling_rate,
        "target_fps": clip.target_fps,
        "policy": clip.policy,
        "segment_clips": clip.segment_clips,
        "crop_px": plan.crop_px,
        "scale_px": plan.scale_px,
        "resizing": plan.resizing,
        "mean": list(mean),
        "std": list(std),
        "class_names": None if class_names is None else list(class_names),
    }


def model_of_checkpoint(
    path: str | Path, config_file: str | Path | None = None, *, ema: bool = False
) -> MViT:
    """Load a trained model, ready to predict, from a checkpoint or a folder.

    Args:
        path: a checkpoint of this project or of PySlowFast, a folder with ``model.safetensors``
            and ``config.json`` as ``slowfast-mvit weights convert`` writes it, weights of a
            published model, or anything else that ``local_weights`` finds.
        config_file: the config it was trained with; None for the one in the file.
        ema: load the moving average of the weights in a checkpoint.

    Raises:
        WeightsError: the file cannot be read or does not fit the config.
        ConfigError: there is no config in the file, none is named, and by its shapes it is no
            published model.
    """
    file = read_weights(path, ema=ema)
    build: Callable[[], MViT]
    if config_file is not None:
        build = partial(build_model, load_config(config_file))
    elif "model" in file.extra:
        build = partial(model_of_folder, file)
    elif file.cfg_text:
        config = load_config_text(file.cfg_text, source=f"the config in {path}")
        build = partial(build_model, config)
    else:
        build, spec = _identified(file)
        file.extra.setdefault("input_spec", spec)
    with torch.device("meta"):
        _require_no_larger(build(), file)
    model = build()
    load_weights(model, file, head="keep")
    model.input_spec = file.extra.get("input_spec") or model.input_spec
    _require_names_of_classes(model, file)
    return model.eval()


def _identified(file: WeightsFile) -> tuple[Callable[[], MViT], dict[str, Any] | None]:
    """Return how to build the published model with the shapes of a file, and its preprocessing.

    Raises:
        ConfigError: no published model has them.
    """
    state, _, _ = state_in_our_names(file)
    name, num_classes = matching_variant(state), anatomy_of(state).num_classes
    published = file.published or (name and assumed(name, num_classes))
    if name is None or not published:
        raise ConfigError(
            f"{file.path}: contains no config, and by its shapes it is no published model. Name "
            "the config it was trained with (--cfg)"
        )
    spec = published.input_spec()
    if file.published is None:
        logger.warning(
            "%s: contains no config; by its shapes it is %s with %s classes, so preprocessing and "
            "class names are assumed to be those of %s. If it was trained on other data, name its "
            "config (--cfg)",
            file.path,
            name,
            num_classes,
            published.data,
        )
    size = (spec["num_frames"], spec["crop_px"], spec["crop_px"])
    arguments = {**variant_as_lists(name), "num_classes": num_classes, "input_size": size}
    return partial(mvit_from_lists, **arguments), spec


def _require_no_larger(model: MViT, file: WeightsFile) -> None:
    """Refuse a config that asks for much more memory than its weights, before it is allocated.

    Raises:
        WeightsError: names both numbers of values.
    """
    asked = sum(parameter.numel() for parameter in model.parameters())
    there = sum(tensor.numel() for tensor in file.state.values())
    if asked > MOST_TIMES_LARGER * there + 1_000_000:
        raise WeightsError(
            f"{file.path}: has {there:,} values, but its config describes a model of {asked:,}. "
            "Name the config it was trained with (--cfg)"
        )


def _require_names_of_classes(model: MViT, file: WeightsFile) -> None:
    names = model.input_spec and model.input_spec["class_names"]
    num_classes = model.num_classes
    if names and len(names) != num_classes:
        raise WeightsError(
            f"{file.path}: names {len(names)} classes, but its model has {num_classes}"
        )


def model_of_folder(file: WeightsFile) -> MViT:
    """Build the model that the ``config.json`` of a folder describes, which may be edited.

    Raises:
        UserError: it describes no model.
    """
    try:
        model = mvit_from_lists(**file.extra["model"])
        model.reset_classifier(model.num_classes, file.extra.get("global_pool"))
        return model
    except UserError:
        raise
    # Torch and arithmetic raise these for values of another type or size.
    except (TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{file.path}: 'model' in its {CONFIG_IN_FOLDER} has values that this version does not "
            f"know ({error}). Was it written by a newer one? Update slowfast_mvit"
        ) from error
