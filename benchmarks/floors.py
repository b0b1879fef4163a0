"""The least that plain decoding can cost, on one thread: from the key frame that the first wanted
frame depends on to the last wanted frame, to nothing: no conversion, no copy, nothing skipped.

Two of them, since programs and wheels are built differently:

    program   the ffmpeg program, less its start; opening the file is included, or not
    libav     the libraries inside PyAV, opening the file included
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from benchmarks.timing import child_cpu_ms


@dataclass(frozen=True)
class Span:
    """A stretch of a video that decoding cannot avoid.

    Attributes:
        key_pts: of the key frame it starts at.
        key_s: the same in seconds from the first frame.
        num_frames: frames shown from the key frame to the last wanted one.
    """

    key_pts: int
    key_s: float
    num_frames: int


def span_of(path: Path, indices: Sequence[int]) -> Span:
    """The span for these frames (numbers in the order in which they are shown)."""
    shown, keys, time_base = _times(path)
    first, last = shown[min(indices)], max(indices)
    key_pts = max((pts for pts in keys if pts <= first), default=shown[0])
    key_s = float((key_pts - shown[0]) * time_base)
    return Span(key_pts, key_s, last - shown.index(key_pts) + 1)


@functools.lru_cache(maxsize=256)
def _times(path: Path) -> tuple[list[int], list[int], float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        shown = sorted(packet.pts for packet in packets)
        return shown, [p.pts for p in packets if p.is_keyframe], float(stream.time_base)


def has_program() -> bool:
    """Return whether the ffmpeg program is installed."""
    return shutil.which("ffmpeg") is not None


def program_floor_ms(path: Path, indices: Sequence[int], *, decoding_only: bool = False) -> float:
    """CPU time of the ffmpeg program on the span of these frames, less its start.

    Args:
        path: the video.
        indices: the wanted frames.
        decoding_only: take off what it needs for the first frame of the span instead, which is its
            start, opening the file, and the frames that a decoder takes in before it gives one.
    """
    span = span_of(path, indices)
    start = program_command(path, span.key_s, 1) if decoding_only else _START
    start_ms = child_cpu_ms(start)
    return child_cpu_ms(program_command(path, span.key_s, span.num_frames)) - start_ms


# The program's start, and one picture that nobody had to decode.
_START = [
    *("ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", "nullsrc=s=16x16"),
    *("-frames:v", "1", "-f", "null", "-"),
]


def program_command(path: Path, key_s: float, num_frames: int, output: str = "null") -> list[str]:
    """ffmpeg, decoding ``num_frames`` from the key frame at ``key_s`` on one thread."""
    return [
        *("ffmpeg", "-nostdin", "-v", "error", "-threads", "1", "-filter_threads", "1"),
        # 1 ms more, since ffmpeg rounds; without "accurate" it starts at the key frame before.
        *("-noaccurate_seek", "-ss", f"{key_s + 0.001:.6f}", "-i", str(path)),
        *("-map", "0:v:0", "-frames:v", str(num_frames), "-fps_mode", "passthrough"),
        *("-f", output, "-"),
    ]


def libav_floor(path: Path, indices: Sequence[int]) -> int:
    """Decode the span of these frames with PyAV; returns how many frames were shown in it."""
    span = span_of(path, indices)
    num_shown = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        container.seek(span.key_pts, stream=stream, backward=True)
        for frame in container.decode(stream):
            num_shown += frame.pts is not None and frame.pts >= span.key_pts
            if num_shown == span.num_frames:
                break
    return num_shown
