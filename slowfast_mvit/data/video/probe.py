"""Probe a video file before another library decodes it; what such a reader must refuse.

The packets are read with PyAV, as every reader counts frames alike; a file of a kind that the
library is known to read wrongly is refused before a frame of it is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from slowfast_mvit.data.video.opening import open_plain_file
from slowfast_mvit.data.video.packet_checks import decoded_alone, is_whole
from slowfast_mvit.data.video.packets import (
    Budget,
    PacketIndex,
    as_decode_errors,
    first_video_stream,
    open_container,
    read_index,
    timing,
    video_streams,
)
from slowfast_mvit.data.video.rotation import orientation_of
from slowfast_mvit.errors import DecodeError


@dataclass(frozen=True)
class VideoInfo:
    """The properties of a file before a frame of it is decoded.

    Attributes:
        path: the file.
        format: the container, in FFmpeg's word ("mov,mp4,m4a,3gp,3g2,mj2", "avi").
        codec: of the video stream, in FFmpeg's word ("h264").
        stream_index: of the video stream, among all streams.
        num_video_streams: without cover pictures.
        size_px: (width, height) before any turning.
        is_mirrored: whether the pictures are shown mirrored, beyond any turning.
        has_whole_keys: whether decoding can start at the second key frame, where there is one.
        index: None where packets do not say when their frames are shown; then what is
            below is empty.
        num_frames: frames that are shown.
        fps: frames per second on average.
        times_s: (num_frames,) float64, when each frame is shown, in seconds from the first.
        start_s: when the first frame is shown, by the clock of the file.
    """

    path: Path
    format: str
    codec: str
    stream_index: int
    num_video_streams: int
    size_px: tuple[int, int]
    index: PacketIndex | None
    is_mirrored: bool = False
    has_whole_keys: bool = True
    num_frames: int = 0
    fps: float = 0.0
    times_s: np.ndarray = field(default_factory=lambda: np.empty(0))
    start_s: float = 0.0


def probe_video(path: Path) -> VideoInfo:
    """Read the packets of a file, for readers that decode with another library.

    Raises:
        DecodeError: when it is not a video in a known format, or over a limit.
    """
    budget = Budget(path)
    with (
        open_plain_file(path) as file,
        open_container(path, file, budget) as container,
        as_decode_errors(path, "pyav"),
    ):
        stream = first_video_stream(path, container)
        index = read_index(path, container, stream, budget)
        budget.check_time()
        info = VideoInfo(
            path=path,
            format=container.format.name,
            codec=stream.codec_context.name,
            stream_index=stream.index,
            num_video_streams=len(video_streams(container)),
            size_px=(stream.codec_context.width, stream.codec_context.height),
            index=index,
        )
        if index is None:
            return info
        num_frames = len(index.shown)
        if num_frames == 0:
            raise DecodeError("the video stream holds no frames", path)
        fps, times_s = timing(path, stream, index, num_frames)
        keys = [pts for pts, is_key in zip(index.pts, index.is_key, strict=True) if is_key]
        first, *second = (decoded_alone(container, stream, pts) for pts in keys[:2])
        return replace(
            info,
            is_mirrored=first is not None and orientation_of(path, first).is_mirrored(),
            has_whole_keys=all(is_whole(frame) for frame in second),
            num_frames=num_frames,
            fps=fps,
            times_s=times_s,
            start_s=float(index.pts[index.shown[0]] * (stream.time_base or 0)),
        )


# A kind of file that a library reads wrongly: how it is recognised, and what it has.
Refusal = tuple[Callable[[VideoInfo], bool], str]

MIRRORED: Refusal = (lambda info: info.is_mirrored, "pictures that are shown mirrored")
REFRESHED: Refusal = (
    lambda info: not info.has_whole_keys,
    "key frames that only begin a gradual refresh",
)


def refuse(info: VideoInfo, refusals: Sequence[Refusal], reader: str) -> None:
    """Raise a DecodeError when one of the refusals applies to the file."""
    for applies, what in refusals:
        if applies(info):
            raise DecodeError(
                f"has {what}, of which the reader {reader!r} gives wrong frames or "
                "none. Set DATA.DECODING_BACKEND pyav",
                info.path,
            )


def check_size(info: VideoInfo, frames: Tensor, reader: str) -> None:
    """Raise a DecodeError unless frames (T, H, W, 3) are as large as the file says, or turned."""
    height, width = frames.shape[1:3]
    if info.size_px not in ((width, height), (height, width)):
        raise DecodeError(
            f"the reader {reader!r} gave pictures of {width} x {height} pixels, the "
            f"file says {info.size_px[0]} x {info.size_px[1]}. Encode it again with "
            "data_prep/resize_videos.py",
            info.path,
        )
