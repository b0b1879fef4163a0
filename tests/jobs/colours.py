"""Videos of plain colours, and a model that classifies them without any training."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import nn

from slowfast_mvit.jobs.predict import Predictor

NAMES = ["red", "green", "blue"]
SPEC = {
    "num_frames": 4,
    "sampling_rate": 2,
    "target_fps": 10.0,  # a clip spans 0.8 s
    "policy": "interval",
    "segment_clips": "same",
    "crop_px": 16,
    "scale_px": 16,
    "resizing": "clip",
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "class_names": NAMES,
}


class ColourModel(nn.Module):
    """Logits are the mean of red, green and blue, times ten."""

    num_classes = 3

    def __init__(self, **spec):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.input_spec = {**SPEC, **spec}

    def forward(self, pixels):
        assert pixels.shape[1:] == (3, self.input_spec["num_frames"], 16, 16)
        return self.scale * pixels.mean((2, 3, 4))


def colour_predictor(**spec) -> Predictor:
    return Predictor(ColourModel(**spec).eval())


def write_colours(
    path: Path,
    parts: list[tuple[str, float]],
    *,
    fps: int = 10,
    size: tuple[int, int] = (32, 48),
    pts: list[int] | None = None,
    codec: str = "libx264",
) -> Path:
    """Write (colour, seconds) one after the other; frame i is shown at ``pts[i]`` / fps."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast"} if codec == "libx264" else {}
        stream.codec_context.time_base = Fraction(1, fps)
        colours = [name for name, seconds in parts for _ in range(round(seconds * fps))]
        for number, name in enumerate(colours):
            image = np.full((*size, 3), 20, np.uint8)
            image[..., NAMES.index(name)] = 230
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if pts is None else pts[number]
            frame.time_base = Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path
