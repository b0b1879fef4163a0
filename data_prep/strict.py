"""Strict decoding of a whole video: the first error ends it, also errors that decoders hide.

Decoders repeat the last good frame, or stop early without a message. Here a damaged packet is an
error, each frame that the reader counts must be decoded, and the frames together must last as long
as the header of the file says. Packets before the first whole group are exempt: they refer to
frames that were cut off, as in every copy that begins in mid-group.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import av

from data_prep.journal import Record
from slowfast_mvit.data.video import packet_checks, packets
from slowfast_mvit.data.video.packet_index import PacketIndex
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
    index = _index_of(path, file, budget)
    budget.restart()
    with packets.open_container(path, file, budget) as container:
        stream = packets.first_video_stream(path, container, packets.MAX_RESIZED_PIXELS)
        yield StrictVideo(path, container, stream, budget, index)


def _index_of(path: Path, file: BinaryIO, budget: packets.Budget) -> PacketIndex | None:
    """Return the reader's index; None for a damaged file, of which decoding gives the reason."""
    index = None
    with packets.open_container(path, file, budget) as container:
        stream = packets.first_video_stream(path, container, packets.MAX_RESIZED_PIXELS)
        try:
            index = packets.read_index(path, file, container, stream, budget)
        except packets.LIBRARY_ERRORS as error:
            if isinstance(error, DecodeError):
                raise
        budget.check_time()
    return index


