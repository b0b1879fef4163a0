"""Models by name, with published weights, preprocessing and class names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slowfast_mvit.builders.lists import variant_as_lists
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.fast import create_model as create_untrained
from slowfast_mvit.models import Backbone, MViT
from slowfast_mvit.models import list_models as list_untrained
from slowfast_mvit.models.features import FeatureExtractor
from slowfast_mvit.models.variants import BACKBONES, VARIANTS
from slowfast_mvit.weights import load_weights
from slowfast_mvit.weights.architecture import anatomy_of
from slowfast_mvit.weights.fetch import unknown
from slowfast_mvit.weights.files import read_weights
from slowfast_mvit.weights.names import state_in_our_names
from slowfast_mvit.weights.zoo import ZOO, model_named, name_in_zoo, weights_of


def list_models(*, with_weights: bool = False) -> list[str]:
    """Return the names of the published models, or of their weights.

    Args:
        with_weights: the names of weights, such as ``mvitv2_s_16x4.k400``.
    """
    return sorted(ZOO) if with_weights else list_untrained()


def create_model(
    name: str,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    input_size: Sequence[int] | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **options: Any,
) -> MViT | Any:
    """Create a published model, with fresh or trained weights; in training mode.

    Its ``input_spec`` has the preprocessing, and the class names where its head is a published one.

    Args:
        name: one of ``list_models()``, or of ``list_models(with_weights=True)``, or the name of
            such a model in torchvision, timm or pytorchvideo.
        weights: the data of weights in the zoo (``"k400"``); or a file, an https address,
            ``hf-hub:ORGANISATION/NAME`` or another name of the zoo. Only these two arguments can
            start a download.
        num_classes: classes; another number than that of the weights gives a new head, 0 the
            features before it. None for as many as the weights have.
        input_size: pixels (T, H, W) of a clip; None for those of the weights.
        features_only: return a ``FeatureExtractor``, not an ``MViT``: a list of grids of features.
        out_indices: its stages; None for all, a number for as many last ones, or their numbers.
        options: of ``slowfast_mvit.fast.create_model``: ``attention``, ``drop_path``,
            ``head_dropout``, ``in_chans``.

    Raises:
        ConfigError: there is no such model or stage; the message names the nearest one. Or a
            backbone is given classes or ``features_only``.
        WeightsError: the weights cannot be read, or are not of this model.
        DownloadError: the weights cannot be fetched.
    """
    named = _resolved(name, None if weights is None else str(weights))
    model = _create(*named, num_classes, input_size, options)
    if features_only and isinstance(model, Backbone):
        raise ConfigError(f"{name} returns the maps of its stages: leave out features_only")
    return FeatureExtractor(model, out_indices) if features_only else model


def _create(
    model_name: str,
    source: str | None,
    num_classes: int | None,
    input_size: Sequence[int] | None,
    options: dict[str, Any],
) -> MViT:
    if source is None:
        model = _untrained(model_name, num_classes, input_size, options)
        model.input_spec = _fitted(_first_spec(model_name), model)
        return model
    file = read_weights(source)
    num_in_file = anatomy_of(state_in_our_names(file)[0]).num_classes
    is_of_model = file.published is None or file.published.model == model_name
    spec = (file.extra.get("input_spec") if is_of_model else None) or _first_spec(model_name)
    if is_of_model and num_classes is None and model_name not in BACKBONES:
        num_classes = num_in_file
    if input_size is None and spec is not None:
        input_size = (spec["num_frames"], spec["crop_px"], spec["crop_px"])
    model = _untrained(model_name, num_classes, input_size, options)
    report = load_weights(model, file, head="auto")
    model.input_spec = fitted = _fitted(spec, model)
    if spec and fitted and "head.projection.weight" in report.loaded:
        fitted["class_names"] = spec["class_names"]
    return model


def _untrained(
    name: str,
    num_classes: int | None,
    input_size: Sequence[int] | None,
    options: dict[str, Any],
) -> MViT:
    from slowfast_mvit.builders.hub import with_hub_methods  # imports huggingface_hub

    model = create_untrained(name, num_classes=num_classes, input_size=input_size, **options)
    if name in BACKBONES:
        return model
    given = {key: value for key, value in options.items() if value is not None}
    given.pop("attention", None)
    model.arguments = {**variant_as_lists(name), **given, "input_size": model.input_size}
    return with_hub_methods(model)


def _resolved(name: str, weights: str | None) -> tuple[str, str | None]:
    """Return the name of a model and its weights: a name of the zoo, a file or an address.

    Raises:
        ConfigError: two arguments name weights.
    """
    model = model_named(name)
    if model in VARIANTS:
        if weights is None:
            return model, None
        named = name_in_zoo(f"{model}.{weights}")
        is_word = re.fullmatch(r"\w+", weights) and name_in_zoo(weights) is None
        if is_word and named is None and not os.path.exists(weights):
            raise unknown(f"{model}.{weights}")
        return model, named or weights
    known = name_in_zoo(name)
    if known is None:
        if weights is None and model_named(name.partition(".")[0]) in VARIANTS:
            raise unknown(name)
        return name, weights  # create_model of ``fast`` names the nearest model
    if weights is not None:
        raise ConfigError(f"{name} names weights already. Leave out weights={weights!r}")
    return ZOO[known].model, known


def _first_spec(model_name: str) -> dict[str, Any] | None:
    """Return the preprocessing of the first published weights of a model, if there are any."""
    names = weights_of(model_name)
    return ZOO[names[0]].input_spec() if names else None


def _fitted(spec: Mapping[str, Any] | None, model: MViT) -> dict[str, Any] | None:
    """Return preprocessing at the size of a model, without names of classes."""
    if spec is None:
        return None
    num_frames, crop_px, _ = model.input_size
    scale_px = round(spec["scale_px"] * crop_px / spec["crop_px"])
    return {
        **spec,
        "num_frames": num_frames,
        "crop_px": crop_px,
        "scale_px": scale_px,
        "class_names": None,
    }
