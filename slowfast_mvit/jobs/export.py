"""Export: a model as one file that runs without this package, its contract, and its check.

DIR/
  model.onnx or model.pt2   the graph with its weights
  contract.json             input, output and preprocessing of the graph, labels, versions, hash
  check.json                differences from the model on clips, and latency
  predict_onnx.py           an example that needs numpy, av and onnxruntime; with ONNX only
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from slowfast_mvit import __version__, builders
from slowfast_mvit.errors import ConfigError, ExportError, writing
from slowfast_mvit.jobs.checkpoints import weights_named
from slowfast_mvit.jobs.export_check import check_clips, check_file, graph_input, model_logits
from slowfast_mvit.models import MViT
from slowfast_mvit.models.exported import ExportedModel
from slowfast_mvit.runtime.log import setup_logging
from slowfast_mvit.runtime.machine import version_of
from slowfast_mvit.storage import atomic_path, output_folder, write_text_atomically
from slowfast_mvit.storage.download import file_digest

logger = logging.getLogger(__name__)

CONTRACT, CHECK, EXAMPLE = "contract.json", "check.json", "predict_onnx.py"
FILES = {"onnx": "model.onnx", "pt2": "model.pt2"}
_OUTPUTS = (CONTRACT, CHECK, EXAMPLE, *FILES.values())
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}
WHY_FIXED = (
    "tables of relative positions are resampled for each grid of tokens, and the graph contains "
    "those of one grid. Export a file for each T and size, from weights trained for them"
)
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def export_job(
    weights: str,
    *,
    to: str,
    out: str,
    precision: str = "fp32",
    with_preprocessing: bool = False,
    dynamic: Sequence[str] = ("batch",),
    videos: Sequence[str] = (),
    config_file: str | None = None,
    ema: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a model as a file for a service, and compare the file with the model.

    Args:
        weights: whatever ``model_of_checkpoint`` reads, or a run folder.
        to: a key of ``FILES``.
        out: the folder to write.
        precision: "fp32" or "fp16", of the weights and the graph; input and output do not change.
        with_preprocessing: the graph takes uint8 frames (B, T, S, S, 3) and returns probabilities,
            instead of normalised pixels (B, 3, T, S, S) and logits.
        dynamic: axes of any length; only the batch can be one.
        videos: whose clips are compared; none for videos that the demo renders.
        config_file: the config of the weights, if they contain none.
        ema: load the moving average of the weights.
        overwrite: replace the export in ``out``.

    Raises:
        ConfigError: an axis cannot be dynamic, a package is not installed, ``out`` has an export,
            or the weights have no input spec.
        ExportError: the file differs from the model by more than its precision allows.
    """
    _check_request(to, dynamic)
    setup_logging()
    with output_folder(out) as folder:
        _require_no_export(folder, overwrite)
        weights = weights_named(weights)
        model = builders.model_of_checkpoint(weights, config_file, ema=ema)
        spec = model.input_spec
        if spec is None:
            raise ConfigError(
                f"{weights}: has no input_spec (frames and pixels). Name the config it was trained "
                "with, as in --cfg Kinetics/MVITv2_S_16x4.yaml"
            )
        terms = contract(spec, model.num_classes, precision, with_preprocessing=with_preprocessing)
        file = folder / FILES[to]
        check = _write_checked(file, to, model, videos, terms)
        if to == "onnx":
            example = Path(__file__).with_name(EXAMPLE).read_text(encoding="utf-8")
            write_text_atomically(folder / EXAMPLE, example)
        made_of = {"weights": weights, "file": file.name, "sha256": file_digest(file)}
        _write_json(folder / CONTRACT, made_of | terms)
        print(f"{file}: {file.stat().st_size:,} bytes; {_summary(check)}")


def _write_checked(
    file: Path, to: str, model: MViT, videos: Sequence[str], terms: dict[str, Any]
) -> dict[str, Any]:
    """Write a model as a file instead of what its folder has; return its check, also a file.

    Raises:
        ExportError: the check found a problem; then there is no file.
    """
    clips = check_clips(videos, model.input_spec or {})
    logits = model_logits(model, clips)
    inputs = graph_input(clips, terms)
    with writing(file), atomic_path(file) as temporary:
        for name in _OUTPUTS:
            file.with_name(name).unlink(missing_ok=True)
        program = exported_program(model.to(_DTYPES[terms["precision"]]), inputs[:2], terms)
        _WRITERS[to](program, temporary, terms)
        check = check_file(temporary, to, inputs, logits, terms)
        check["videos"] = list(videos) or "rendered by the demo"
        _write_json(file.with_name(CHECK), check)
        if check["problems"]:
            problems = "; ".join(check["problems"])
            raise ExportError(f"{file}: {problems}. See {file.with_name(CHECK)}")
    return check