@dataclass
class StrictVideo:
    """One pass over a video: take ``frames`` to the end, then ``contents`` and ``verdict``.

    Attributes:
        path: for messages.
        container: the opened file.
        stream: the first video stream that is no cover image.
        budget: the time limit of one packet; the job as a whole has a time limit too.
        index: the packets, as the reader uses them; None where they do not say what is shown.
        pts: when the decoded frames are shown, in the stream's time base; None where unknown.
        dts: when the packets are decoded, likewise.
        rotation: anticlockwise rotation to apply, 0, 90, 180 or 270 degrees; of frames that are
            shown mirrored, as FFmpeg gives it.
        is_transposed: whether width and height are exchanged when a frame is shown.
        num_all_packets: of the stream.
        num_packets: those that should give a frame each.
        num_keys: key frames.
        first_key_pts: when the first of them is shown.
        leading_pts: when the packets before the first whole group are shown.
        awaited_pts: when the frames of the index are shown that are not decoded yet.
        sizes: of the frames as coded, in the order of their first frames.
        first_s, end_s: start of the first packet and end of the last.
        end_of_all_s: the same of all streams.
    """

    path: Path
    container: av.container.InputContainer
    stream: av.video.stream.VideoStream
    budget: packets.Budget
    index: PacketIndex | None
    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    rotation: int = 0
    is_transposed: bool = False
    num_all_packets: int = 0
    num_packets: int = 0
    num_keys: int = 0
    first_key_pts: int | None = None
    leading_pts: set[int | None] = field(default_factory=set)
    awaited_pts: set[int | None] = field(default_factory=set)
    sizes: dict[tuple[int, int], None] = field(default_factory=dict)
    first_s: float = math.inf
    end_s: float = 0.0
    end_of_all_s: float = 0.0

    def __post_init__(self) -> None:
        if self.index is not None:
            self.awaited_pts = set(self.index.pts[self.index.shown].tolist())

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
        """Presentation times in order; None where they are even, or not in the file.

        Where there is no index, they are known when the frames were decoded.
        """
        if self.index is None:
            return packets.uneven_times(self.stream, self.dts, self.num_frames)
        shown_pts: list[int] = self.index.pts[self.index.shown].tolist()
        return shown_pts

    @property
    def fps(self) -> float:
        """Frames per second on average, as the reader gives it; 0 if unknown."""
        num_frames = self.num_frames if self.index is None else len(self.index.shown)
        try:
            return packets.timing(self.path, self.stream, self.index, num_frames, self.dts)[0]
        except DecodeError:
            return 0.0

    def frames(self) -> Iterator[av.VideoFrame]:
        """All frames that are shown, in order.

        Raises:
            DecodeError: at the first damage; with the number of good frames.
        """
        codec = self.stream.codec_context
        codec.thread_type, codec.thread_count = "NONE", 1
        codec.options = {"max_pixels": str(packets.MAX_RESIZED_PIXELS), "err_detect": "explode"}
        try:
            for packet in self._packets():
                is_video = packet.stream.index == self.stream.index
                self._note_times(packet, is_video)
                if is_video:
                    self._note_packet(packet)
                    yield from self._noted(self._decoded(packet))
            yield from self._noted(codec.decode(None))
        except packets.LIBRARY_ERRORS as error:
            if isinstance(error, DecodeError):
                raise
            raise DecodeError(
                f"damaged after {self.num_frames} frames ({packets.reason(error)})", self.path
            ) from error

    def _decoded(self, packet: av.Packet) -> Sequence[av.VideoFrame]:
        try:
            return self.stream.codec_context.decode(packet)
        except av.error.FFmpegError:
            if packet.pts in self.leading_pts:
                return []
            raise

    def _note_times(self, packet: av.Packet, is_video: bool) -> None:
        if packet.pts is None or packet.time_base is None:
            return
        start_s = float(packet.pts * packet.time_base)
        end_s = start_s + float((packet.duration or 0) * packet.time_base)
        self.end_of_all_s = max(self.end_of_all_s, end_s)
        if is_video and not packet.is_discard:
            self.first_s = min(self.first_s, start_s)
            self.end_s = max(self.end_s, end_s)

    def _note_packet(self, packet: av.Packet) -> None:
        if packet.is_keyframe and self.num_keys == 0:
            self.first_key_pts = packet.pts
        self.num_keys += packet.is_keyframe
        first, pts = self.first_key_pts, packet.pts
        if self.num_keys == 0 or (first is not None and pts is not None and pts < first):
            self.leading_pts.add(packet.pts)
        elif packet.is_corrupt:
            raise DecodeError(f"packet {self.num_packets} is marked as damaged", self.path)
        self.dts.append(packet.dts)
        self.num_all_packets += 1
        self.num_packets += _gives_frame(packet)

    def _noted(self, frames: Sequence[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for frame in frames:
            if frame.is_corrupt and frame.pts not in self.leading_pts:
                raise DecodeError(f"frame {self.num_frames} is damaged", self.path)
            if self.index is not None:
                if frame.pts not in self.awaited_pts:  # made up for one that was cut off
                    continue
                self.awaited_pts.remove(frame.pts)
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
            "fps": round(self.fps, 6),
            "frames": self.num_frames,
            "key_frames": self.num_keys,
            "width": width,
            "height": height,
            "rotation": self.rotation,
            "duration_s": round(self._shown_s(), 6),
        }

    def verdict(self) -> Record:
        """The status of a video that was decoded without an error, with a reason if not ok."""
        if reason := self._reason_of_failure():
            return {"status": "failed", "reason": reason}
        largest = max(self.sizes, key=math.prod)
        reason = packets.size_problem(*largest, packets.MAX_PIXELS)
        if len(self.sizes) > 1:
            sizes = ", ".join(f"{width} x {height}" for width, height in self.sizes)
            reason = f"frames of different sizes: {sizes}"
        return {"status": "suspect" if reason else "ok", "reason": reason}

    def _reason_of_failure(self) -> str:
        if self.num_frames == 0:
            return "contains no frames"
        if self.num_keys == 0 and self.num_frames < self.num_packets:
            return "contains no key frame"
        num_expected = self._num_expected()
        if self.num_frames < num_expected:
            return f"{self.num_frames} of {num_expected} packets gave a frame"
        expected_packets = self._packets_in_header()
        if self.num_all_packets < expected_packets:
            return f"cut short: {self.num_all_packets} of {expected_packets} packets are there"
        expected_s, shown_s = self._header_s(), max(self._shown_s(), self.end_s - self.first_s)
        format_name = self.container.format.name
        if None in (self.stream.duration, self.stream.start_time) or format_name == "asf":
            # The header is of the longest stream; in Matroska and WMV, from 0 to its end.
            is_from_0 = format_name.startswith(("matroska", "asf"))
            start_s = 0.0 if is_from_0 else (self.container.start_time or 0) / av.time_base
            shown_s = max(shown_s, self.end_of_all_s - start_s)
        frame_s = shown_s / max(self.num_frames, 1)
        shorter_s = max(_SHORTER_S, _SHORTER_FRAMES * frame_s, _SHORTER_FRACTION * expected_s)
        if shown_s < expected_s - shorter_s:
            return (
                f"cut short: {self.num_frames} frames last {shown_s:.2f} s of the "
                f"{expected_s:.2f} s in the header"
            )
        return ""

    def _num_expected(self) -> int:
        """The number of frames that must be decoded; 0 where packets do not say what is shown."""
        if packets.times_are_guessed(self.container, self.stream):
            return 0
        if self.index is None:
            return self.num_packets - len(self.leading_pts)
        lost = self.awaited_pts & self.leading_pts
        return len(self.index.shown) - len(lost)

    def _packets_in_header(self) -> int:
        """The number of packets in the index of an MP4, without those that an edit list cuts."""
        if not self.container.format.name.startswith("mov,mp4"):
            return 0
        entries = getattr(self.stream, "index_entries", ())  # not in every PyAV that is supported
        return sum(entry.size > 0 for entry in entries)

    def _shown_s(self) -> float:
        """From the first frame to the end of the last."""
        known = [pts for pts in self.pts if pts is not None]
        if known and len(known) == self.num_frames and self.stream.time_base is not None:
            return self.end_s - float(min(known) * self.stream.time_base)
        return self.num_frames / self.fps if self.fps else 0.0

    def _header_s(self) -> float:
        """The duration in the header; 0 where there is none."""
        if self.stream.duration is not None and self.stream.time_base is not None:
            return float(self.stream.duration * self.stream.time_base)
        return (self.container.duration or 0) / av.time_base


def _gives_frame(packet: av.Packet) -> bool:
    """False for frames that an edit list hides, and for the invisible ones of VP8."""
    is_vp8 = packet.stream.codec_context.name == "vp8"
    return not (packet.is_discard or (is_vp8 and packets.is_hidden_vp8(packet)))
