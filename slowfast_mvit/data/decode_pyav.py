"""The PyAV reader: exact frames of a video file, decoding no more than they need.

    open:    read the packets without decoding them -> when each frame is shown, where the key
             frames are
    frames:  for each run of wanted frames, seek to the key frame they depend on, decode from there
             to the last wanted one and convert the wanted ones to RGB

What makes it quick, each measured: one converter (``VideoReformatter``) with one thread for all
frames; frames that nobody asked for and no other frame refers to are skipped undecoded; decoding
stops right after the last wanted packet; one thread, since workers share the machine.
"""

from __future__ import annotations

import bisect
import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import av.video.reformatter
import numpy as np
import torch
from torch import Tensor

from slowfast_mvit.data.reading import check_indices, open_plain_file
from slowfast_mvit.errors import DecodeError

MAX_PIXELS = 4096 * 2304  # of a frame
MAX_DECODED_FRAMES = 100_000  # in one call of ``frames``
MAX_SECONDS = 120.0  # in one call of ``frames``

# Formats that hold a video. Others (playlists, stream descriptions) can name further files and
# hosts; no protocol is allowed either, since the file is already open.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,flv,asf,mpeg,ogg"
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}

# Codecs of which unreferenced frames may be skipped without harm to the others.
_SKIPPING_CODECS = ("h264", "hevc")

_LIBRARY_ERRORS = (av.error.FFmpegError, OSError, ValueError, EOFError, MemoryError)


@dataclass(frozen=True)
class _Index:
    """What the packets say, in the order in which they are decoded.

    Attributes:
        pts: when each packet's frame is shown, in the stream's time base.
        is_key: whether decoding can start at it.
        shown: the packets whose frames are shown, in the order in which they are.
        order_of_pts: the place of each packet in ``pts``.
    """

    pts: list[int]
    is_key: list[bool]
    shown: list[int]
    order_of_pts: dict[int | None, int]


@dataclass
class _Run:
    """Packets to decode without a gap: from a key frame to the last wanted packet."""

    first: int
    last: int
    wanted: set[int]


@contextlib.contextmanager
def open_pyav(path: Path) -> Iterator[PyavReader]:
    """Open a video file with PyAV and close it again.

    Raises:
        DecodeError: when it is not a video in a known format.
    """
    with open_plain_file(path) as file:
        with _as_decode_errors(path):
            container = av.open(file, "r", options=dict(_OPTIONS))
        with container:  # without closing, each leaves a thread and a descriptor behind
            with _as_decode_errors(path):
                reader = PyavReader(path, container)
            yield reader


