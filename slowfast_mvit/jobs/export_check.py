"""The check of an exported file: its outputs and those of its model for the same clips."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowfast_mvit.data.loading.items import read_views
from slowfast_mvit.data.views.pixels import normalise
from slowfast_mvit.demo.motion_scenes import CLASS_NAMES, draw_scene, render
from slowfast_mvit.demo.synthetic import SPLITS, encode
from slowfast_mvit.jobs.prediction.reading import reading_of
from slowfast_mvit.models import MViT
from slowfast_mvit.randomness import SYNTHETIC, generator
from slowfast_mvit.runtime.machine import describe_machine, describe_versions
from slowfast_mvit.structures import VideoRecord

BATCH_SIZES = (1, 5)
NUM_CLIPS = max(BATCH_SIZES)  # the fewest that are compared
# precision -> the outputs that are compared, and their largest difference that passes. Products in
# float16 have 11 bits, so logits of 20 differ by hundredths, and probabilities by less.
TOLERANCES = {"fp32": ("outputs", 1e-4), "fp16": ("probs", 1e-2)}

Run = Callable[[Tensor], Tensor]


def check_clips(videos: Sequence[str], spec: dict[str, Any]) -> Tensor:
    """Return a clip from the middle of each video, (N, 3, T, S, S) uint8; repeated if few.

    Args:
        videos: paths; none for videos that the demo renders and encodes.
        spec: the input spec of the model.

    Raises:
        DecodeError: a video cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = videos or [str(path) for path in _demo_videos(Path(folder))]
        clips = torch.cat([_middle_clip(path, spec) for path in paths])
    return clips[torch.arange(max(len(clips), NUM_CLIPS)) % len(clips)]


def graph_input(clips: Tensor, terms: dict[str, Any]) -> Tensor:
    """Return the input of a graph for clips: frames (N, T, S, S, 3), or normalised pixels."""
    if terms["input"]["name"] == "frames":
        return clips.permute(0, 2, 3, 4, 1).contiguous()
    return normalise(clips, terms["mean"], terms["std"])


@torch.inference_mode()
def model_logits(model: MViT, clips: Tensor) -> Tensor:
    """Return the logits of the model itself for clips, (N, K)."""
    spec = model.input_spec or {}
    batches = clips.split(NUM_CLIPS)
    return torch.cat([model(normalise(one, spec["mean"], spec["std"])) for one in batches])


def check_file(
    path: Path, to: str, inputs: Tensor, logits: Tensor, terms: dict[str, Any]
) -> dict[str, Any]:
    """Run a file on inputs in batches of several sizes, and compare its outputs with the model's.

    Args:
        path: of the file.
        to: a key of ``RUNNERS``.
        inputs: of the graph, for N clips.
        logits: of the model, (N, K).
        terms: the contract of the graph.

    Returns:
        The content of ``check.json``; "problems" is empty if the file passes.
    """
    run, returns_probs = RUNNERS[to](path), terms["output"]["name"] == "probs"
    compared, tolerance = TOLERANCES[terms["precision"]]
    batches = [
        _compare(run, inputs, logits, size, returns_probs=returns_probs) for size in BATCH_SIZES
    ]
    problems = [
        f"in batches of {batch['size']} its {compared} differ from the model's by "
        f"{batch[compared]:.2g}; at most {tolerance:g} is allowed in {terms['precision']}"
        for batch in batches
        if not batch[compared] <= tolerance  # NaN is a problem too
    ]
    return {
        "problems": problems,
        "compared": compared,
        "tolerance": tolerance,
        "num_clips": len(inputs),
        "batches": batches,
        "machine": describe_machine(torch.device("cpu")),
        "versions": describe_versions(),
    }


def _compare(
    run: Run, inputs: Tensor, logits: Tensor, size: int, *, returns_probs: bool
) -> dict[str, Any]:
    """Return the record of one batch size."""
    run(inputs[:size])  # allocates its memory
    outputs, times_s = [], []
    for batch in inputs.split(size):
        start_s = time.perf_counter()
        outputs.append(run(batch))
        times_s.append(time.perf_counter() - start_s)
    actual, probs = torch.cat(outputs), logits.softmax(dim=1)
    actual_probs = actual if returns_probs else actual.softmax(dim=1)
    return {
        "size": size,
        "outputs": _difference(actual, probs if returns_probs else logits),
        "probs": _difference(actual_probs, probs),
        "equal_labels": int((actual.argmax(dim=1) == logits.argmax(dim=1)).sum()),
        "latency_ms": round(1000 * statistics.median(times_s), 3),
    }


def _difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max())


def _onnx_runner(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: torch.from_numpy(session.run(None, {name: batch.numpy()})[0])


def _pt2_runner(path: Path) -> Run:
    with open(path, "rb") as file:
        graph = torch.export.load(file).module()
    return torch.inference_mode()(graph.__call__)


RUNNERS: dict[str, Callable[[Path], Run]] = {"onnx": _onnx_runner, "pt2": _pt2_runner}


def _middle_clip(path: str, spec: dict[str, Any]) -> Tensor:
    """Return the clip in the middle of a video, (1, 3, T, S, S) uint8."""
    reading = reading_of(spec, num_clips=1)
    return read_views(VideoRecord(path, path, 0), reading.clip, reading.plan)[0]


def _demo_videos(folder: Path) -> Iterator[Path]:
    """Write a video of each of the first classes of the demo."""
    for number, name in enumerate(CLASS_NAMES[:NUM_CLIPS]):
        rng = generator(0, SPLITS["val"], number, SYNTHETIC)
        path = folder / f"{number}.mp4"
        path.write_bytes(encode(render(draw_scene(rng), name)))
        yield path
