"""``slowfast-mvit weights``: what a file of weights is, and the same weights in another file."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from typing import Any

EXAMPLES = """examples:
  slowfast-mvit weights inspect FILE --json
  slowfast-mvit weights convert FILE OUT.pyth              for PySlowFast
  slowfast-mvit weights convert FILE OUT.safetensors --ema
  slowfast-mvit weights convert FILE OUT/ --cfg CONFIG --class-names FILE
                                                           a complete model, as a hub keeps it
  slowfast-mvit weights convert FILE OUT.pth --to timm     or --to torchvision; --overwrite
"""


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Put the words of ``slowfast-mvit weights`` into its parser."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "inspect",
        help="show what a file of weights is",
        description="Show what a file of weights is: whose, of which model, and what else is in "
        "it. No model and no config are needed.",
    )
    command.add_argument("file", help="a file, a folder with model.safetensors, or an address")
    command.add_argument("--json", action="store_true", help="print it as JSON")
    command.set_defaults(command=lambda arguments: inspect_job(arguments.file, arguments.json))

    command = commands.add_parser(
        "convert",
        help="write weights for PySlowFast, a hub, torchvision or timm",
        description="Write weights as a PySlowFast checkpoint (.pyth, .pth, .pt), as .safetensors, "
        "or as a folder with model.safetensors and config.json, which is a complete model.",
    )
    command.add_argument("file", help="a file, a folder with model.safetensors, or an address")
    command.add_argument("out", help="file to write, by its suffix; without a suffix, a folder")
    command.add_argument(
        "--to",
        default="slowfast",
        choices=("slowfast", "torchvision", "timm"),
        help="whose names to write (default: slowfast, which are ours)",
    )
    command.add_argument("--ema", action="store_true", help="take the moving average")
    command.add_argument("--cfg", help="the config of the weights, if the file holds none")
    command.add_argument(
        "--class-names", metavar="FILE", help="names of the classes: one a line, or JSON"
    )
    command.add_argument("--overwrite", action="store_true", help="write over what is there")
    command.set_defaults(command=convert_job)


def inspect_job(path: str, as_json: bool) -> None:
    """Print what a file of weights is."""
    facts = inspect(path)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    print(path)
    for name, text in _lines(facts).items():
        print(f"  {name:<14}{text}")


def inspect(path: str) -> dict[str, Any]:
    """What a file of weights is, in plain values.

    Args:
        path: what ``load_weights`` reads.

    Returns:
        ``file``, ``source``, ``model`` (what its shapes say), ``inside`` (what else is in the
        file), ``num_tensors``, ``num_values``, ``dtypes``, ``left_out``, ``sha256``.

    Raises:
        WeightsError: if it cannot be read, or is not of an MViT.
    """
    from slowfast_mvit.jobs.identify import matching_variant
    from slowfast_mvit.weights.architecture import anatomy_of
    from slowfast_mvit.weights.files import read_weights
    from slowfast_mvit.weights.renamed_state import state_in_our_names
    from slowfast_mvit.weights.sources import SOURCES

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


def convert_job(arguments: argparse.Namespace) -> None:
    """Write weights into another file, and say what was written."""
    from slowfast_mvit.config import load_config
    from slowfast_mvit.data.listing.class_names import read_class_names
    from slowfast_mvit.jobs.convert import convert
    from slowfast_mvit.storage import local_copy

    names = arguments.class_names
    converted = convert(
        arguments.file,
        arguments.out,
        layout=arguments.to,
        ema=arguments.ema,
        config=load_config(arguments.cfg) if arguments.cfg else None,
        class_names=names and read_class_names(local_copy(names)),
        overwrite=arguments.overwrite,
    )
    print(f"wrote {arguments.out}: {converted.num_tensors} tensors from {converted.source} names")
    if converted.left_out:
        print(f"  left out {len(converted.left_out)}, the first {converted.left_out[0]}")
    described = converted.description
    if described is None:
        print("  the model is not known: its names were changed, and its shapes not compared")
    elif converted.kind == "folder" and described.input_spec is None:
        print("  nothing says how pixels are made for it, so predict will ask; --cfg says it")


def _lines(facts: Mapping[str, Any]) -> dict[str, str]:
    """What is printed, one line each."""
    model, inside = facts["model"], facts["inside"]
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
        "source": facts["source_title"],
        "model": model["variant"]
        or (backbone_of and f"the backbone of {backbone_of}")
        or "none of the published models",
        "blocks": f"{model['depth']}, {first} to {last} channels, growing in "
        f"{model['grows_in'] or 'none'}{heads or ''}",
        "input": f"{model['kind']}, {_size(model['input_size'], model['kind'])}",
        "classes": str(model["num_classes"] or "no head"),
        "class token": "yes" if model["cls_token"] else "no",
        "positions": " and ".join(filter(None, [positions[model["abs_pos"]], relative])) or "none",
        "values": f"{facts['num_values']:,} in {facts['num_tensors']} tensors, "
        f"{', '.join(facts['dtypes'])}",
        "inside too": (", ".join(beside) or "nothing") + epoch,
        **({"left out": ", ".join(facts["left_out"][:3])} if facts["left_out"] else {}),
        "sha256": facts["sha256"],
    }


def _size(size: tuple[int | None, int | None, int | None], kind: str) -> str:
    frames, height, width = ("?" if length is None else str(length) for length in size)
    pixels = f"{height} x {width} px"
    return pixels if kind == "image" else f"{frames} frames of {pixels}"


def _digest(path: str) -> str:
    from slowfast_mvit.storage import local_copy
    from slowfast_mvit.weights.files import WEIGHTS_IN_FOLDER

    file = local_copy(path)
    with open(file / WEIGHTS_IN_FOLDER if file.is_dir() else file, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