@contextlib.contextmanager
def _as_decode_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except _LIBRARY_ERRORS as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError(f"{path}: the reader 'pyav' cannot read it ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    """The library's words without the path, which our message already names."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class PyavReader:
    """One opened video file. Use ``open_pyav``, which closes it.

    Attributes:
        num_frames: frames that are shown.
        fps: frames per second on average.
        times_s: (num_frames,) float64, when each frame is shown, in seconds from the first.
    """

    def __init__(self, path: Path, container: av.container.InputContainer) -> None:
        self._path = path
        self._container = container
        self._stream = _first_video_stream(path, container)
        self._codec = self._stream.codec_context
        self._codec.thread_type = "NONE"
        self._codec.thread_count = 1
        self._codec.options = {"max_pixels": str(MAX_PIXELS)}
        self._size = (self._codec.width, self._codec.height)
        if self._size[0] * self._size[1] > MAX_PIXELS:
            raise DecodeError(
                f"{path}: frames of {self._size[0]} x {self._size[1]} pixels are larger than the "
                f"{MAX_PIXELS:,} that are accepted. Scale the video down"
            )
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._index = None if self._times_are_guessed() else _index_of(self._packets())
        if self._index is None:
            self.num_frames = self._count_frames()
            shown_pts = None
        else:
            self.num_frames = len(self._index.shown)
            shown_pts = np.array([self._index.pts[i] for i in self._index.shown], dtype=np.float64)
        if self.num_frames == 0:
            raise DecodeError(f"{path}: the video stream holds no frames")
        self.fps, self.times_s = self._timing(shown_pts)

    def frames(self, indices: Sequence[int]) -> Tensor:
        """The frames at ``indices``, repeats allowed, as uint8 RGB (len(indices), H, W, 3).

        Raises:
            DecodeError: when the file ends or breaks before, or needs more than ``MAX_SECONDS``
                or ``MAX_DECODED_FRAMES``.
            IndexError: when an index is not from 0 to ``num_frames`` - 1.
        """
        check_indices(self._path, indices, self.num_frames)
        wanted = sorted(set(indices))
        images: dict[int, Tensor] = {}
        try:
            for index, image in self._decode_wanted(wanted):
                images[index] = image
        except _LIBRARY_ERRORS as error:
            if isinstance(error, DecodeError):
                raise
            reason = f"then a packet is damaged ({_reason(error)})"
            raise self._incomplete(images, wanted, reason) from error
        if len(images) < len(wanted):
            raise self._incomplete(images, wanted, "then the file ended")
        return torch.stack([images[index] for index in indices])

    def _incomplete(
        self, images: dict[int, Tensor], wanted: Sequence[int], reason: str
    ) -> DecodeError:
        missing = next(index for index in wanted if index not in images)
        return DecodeError(
            f"{self._path}: the reader 'pyav' gave {len(images)} of {len(wanted)} frames, "
            f"{reason}; frame {missing} of {self.num_frames} is the first it lacks. "
            "Copy or download the video again, or drop it from the list"
        )

    def _decode_wanted(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        budget = _Budget(self._path)
        if self._index is None:
            yield from self._decode_counting(set(wanted), budget)
            return
        frame_of_pts = {self._index.pts[self._index.shown[index]]: index for index in wanted}
        packets = sorted(self._index.shown[index] for index in wanted)
        for run in _runs(self._index, packets):
            for frame in self._decode_run(self._index, run, budget):
                if frame.pts in frame_of_pts:
                    yield frame_of_pts.pop(frame.pts), self._to_rgb(frame)
        if frame_of_pts:  # a seek or a key frame that is none led astray: once more from the start
            everything = _Run(0, max(packets), set(range(len(self._index.pts))))
            for frame in self._decode_run(self._index, everything, budget):
                if frame.pts in frame_of_pts:
                    yield frame_of_pts.pop(frame.pts), self._to_rgb(frame)

    def _decode_run(self, index: _Index, run: _Run, budget: _Budget) -> Iterator[av.VideoFrame]:
        can_skip = self._codec.name in _SKIPPING_CODECS
        for place, packet in self._packets_from(index, run.first):
            budget.spend()
            if can_skip:
                self._codec.skip_frame = "DEFAULT" if place in run.wanted else "NONREF"
            yield from self._codec.decode(packet)
            if place == run.last:
                break
        yield from self._codec.decode(None)
        self._codec.flush_buffers()

    def _packets_from(self, index: _Index, first: int) -> Iterator[tuple[int, av.Packet]]:
        """The packets from the ``first`` on, each with its place in the order of decoding."""
        for pts in (index.pts[first], index.pts[0], min(index.pts)):
            self._container.seek(pts, stream=self._stream, backward=True)
            packets = self._packets()
            placed = ((index.order_of_pts.get(packet.pts, -1), packet) for packet in packets)
            place, packet = next(placed, (first + 1, None))
            if place <= first:
                break
        if packet is not None and place >= first:
            yield place, packet
        yield from ((place, packet) for place, packet in placed if place >= first)

    def _packets(self) -> Iterator[av.Packet]:
        return (packet for packet in self._container.demux(self._stream) if packet.size > 0)

    def _times_are_guessed(self) -> bool:
        """Formats of which a packet, or a seek, does not tell which frame it is."""
        name = self._container.format.name
        return name in ("mpeg", "mpegts") or (name == "avi" and self._codec.has_b_frames)

    def _decode_counting(self, wanted: set[int], budget: _Budget) -> Iterator[tuple[int, Tensor]]:
        """For files whose packets do not say when they are shown: decode from the start, count."""
        for number, frame in enumerate(self._decode_all(budget)):
            if number in wanted:
                yield number, self._to_rgb(frame)
                wanted.discard(number)
            if not wanted:
                break
        self._codec.flush_buffers()

    def _count_frames(self) -> int:
        return sum(1 for _ in self._decode_all(_Budget(self._path)))

    def _decode_all(self, budget: _Budget) -> Iterator[av.VideoFrame]:
        start = self._stream.start_time or 0
        if self._container.format.name != "avi":
            start -= 1 << 20  # MPEG streams reach their start only from well before it
        self._container.seek(start, stream=self._stream, backward=True)
        self._codec.flush_buffers()
        for packet in self._packets():
            budget.spend()
            yield from self._codec.decode(packet)
        yield from self._codec.decode(None)
        self._codec.flush_buffers()

    def _to_rgb(self, frame: av.VideoFrame) -> Tensor:
        """(H, W, 3), upright; a frame of another size is scaled to that of the stream."""
        width, height = self._size
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", threads=1
        )
        image = torch.from_numpy(rgb.to_ndarray())
        quarter_turns = round(frame.rotation / 90) % 4  # anticlockwise
        return torch.rot90(image, quarter_turns, dims=(0, 1)) if quarter_turns else image

    def _timing(self, shown_pts: np.ndarray | None) -> tuple[float, np.ndarray]:
        """Frames per second on average, and when each frame is shown."""
        rate = self._stream.average_rate or self._stream.guessed_rate or self._stream.base_rate
        fps = float(rate) if rate else 0.0
        if shown_pts is None or self._stream.time_base is None:
            if fps <= 0:
                raise DecodeError(f"{self._path}: neither a frame rate nor times of frames")
            return fps, np.arange(self.num_frames) / fps
        times_s = (shown_pts - shown_pts[0]) * float(self._stream.time_base)
        if fps <= 0:
            fps = (self.num_frames - 1) / times_s[-1] if self.num_frames > 1 else 1.0
        return fps, times_s


class _Budget:
    """Counts decoded packets and seconds, so that no file keeps a worker for ever."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._num_frames = 0
        self._end_s = time.monotonic() + MAX_SECONDS

    def spend(self) -> None:
        self._num_frames += 1
        if self._num_frames > MAX_DECODED_FRAMES:
            raise DecodeError(
                f"{self._path}: more than {MAX_DECODED_FRAMES:,} frames would have to be decoded. "
                "Encode it with a key frame every few seconds"
            )
        if time.monotonic() > self._end_s:
            raise DecodeError(f"{self._path}: not decoded within {MAX_SECONDS:g} s")


def _first_video_stream(
    path: Path, container: av.container.InputContainer
) -> av.video.stream.VideoStream:
    """The first video stream that is not a cover picture."""
    for stream in container.streams.video:
        is_cover = bool(stream.disposition & av.stream.Disposition.attached_pic)
        if not is_cover and stream.codec_context is not None:
            return stream
    raise DecodeError(f"{path}: holds no video stream")


def _index_of(packets: Iterable[av.Packet]) -> _Index | None:
    """The index of a stream; None where not every packet says when its frame is shown."""
    pts: list[int] = []
    is_key: list[bool] = []
    shown: list[int] = []
    for place, packet in enumerate(packets):
        if packet.pts is None:
            return None
        pts.append(packet.pts)
        is_key.append(packet.is_keyframe)
        if not packet.is_discard and _gives_frame(packet):
            shown.append(place)
    order_of_pts: dict[int | None, int] = {value: place for place, value in enumerate(pts)}
    if len(order_of_pts) < len(pts):
        return None
    shown.sort(key=pts.__getitem__)
    return _Index(pts, is_key, shown, order_of_pts)


def _gives_frame(packet: av.Packet) -> bool:
    """False for the invisible reference frames of VP8, which lie in packets of their own."""
    if packet.stream.codec_context.name != "vp8":
        return True
    return bool(bytes(packet)[0] & 0x10)  # show_frame, RFC 6386 section 9.1


def _runs(index: _Index, packets: Sequence[int]) -> list[_Run]:
    """The runs that decode these packets (places in decoding order, sorted)."""
    keys = [place for place, key in enumerate(index.is_key) if key]
    runs: list[_Run] = []
    for place in packets:
        first = _key_before(index, keys, place)
        if runs and first <= runs[-1].last + 1:
            runs[-1].last = place
            runs[-1].wanted.add(place)
        else:
            runs.append(_Run(first, place, {place}))
    return runs


def _key_before(index: _Index, keys: Sequence[int], place: int) -> int:
    """The key frame to start from: the last one before, both in decoding and in showing.

    A frame that is decoded after a key frame but shown before it (open GOP) refers to frames
    before that key frame.
    """
    for key in reversed(keys[: bisect.bisect_right(keys, place)]):
        if index.pts[key] <= index.pts[place]:
            return key
    return 0