def exported_program(model: MViT, sample: Tensor, terms: dict[str, Any]) -> ExportedProgram:
    """Return the graph of a model for batches of any size.

    Args:
        model: in evaluation and in the precision of the graph.
        sample: two inputs of the graph.
        terms: the contract of the graph.
    """
    normalises = terms["input"]["name"] == "frames"
    graph = ExportedModel(model, (terms["mean"], terms["std"]) if normalises else None)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        return torch.export.export(graph.eval(), (sample,), dynamic_shapes=({0: batch},))


def contract(
    spec: dict[str, Any], num_classes: int, precision: str, *, with_preprocessing: bool
) -> dict[str, Any]:
    """Return what a service must know to call a graph, as plain values; see ``docs/export.md``."""
    t, side = spec["num_frames"], spec["crop_px"]
    pixels = {"name": "pixels", "dtype": "float32", "shape": ["batch", 3, t, side, side]}
    frames = {"name": "frames", "dtype": "uint8", "shape": ["batch", t, side, side, 3]}
    axes = {"name": "probs" if with_preprocessing else "logits", "shape": ["batch", num_classes]}
    fields = ("num_frames", "sampling_rate", "target_fps", "policy", "crop_px", "scale_px")
    resizing = spec.get("resizing", "clip")
    return {
        "schema": 1,
        "precision": precision,
        "input": frames if with_preprocessing else pixels,
        "output": {**axes, "dtype": "float32"},
        "fixed_axes": WHY_FIXED,
        **{name: spec[name] for name in fields},
        "clip_s": t * spec["sampling_rate"] / spec["target_fps"],
        "squashes": resizing == "whole image",
        "swscale": "BILINEAR" if resizing == "clip" else "BICUBIC",
        "mean": spec["mean"],
        "std": spec["std"],
        "channel_order": "RGB",
        "labels": spec["class_names"] or [f"class {label}" for label in range(num_classes)],
        "versions": {
            "slowfast_mvit": __version__,
            "torch": str(torch.__version__),
            **{name: version_of(name) for name in PACKAGES["onnx"]},
        },
    }


def _check_request(to: str, dynamic: Sequence[str]) -> None:
    fixed = [axis for axis in dynamic if axis != "batch"]
    if fixed:
        raise ConfigError(f"--dynamic {' '.join(fixed)}: only batch can be dynamic: {WHY_FIXED}")
    missing = [name for name in PACKAGES[to] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--to {to}: needs packages that are not installed ({', '.join(missing)}). Run: "
            "pip install 'slowfast_mvit[export]'"
        )


def _require_no_export(folder: Path, overwrite: bool) -> None:
    existing = [folder / name for name in _OUTPUTS if name != CHECK and (folder / name).exists()]
    if existing and not overwrite:
        raise ConfigError(f"{existing[0]}: exists already. Choose another folder, or --overwrite")


def _write_onnx(program: ExportedProgram, path: Path, terms: dict[str, Any]) -> None:
    onnx: Any = torch.onnx.export(
        program,
        input_names=[terms["input"]["name"]],
        output_names=[terms["output"]["name"]],
        dynamic_shapes=({0: "batch"},),  # the name of the axis
        verbose=False,
    )
    onnx.save(path, external_data=False)


def _write_pt2(program: ExportedProgram, path: Path, terms: dict[str, Any]) -> None:
    with open(path, "wb") as file:
        torch.export.save(program, file)


_WRITERS: dict[str, Callable[[ExportedProgram, Path, dict[str, Any]], None]] = {
    "onnx": _write_onnx,
    "pt2": _write_pt2,
}


def _summary(check: dict[str, Any]) -> str:
    compared, one = check["compared"], check["batches"][0]
    largest = max(batch[compared] for batch in check["batches"])
    equal = f"{one['equal_labels']} of {check['num_clips']} labels equal"
    return f"{equal}, {compared} differ by {largest:.1g}, {one['latency_ms']:.0f} ms a clip"


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_text_atomically(path, json.dumps(values, indent=2) + "\n")
