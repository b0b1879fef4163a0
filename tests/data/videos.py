"""Small video files for the tests, written with PyAV; every frame shows its own number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

# Real clips, where a developer has them; never part of the repository.
REAL_VIDEOS = Path(__file__).resolve().parents[2].parent / "shared" / "videos"


def real_videos(folder: str) -> list[Path]:
    """The files of a folder of real clips; a skipped test where there are none."""
    files = sorted((REAL_VIDEOS / folder).glob("*.*")) if (REAL_VIDEOS / folder).is_dir() else []
    reason = "the folder of real clips is not on this machine"
    return files or [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A picture (H, W, 3) that differs from that of any other number: a moving square on noise."""
    noise = np.random.Generator(np.random.Philox(key=[7, 0]))
    image = noise.integers(60, 120, size=(height, width, 3), dtype=np.uint8)
    top, left = 3 * number % (height - 12), 5 * number % (width - 12)
    image[top : top + 12, left : left + 12] = (250, 20 + 7 * number % 200, 240 - 11 * number % 200)
    return image


def write_video(
    path: Path,
    num_frames: int = 30,
    *,
    size: tuple[int, int] = (48, 64),
    fps: int = 30,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    pts: list[int] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write ``num_frames`` pictures of ``size`` (H, W); frame i is shown at ``pts[i]`` / fps."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.options = options or {}
        stream.codec_context.time_base = Fraction(1, fps)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts = number if pts is None else pts[number]
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sequential_frames(path: Path) -> list[torch.Tensor]:
    """The reference: every frame in turn, as PyAV decodes it, turned as its file says."""
    with av.open(str(path)) as container:
        return [
            torch.from_numpy(
                np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90).copy()
            )
            for frame in container.decode(container.streams.video[0])
        ]
