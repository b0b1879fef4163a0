"""Strict decoding of a whole video: the first error ends it, also errors that decoders hide.

Decoders repeat the last good frame, or stop early without a message. Here a damaged packet is an
error, each packet must give its frame, and the frames together must last as long as the header of
the file says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import av

from data_prep.journal import Record
from slowfast_mvit.data.video import packet_checks, packets
from slowfast_mvit.data.video.rotation import orientation_of
from slowfast_mvit.errors import DecodeError

# A video may be shorter than its header says: muxers round, and count a last frame or not.
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
        DecodeError: when it contains no readable video.
    """
    budget = packets.Budget(path)
    with packets.open_container(path, file, budget) as container:
        stream = packets.first_video_stream(path, container)
        yield StrictVideo(path, container, stream, budget)


@dataclass
class StrictVideo:
    """One pass over a video: take ``frames`` to the end, then ``contents`` and ``verdict``.

    Attributes:
        path: for messages.
        container: the opened file.
        stream: the first video stream that is no cover image.
        budget: the time limit of one packet; the job as a whole has a time limit too.
        pts: when the decoded frames are shown, in the stream's time base; None where unknown.
        rotation: anticlockwise rotation to apply, 0, 90, 180 or 270 degrees; of frames that are
            shown mirrored, as FFmpeg gives it.
        is_transposed: whether width and height are exchanged when a frame is shown.
        num_all_packets: of the stream.
        num_packets: those that should give a frame each.
        num_keys: key frames.
        sizes: of the frames as coded, in the order of their first frames.
        first_s, end_s: start of the first packet and end of the last.
        end_of_all_s: the same of all streams.
    """

    path: Path
    container: av.container.InputContainer
    stream: av.video.stream.VideoStream
    budget: packets.Budget
    pts: list[int | None] = field(default_factory=list)
    rotation: int = 0
    is_transposed: bool = False
    num_all_packets: int = 0
    num_packets: int = 0
    num_keys: int = 0
    sizes: dict[tuple[int, int], None] = field(default_factory=dict)
    first_s: float | None = None
    end_s: float = 0.0
    end_of_all_s: float = 0.0

    @property
    def num_frames(self) -> int:
        """Number of frames decoded so far."""
        return len(self.pts)

    def _packets(self, *streams: av.stream.Stream) -> Iterator[av.Packet]:
        for packet in packet_checks.packets_of(self.container, *streams):
            self.budget.check_time()
            self.budget.restart()
            yield packet

    def shown_pts(self) -> list[int] | None:
        """Presentation times in order, from the packets alone; None where these have no times.

        It reads the file to its end: open it again for the frames.
        """
        if packets.times_are_guessed(self.container, self.stream):
            return None
        shown = [packet.pts for packet in self._packets(self.stream) if _gives_frame(packet)]
        known = [pts for pts in shown if pts is not None]
        return sorted(known) if len(known) == len(shown) else None

    def frames(self) -> Iterator[av.VideoFrame]:
        """All frames that are shown, in order.

        Raises:
            DecodeError: at the first damage; with the number of good frames.
        """
        codec = self.stream.codec_context
        codec.thread_type, codec.thread_count = "NONE", 1
        codec.options = {"max_pixels": str(packets.MAX_PIXELS), "err_detect": "explode"}
        try:
            for packet in self._packets():
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
                f"damaged after {self.num_frames} frames ({packets.reason(error)})", self.path
            ) from error

    def _note_times(self, packet: av.Packet, is_video: bool) -> None:
        if packet.pts is None or packet.time_base is None:
            return
        start_s = float(packet.pts * packet.time_base)
        end_s = start_s + float((packet.duration or 0) * packet.time_base)
        self.end_of_all_s = max(self.end_of_all_s, end_s)
        if is_video and not packet.is_discard:
            self.first_s = start_s if self.first_s is None else min(self.first_s, start_s)
            self.end_s = max(self.end_s, end_s)

    def _note_packet(self, packet: av.Packet) -> None:
        if packet.is_corrupt:
            raise DecodeError(f"packet {self.num_packets} is marked as damaged", self.path)
        self.num_all_packets += 1
        self.num_packets += _gives_frame(packet)
        self.num_keys += packet.is_keyframe

    def _noted(self, frames: Sequence[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for frame in frames:
            if frame.is_corrupt:
                raise DecodeError(f"frame {self.num_frames} is damaged", self.path)
            self.pts.append(frame.pts)
            if not self.sizes:
                self.rotation = round(frame.rotation) % 360
                self.is_transposed = orientation_of(self.path, frame).is_transposed
            self.sizes[frame.width, frame.height] = None
            yield frame

    def contents(self) -> Record:
        """The fields of the header and of the decoded frames; the size as shown, upright."""
        codec = self.stream.codec_context
        width, height = next(iter(self.sizes), (codec.width, codec.height))
        if self.is_transposed:
            width, height = height, width
        return {
            "container": self.container.format.name,
            "codec": codec.codec.canonical_name,
            "pix_fmt": codec.pix_fmt or "",
            "fps": round(self._fps(), 6),
            "frames": self.num_frames,
            "key_frames": self.num_keys,
            "width": width,
            "height": height,
            "rotation": self.rotation,
            "duration_s": round(self._shown_s(), 6),
        }

    def is_of_one_size(self) -> bool:
        """Return whether all frames so far are equally large."""
        return len(self.sizes) < 2

    def verdict(self) -> Record:
        """The status of a video that was decoded without an error, with a reason if not ok."""
        expected_s, shown_s = self._header_s(), self._shown_s()
        expected_packets = self._packets_in_header()
        if self.stream.duration is None:  # the header is then of the longest stream
            start_s = (self.container.start_time or 0) / av.time_base
            shown_s = max(shown_s, self.end_of_all_s - start_s)
        frame_s = shown_s / max(self.num_frames, 1)
        shorter_s = max(_SHORTER_S, _SHORTER_FRAMES * frame_s, _SHORTER_FRACTION * expected_s)
        is_counted = not packets.times_are_guessed(self.container, self.stream)
        status, reason = "failed", ""
        if self.num_frames == 0:
            reason = "contains no frames"
        elif is_counted and self.num_frames < self.num_packets:
            reason = f"{self.num_frames} of {self.num_packets} packets gave a frame"
        elif self.num_all_packets < expected_packets:
            reason = f"cut short: {self.num_all_packets} of {expected_packets} packets are there"
        elif shown_s < expected_s - shorter_s:
            reason = (
                f"cut short: {self.num_frames} frames last {shown_s:.2f} s of the "
                f"{expected_s:.2f} s in the header"
            )
        elif not self.is_of_one_size():
            status = "suspect"
            sizes = ", ".join(f"{width} x {height}" for width, height in self.sizes)
            reason = f"frames of different sizes: {sizes}"
        return {"status": status if reason else "ok", "reason": reason}

    def _packets_in_header(self) -> int:
        """The number of packets in the header, where that is reliable; else 0."""
        return self.stream.frames if self.container.format.name.startswith("mov,mp4") else 0

    def _fps(self) -> float:
        return float(self.stream.average_rate or self.stream.guessed_rate or 0)

    def _shown_s(self) -> float:
        """From the first frame to the end of the last."""
        if self.first_s is not None:
            return self.end_s - self.first_s
        return self.num_frames / self._fps() if self._fps() else 0.0

    def _header_s(self) -> float:
        """The duration in the header; 0 where there is none."""
        if self.stream.duration is not None and self.stream.time_base is not None:
            return float(self.stream.duration * self.stream.time_base)
        return (self.container.duration or 0) / av.time_base


def _gives_frame(packet: av.Packet) -> bool:
    """False for frames that an edit list hides, and for the invisible ones of VP8."""
    is_vp8 = packet.stream.codec_context.name == "vp8"
    return not (packet.is_discard or (is_vp8 and packets.is_hidden_vp8(packet)))
