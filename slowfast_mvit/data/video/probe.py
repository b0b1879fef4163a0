"""Probe a video file before another library decodes it, and refuse what that library reads wrongly.

The packets are read with PyAV, so that every reader counts frames alike. A file of a kind that the
library is known to read wrongly is refused before a frame of it is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slowfast_mvit.data.video import packet_index, packets
from slowfast_mvit.data.video.packet_checks import decoded_alone, is_whole
from slowfast_mvit.data.video.rotation import orientation_of
from slowfast_mvit.data.video.shards import open_plain_file
from slowfast_mvit.errors import DecodeError


@dataclass(frozen=True)
class VideoInfo:
    """The properties of a file before a frame of it is decoded.

    Attributes:
        path: the file.
        format: the container, as FFmpeg names it ("mov,mp4,m4a,3gp,3g2,mj2", "avi").
        codec: of the video stream, as FFmpeg names it ("h264").
        stream_index: of the video stream, among all streams.
        num_video_streams: without cover images.
        size_px: (width, height) before any rotation.
        is_mirrored: whether the frames are shown mirrored, apart from any rotation.
        has_whole_keys: whether decoding can start at the second key frame, where there is one.
        has_palette: whether frames are numbers of colours in a palette.
        index: the packets.
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
    is_mirrored: bool
    has_whole_keys: bool
    has_palette: bool
    index: packet_index.PacketIndex
    num_frames: int
    fps: float
    times_s: np.ndarray
    start_s: float


# A kind of file that a library reads wrongly: a description, and the condition that detects it.
Refusal = tuple[str, Callable[[VideoInfo], bool]]

MIRRORED: Refusal = ("frames that are shown mirrored", lambda info: info.is_mirrored)
REFRESHED: Refusal = (
    "key frames that only begin a gradual refresh",
    lambda info: not info.has_whole_keys,
)
PALETTED: Refusal = ("a palette, which is lost by seeking", lambda info: info.has_palette)
_UNTIMED = "packets that do not say when they are shown (MPEG streams, AVI with B frames)"


def probe_video(path: Path, reader: str, refusals: Sequence[Refusal]) -> VideoInfo:
    """Read the packets of a file for a reader that decodes with another library than PyAV.

    Raises:
        DecodeError: when it is not a video in a known format, over a limit, or of a kind that the
            reader would read wrongly.
    """
    budget = packets.Budget(path)
    key = packet_index.key_of(path)
    with (
        open_plain_file(path) as file,
        packets.open_container(path, file, budget) as container,
        packets.as_decode_errors(path, "pyav"),
    ):
        stream = packets.first_video_stream(path, container)
        index = packets.read_index(path, file, container, stream, budget, key)
        if index is None:
            raise _refusal(path, reader, _UNTIMED)
        fps, times_s = packets.timing(path, stream, index, len(index.shown))
        keys = index.pts[index.is_key][:2].tolist()
        first, *second = (decoded_alone(container, stream, pts) for pts in keys)
        info = VideoInfo(
            path=path,
            format=container.format.name,
            codec=stream.codec_context.name,
            stream_index=stream.index,
            num_video_streams=len(packets.video_streams(container)),
            size_px=(stream.codec_context.width, stream.codec_context.height),
            is_mirrored=first is not None and orientation_of(path, first).is_mirrored(),
            has_palette=stream.codec_context.pix_fmt == packets.PALETTE_FORMAT,
            has_whole_keys=all(is_whole(frame) for frame in second),
            index=index,
            num_frames=len(index.shown),
            fps=fps,
            times_s=times_s,
            start_s=float(index.pts[index.shown[0]] * (stream.time_base or 0)),
        )
    for description, applies in refusals:
        if applies(info):
            raise _refusal(path, reader, description)
    return info


def _refusal(path: Path, reader: str, description: str) -> DecodeError:
    return DecodeError(
        f"has {description}, of which the reader {reader!r} gives wrong frames or none. "
        "Set DATA.DECODING_BACKEND pyav",
        path,
    )
