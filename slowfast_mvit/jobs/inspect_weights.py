"""``slowfast-mvit weights inspect``: origin, architecture and content of a weights file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from slowfast_mvit.storage import local_copy
from slowfast_mvit.weights.architecture import anatomy_of, matching_variant
from slowfast_mvit.weights.files import WEIGHTS_IN_FOLDER, read_weights
from slowfast_mvit.weights.names import state_in_our_names
from slowfast_mvit.weights.sources import SOURCES


def inspect_job(path: str, as_json: bool) -> None:
    """Print a description of a weights file."""
    content = inspect(path)
    if as_json:
        print(json.dumps(content, indent=2))
        return
    print(path)
    for name, text in _lines(content).items():
        print(f"  {name:<14}{text}")


def inspect(path: str) -> dict[str, Any]:
    """Describe a weights file in plain values.

    Args:
        path: what ``load_weights`` reads.

    Returns:
        ``file``, ``source``, ``model`` (what its shapes say), ``inside`` (what else is in the
        file), ``num_tensors``, ``num_values``, ``dtypes``, ``left_out``, ``sha256``.

    Raises:
        WeightsError: if it cannot be read, or is not of an MViT.
    """
    file = read_weights(path)
    state, source, left_out = state_in_our_names(file)
    anatomy, variant = anatomy_of(state), matching_variant(state)
    spec = file.extra.get("input_spec") or {}
    return {
        "file": path,
        "source": "ours" if file.is_ours else source,
        "source_title": "this project" if file.is_ours else SOURCES[source].title,
        "model": {
            "variant": variant,
            "backbone_of": None if variant else matching_variant(state, ignoring=("norm.",)),
            "kind": "video" if anatomy.is_video else "image",
            "depth": anatomy.depth,
            "widths": anatomy.widths,
            "num_heads": anatomy.num_heads,
            "grows_in": anatomy.grows_in,
            "input_size": anatomy.input_size(),
            "num_classes": anatomy.num_classes,
            "cls_token": anatomy.cls_token,
            "abs_pos": anatomy.abs_pos,
            "rel_pos": anatomy.rel_pos,
        },
        "inside": {
            "epoch": None if file.epoch is None else file.epoch + 1,
            "optimizer": file.epoch is not None,
            "moving_average": file.has_average,
            "config": file.cfg_text is not None,
            "class_names": len(spec.get("class_names") or ()),
        },
        "num_tensors": len(state),
        "num_values": sum(value.numel() for value in state.values()),
        "dtypes": sorted({str(value.dtype).removeprefix("torch.") for value in state.values()}),
        "left_out": list(left_out),
        "sha256": _digest(path),
    }


def _lines(content: Mapping[str, Any]) -> dict[str, str]:
    """Return what is printed, one line each."""
    model, inside = content["model"], content["inside"]
    heads = model["num_heads"] and f", {model['num_heads'][0]} to {model['num_heads'][1]} heads"
    first, last = model["widths"]
    backbone_of = model["backbone_of"]
    positions = {None: "", "joint": "absolute, joint", "separate": "absolute, separate"}
    relative = f"relative ({', '.join(model['rel_pos'])})" if model["rel_pos"] else ""
    epoch = f", epoch {inside['epoch']}" if inside["epoch"] else ""
    beside = [
        name.replace("_", " ") for name in ("optimizer", "moving_average", "config") if inside[name]
    ]
    if inside["class_names"]:
        beside.append(f"{inside['class_names']} class names")
    return {
        "source": content["source_title"],
        "model": model["variant"]
        or (backbone_of and f"the backbone of {backbone_of}")
        or "none of the published models",
        "blocks": f"{model['depth']}, {first} to {last} channels, growing in "
        f"{model['grows_in'] or 'none'}{heads or ''}",
        "input": f"{model['kind']}, {_size(model['input_size'], model['kind'])}",
        "classes": str(model["num_classes"] or "no head"),
        "class token": "yes" if model["cls_token"] else "no",
        "positions": " and ".join(filter(None, [positions[model["abs_pos"]], relative])) or "none",
        "values": f"{content['num_values']:,} in {content['num_tensors']} tensors, "
        f"{', '.join(content['dtypes'])}",
        "inside too": (", ".join(beside) or "nothing") + epoch,
        **({"left out": ", ".join(content["left_out"][:3])} if content["left_out"] else {}),
        "sha256": content["sha256"],
    }


def _size(size: tuple[int | None, int | None, int | None], kind: str) -> str:
    frames, height, width = ("?" if length is None else str(length) for length in size)
    pixels = f"{height} x {width} px"
    return pixels if kind == "image" else f"{frames} frames of {pixels}"


def _digest(path: str) -> str:
    file = local_copy(path)
    with open(file / WEIGHTS_IN_FOLDER if file.is_dir() else file, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
