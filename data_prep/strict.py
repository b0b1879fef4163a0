"""A whole video decoded strictly: the first error ends it, and so does what no decoder minds.

Decoders hide errors: they repeat the last good picture, or stop early without a word. Here a
damaged packet is an error, each packet has to give its frame, and the frames together have to last
as long as the header of the file says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import av

from data_prep.journal import Record
from slowfast_mvit.data.video import packet_checks, packets
from slowfast_mvit.data.video.rotation import orientation_of
from slowfast_mvit.errors import DecodeError

# How much shorter than its header says a video may be: muxers round, and count a last frame or not.
_SHORTER_S = 0.1
_SHORTER_FRAMES = 2
_SHORTER_FRACTION = 0.01


@contextlib.contextmanager
def open_strictly(path: Path, file: BinaryIO) -> Iterator[StrictVideo]:
    """Open a video for one strict pass.

    Args:
        path: for messages.
        file: the opened file; it stays open.

    Raises:
        DecodeError: when it holds no video that may be read.
    """
    budget = packets.Budget(path)
    with packets.open_container(path, file, budget) as container:
        stream = packets.first_video_stream(path, container)
        yield StrictVideo(path, container, stream, budget)


class StrictVideo:
    """One pass over a video: take ``frames`` to the end, then ask for ``contents`` and ``verdict``.

    Attributes:
        container: the opened file.
        stream: the first video stream that is no cover picture.
        num_frames: decoded so far.
        pts: when these are shown, in the stream's time base; None where the file does not say.
        rotation: how far pictures are to be turned anticlockwise, 0, 90, 180 or 270 degrees; of
            pictures that are shown mirrored, what FFmpeg makes of it.
    """

    def __init__(
        self,
        path: Path,
        container: av.container.InputContainer,
        stream: av.video.stream.VideoStream,
        budget: packets.Budget,
    ) -> None:
        self.stream = stream
        self.pts: list[int | None] = []
        self.rotation = 0
        self._is_transposed = False
        self._path = path
        self.container = container
        self._budget = budget
        self._num_all_packets = 0
        self._num_packets = 0  # that should give a frame each
        self._num_keys = 0
        self._sizes: dict[tuple[int, int], None] = {}  # in the order in which they come, as coded
        self._first_s: float | None = None
        self._end_s = 0.0
        self._end_of_all_s = 0.0  # of all streams

    @property
    def num_frames(self) -> int:
        return len(self.pts)

    def shown_pts(self) -> list[int] | None:
        """When each frame is shown, in order, from the packets alone; None where they do not say.

        It reads the file to its end: open it again for the frames.
        """
        if packets.times_are_guessed(self.container, self.stream):
            return None
        shown = [packet.pts for packet in self._video_packets() if _gives_frame(packet)]
        known = [pts for pts in shown if pts is not None]
        return sorted(known) if len(known) == len(shown) else None

    def _video_packets(self) -> Iterator[av.Packet]:
        for packet in packet_checks.packets_of(self.container, self.stream):
            self._budget.check_time()
            self._budget.restart()  # the job as a whole has a time limit of its own
            yield packet

    def frames(self) -> Iterator[av.VideoFrame]:
        """All frames that are shown, in order.

        Raises:
            DecodeError: at the first damage; says after how many frames.
        """
        codec = self.stream.codec_context
        codec.thread_type, codec.thread_count = "NONE", 1
        codec.options = {"max_pixels": str(packets.MAX_PIXELS), "err_detect": "explode"}
        try:
            for packet in packet_checks.packets_of(self.container):
                self._budget.check_time()
                self._budget.restart()
                is_video = packet.stream.index == self.stream.index
                self._note_times(packet, is_video)
                if is_video:
                    self._note_packet(packet)
                    yield from self._noted(codec.decode(packet))
            yield from self._noted(codec.decode(None))
        except packets.LIBRARY_ERRORS as error:
            if isinstance(error, DecodeError):
                raise
            raise DecodeError(
                f"damaged after {self.num_frames} frames ({packets.reason(error)})", self._path
            ) from error

    def _note_times(self, packet: av.Packet, is_video: bool) -> None:
        if packet.pts is None or packet.time_base is None:
            return
        start_s = float(packet.pts * packet.time_base)
        end_s = start_s + float((packet.duration or 0) * packet.time_base)
        self._end_of_all_s = max(self._end_of_all_s, end_s)
        if is_video and not packet.is_discard:
            self._first_s = start_s if self._first_s is None else min(self._first_s, start_s)
            self._end_s = max(self._end_s, end_s)

    def _note_packet(self, packet: av.Packet) -> None:
        if packet.is_corrupt:
            raise DecodeError(f"packet {self._num_packets} is marked as damaged", self._path)
        self._num_all_packets += 1
        self._num_packets += _gives_frame(packet)
        self._num_keys += packet.is_keyframe

    def _noted(self, frames: Sequence[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for frame in frames:
            if frame.is_corrupt:
                raise DecodeError(f"frame {self.num_frames} is damaged", self._path)
            self.pts.append(frame.pts)
            if not self._sizes:
                self.rotation = round(frame.rotation) % 360
                self._is_transposed = orientation_of(self._path, frame).is_transposed
            self._sizes[frame.width, frame.height] = None
            yield frame

    def contents(self) -> Record:
        """Return what the header says and what was seen, as fields; the size as shown, upright."""
        codec = self.stream.codec_context
        width, height = next(iter(self._sizes), (codec.width, codec.height))
        if self._is_transposed:
            width, height = height, width
        return {
            "container": self.container.format.name,
            "codec": codec.codec.canonical_name,
            "pix_fmt": codec.pix_fmt or "",
            "fps": round(self._fps(), 6),
            "frames": self.num_frames,
            "key_frames": self._num_keys,
            "width": width,
            "height": height,
            "rotation": self.rotation,
            "duration_s": round(self._shown_s(), 6),
        }

    def is_of_one_size(self) -> bool:
        """Return whether all frames so far are equally large."""
        return len(self._sizes) < 2

    def verdict(self) -> Record:
        """Return whether what was decoded without an error is also complete, and why not."""
        expected_s, shown_s = self._header_s(), self._shown_s()
        expected_packets = self._packets_in_header()
        if self.stream.duration is None:  # the header then speaks of the longest stream
            start_s = (self.container.start_time or 0) / av.time_base
            shown_s = max(shown_s, self._end_of_all_s - start_s)
        frame_s = shown_s / max(self.num_frames, 1)
        shorter_s = max(_SHORTER_S, _SHORTER_FRAMES * frame_s, _SHORTER_FRACTION * expected_s)
        is_counted = not packets.times_are_guessed(self.container, self.stream)
        status, reason = "failed", ""
        if self.num_frames == 0:
            reason = "holds no frames"
        elif is_counted and self.num_frames < self._num_packets:
            reason = f"{self.num_frames} of {self._num_packets} packets gave a frame"
        elif self._num_all_packets < expected_packets:
            reason = f"cut short: {self._num_all_packets} of {expected_packets} packets are there"
        elif shown_s < expected_s - shorter_s:
            reason = (
                f"cut short: {self.num_frames} frames last {shown_s:.2f} s of the "
                f"{expected_s:.2f} s that the header says"
            )
        elif not self.is_of_one_size():
            status = "suspect"
            sizes = ", ".join(f"{width} x {height}" for width, height in self._sizes)
            reason = f"frames of different sizes: {sizes}"
        return {"status": status if reason else "ok", "reason": reason}

    def _packets_in_header(self) -> int:
        """Return how many packets the header names, where that can be relied on; else 0."""
        return self.stream.frames if self.container.format.name.startswith("mov,mp4") else 0

    def _fps(self) -> float:
        return float(self.stream.average_rate or self.stream.guessed_rate or 0)

    def _shown_s(self) -> float:
        """From the first frame to the end of the last."""
        if self._first_s is not None:
            return self._end_s - self._first_s
        return self.num_frames / self._fps() if self._fps() else 0.0

    def _header_s(self) -> float:
        """Return how long the header says that the video is; 0 where it does not say."""
        if self.stream.duration is not None and self.stream.time_base is not None:
            return float(self.stream.duration * self.stream.time_base)
        return (self.container.duration or 0) / av.time_base


def _gives_frame(packet: av.Packet) -> bool:
    """False for frames that an edit list hides, and for the invisible ones of VP8."""
    is_vp8 = packet.stream.codec_context.name == "vp8"
    return not (packet.is_discard or (is_vp8 and packets.is_hidden_vp8(packet)))
