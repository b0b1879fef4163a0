"""Checks that decoding agrees with the packets of a file, made only where there is reason to.

    every packet is marked as a key frame          the second one is decoded alone
    frames are reordered, and no packet says so    many are decoded, and their order is compared
    packets before the first whole group           these are decoded, to see which give a frame

The first two come from files that were copied from one container to another without decoding (an
AVI with B frames to MP4, say), the third from recordings and copies that begin in mid-group.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

MAX_CHECKED = 10_000  # frames: six minutes at 30 frames a second

_NOT_PREDICTED = (PictureType.NONE, PictureType.I)  # NONE: the decoder does not say


def packets_of(container: InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    """Return the next packets of these streams (of all if none is named), without empty ones."""
    while True:
        try:
            for packet in container.demux(*streams):
                if packet.size > 0:
                    yield packet
            return
        except IndexError:  # PyAV at the end of a file in which a stream began later
            continue


def packets_after_opening(stream: VideoStream) -> Iterator[av.Packet]:
    """Return all packets of a stream whose file was just opened, also those before a key frame."""
    container = stream.container
    assert isinstance(container, InputContainer)
    return packets_of(container, stream)


def decoded_alone(container: InputContainer, stream: VideoStream, pts: int) -> av.VideoFrame | None:
    """Return the frame that the packet shown at ``pts`` gives alone, or None."""
    container.seek(pts, stream=stream, backward=True)
    packet = next((p for p in packets_of(container, stream) if p.pts == pts), None)
    frames = [] if packet is None else list(_frames_of(stream, [packet]))
    return frames[0] if frames else None


def is_whole(frame: av.VideoFrame | None) -> bool:
    """Return whether a frame was decoded, and not predicted from another."""
    return frame is not None and PictureType(frame.pict_type) in _NOT_PREDICTED


def are_decoded_in_order(stream: VideoStream, spend: Callable[[], None]) -> bool:
    """Return whether each decoded frame is shown after the one before; calls ``spend`` for each.

    The stream is of a file that was just opened. The first ``MAX_CHECKED`` frames are decoded:
    where B frames are in use, they are among those.
    """
    last = None
    first_ones = itertools.islice(packets_after_opening(stream), MAX_CHECKED)
    for frame in _frames_of(stream, first_ones):
        spend()
        if frame.pts is None or (last is not None and frame.pts <= last):
            return False
        last = frame.pts
    return True


def lost_at_the_start(
    reopen: Callable[[], contextlib.AbstractContextManager[VideoStream]],
    pts: np.ndarray,
    is_key: np.ndarray,
    is_shown: np.ndarray,
) -> list[int]:
    """Return the packets before the first whole group that give no frame.

    These are decoded before the first key frame, or shown before it: they refer to frames that
    were cut off. Some codecs make a frame of them all the same.

    Args:
        reopen: opens the file again, since a seek may not reach its start.
        pts: when each packet is shown.
        is_key: whether decoding can start at each packet.
        is_shown: whether each packet is marked as shown.
    """
    first_key = int(is_key.argmax()) if is_key.any() else 0
    if len(pts) == 0 or (first_key == 0 and pts[0] == pts.min()):
        return []
    is_before = pts < pts[first_key]
    is_before[:first_key] = True
    doubtful = np.flatnonzero(is_shown & is_before).tolist()
    if not doubtful:
        return []
    with reopen() as stream:
        first_ones = itertools.islice(packets_after_opening(stream), max(doubtful) + 1)
        decoded = {frame.pts for frame in _frames_of(stream, first_ones)}
    return [place for place in doubtful if int(pts[place]) not in decoded]


def _frames_of(stream: VideoStream, packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
    """Decode these packets; what cannot be decoded is left out, as ffmpeg does."""
    codec = stream.codec_context
    codec.flush_buffers()
    try:
        for packet in itertools.chain(packets, (None,)):  # None: the end
            with contextlib.suppress(av.error.FFmpegError):
                yield from codec.decode(packet)
    finally:
        codec.flush_buffers()
