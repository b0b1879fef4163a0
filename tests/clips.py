"""A small video file for tests that need one to read, whatever it shows."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def write_clip(path: Path, num_frames: int = 20) -> Path:
    """Write frames of 48 x 64 px that get brighter, at 30 a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for index in range(num_frames):
            frame = np.full((48, 64, 3), 10 * index % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return path
