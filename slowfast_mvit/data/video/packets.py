"""The packets of a video file, read without decoding: the index that every reader shares.

One scan gives the number of frames, when each is shown, and which packets are key frames. So every
reader counts frames alike. Where packets may be wrong, a little is decoded (``packet_checks``).
Large files are not scanned each time: MP4 and MOV have an index (``mp4_index``), and the result of
a scan is remembered (``packet_index``).

Files are untrusted: formats, frame size, streams, packets and CPU time are limited. Waiting for
slow storage does not count.
"""

from __future__ import annotations

import array
import contextlib
import functools
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import Container, InputContainer
from av.video.stream import VideoStream

from slowfast_mvit.data.video import packet_checks, packet_index
from slowfast_mvit.data.video.mp4_index import Packets, claims_too_many, indexed_packets
from slowfast_mvit.data.video.packet_index import MAX_PACKETS, PacketIndex
from slowfast_mvit.errors import DecodeError

MAX_PIXELS = 4096 * 2304  # of a frame
MAX_RESIZED_PIXELS = 8192 * 4608  # of a frame that data_prep/resize_videos.py scales down
PALETTE_FORMAT = "pal8"
MAX_STREAMS = 64
MAX_DECODED_FRAMES = 100_000  # in one call of ``frames``
MAX_SCAN_SECONDS = 30.0  # of CPU time, for opening, where nothing has to be decoded
MAX_SECONDS = 120.0  # of CPU time, in one call of ``frames``

# Formats that hold a video. Others (playlists, stream descriptions) can name further files and
# hosts; no protocol is allowed either, since the file is already open.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,flv,asf,mpeg,ogg"
_IN_NO_FORMAT = (
    "damaged, or in no format that is read (MP4, MOV, 3GP, MKV, WebM, AVI, MPEG-TS and PS, FLV, "
    "WMV, Ogg). Convert it with ffmpeg"
)

# The time of day, file and line from decord; function, file and line from torchcodec. The same
# failure has to read the same in every run.
_LOG_PREFIX = re.compile(r"^(\[\d\d:\d\d:\d\d\] \S+:\d+: |\w+, \S+:\d+, )+")

LIBRARY_ERRORS = (av.error.FFmpegError, OSError, ValueError, EOFError, MemoryError)


def check_indices(path: Path, indices: Sequence[int], num_frames: int) -> None:
    """Refuse frame numbers that the video does not have: a bug of the caller.

    Raises:
        IndexError: names the first of them.
    """
    for index in indices:
        if not 0 <= index < num_frames:
            raise IndexError(f"{path}: frame {index} of 0 to {num_frames - 1} was asked for")


class Budget:
    """Counts packets and seconds of CPU time, so that no file occupies a worker for ever.

    A file on slow storage, or read on a busy machine, only takes longer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.storage_error: OSError | None = None
        self.restart(MAX_SCAN_SECONDS)

    def restart(self, limit_s: float | None = None) -> None:
        """Start again before each decoding; the scan of the packets has its own limit."""
        limit_s = MAX_SECONDS if limit_s is None else limit_s
        self._num_frames = 0
        self._limit_s = limit_s
        self._end_s = time.thread_time() + limit_s

    def spend(self) -> None:
        """Count one decoded packet.

        Raises:
            DecodeError: when there were too many, or they took too long.
        """
        self._num_frames += 1
        if self._num_frames > MAX_DECODED_FRAMES:
            raise DecodeError(
                f"more than {MAX_DECODED_FRAMES:,} frames would have to be decoded. "
                "Encode it with a key frame every few seconds",
                self._path,
            )
        self.check_time()

    def is_over(self) -> bool:
        """Return whether the time is over, or the storage has failed."""
        return self.storage_error is not None or time.thread_time() > self._end_s

    def check_time(self) -> None:
        """Raise a DecodeError when the time is over, or the storage has failed."""
        if self.storage_error is not None:
            raise DecodeError(
                f"the storage failed while it was read ({reason(self.storage_error)}); the video "
                "may be sound. Check the disk or the network, then try again",
                self._path,
            )
        if self.is_over():
            raise DecodeError(
                f"not read within {self._limit_s:g} s of CPU time. Encode it again, or drop it "
                "from the list",
                self._path,
            )


class TimedFile:
    """A file that ends when the time is over, or at an error of the storage.

    The library searches a file for packets without returning in between, but not without reading.
    It would log an exception from here and try again; at the end of the file it stops. The position
    is its own, so that one file can be read by several containers.
    """

    def __init__(self, file: BinaryIO, budget: Budget) -> None:
        self._file = file
        self._budget = budget
        self._position = 0
        self.seekable = file.seekable

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, and return it."""
        origin = self._position if whence == os.SEEK_CUR else 0
        how = os.SEEK_END if whence == os.SEEK_END else os.SEEK_SET
        self._position = self._file.seek(origin + offset, how)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most ``size``; none at the end."""
        if self._budget.is_over():
            return b""
        try:
            self._file.seek(self._position)
            data = self._file.read(size)
        except OSError as error:
            self._budget.storage_error = error
            return b""
        self._position += len(data)
        return data


@contextlib.contextmanager
def as_decode_errors(
    path: Path, reader: str, library_errors: tuple[type[BaseException], ...] = LIBRARY_ERRORS
) -> Iterator[None]:
    """Convert what a library raises to a DecodeError that names the file and the reader."""
    try:
        yield
    except DecodeError:
        raise
    except library_errors as error:
        remedy = "" if reader == "pyav" else ". Set DATA.DECODING_BACKEND pyav, which reads more"
        raise DecodeError(
            f"the reader {reader!r} cannot read it ({reason(error)}){remedy}", path
        ) from error


def reason(error: BaseException) -> str:
    """Return the first line of a library's message, without the path, which our message names."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return _LOG_PREFIX.sub("", str(text).splitlines()[0])


@contextlib.contextmanager
def open_container(path: Path, file: BinaryIO, budget: Budget) -> Iterator[InputContainer]:
    """Open a video file with PyAV and close it again.

    Raises:
        DecodeError: when it is not a video in a known format, contains too many streams, or claims
            more samples than it can contain.
    """
    if claims_too_many(TimedFile(file, budget)):
        raise DecodeError(
            "damaged: its index claims more frames than it has bytes. Copy or download it again",
            path,
        )
    budget.check_time()
    options = {
        "format_whitelist": _FORMATS,
        "protocol_whitelist": "none",
        "max_pixels": str(MAX_RESIZED_PIXELS),  # opening decodes a frame, too
    }
    with as_decode_errors(path, "pyav"):
        try:
            container = av.open(TimedFile(file, budget), "r", options=options)
        except av.error.ArgumentError as error:  # the format is not in the whitelist
            raise DecodeError(_IN_NO_FORMAT, path) from error
        except LIBRARY_ERRORS:
            budget.check_time()
            raise
    with container:  # unclosed, each would leak a thread and a descriptor
        if len(container.streams) > MAX_STREAMS:
            raise DecodeError(
                f"contains {len(container.streams)} streams; {MAX_STREAMS} are accepted", path
            )
        budget.check_time()
        yield container


def first_video_stream(
    path: Path, container: InputContainer, max_pixels: int | None = None
) -> VideoStream:
    """Return the first video stream that is not a cover image, to be decoded with one thread.

    Args:
        path: for messages.
        container: the opened file.
        max_pixels: of a frame; ``MAX_PIXELS`` if None.

    Raises:
        DecodeError: when there is none, or its frames are too large.
    """
    streams = video_streams(container)
    if not streams:
        raise DecodeError("contains no video stream", path)
    codec = streams[0].codec_context
    codec.thread_type = "NONE"
    codec.thread_count = 1
    max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
    codec.options = {"max_pixels": str(max_pixels)}
    if problem := size_problem(codec.width, codec.height, max_pixels):
        raise DecodeError(problem, path)
    return streams[0]


def size_problem(width: int, height: int, max_pixels: int) -> str:
    """Return why frames of this size are refused, and the remedy; "" if they are not."""
    if width * height <= max_pixels:
        return ""
    tool = "data_prep/resize_videos.py" if width * height <= MAX_RESIZED_PIXELS else "ffmpeg"
    return (
        f"frames of {width} x {height} pixels are larger than the {max_pixels:,} that are "
        f"accepted. Scale the video down with {tool}"
    )


@contextlib.contextmanager
def reopened(path: Path, file: BinaryIO, budget: Budget) -> Iterator[VideoStream]:
    """Open a file again to decode it from the start; seeks may not reach it, or lose a palette.

    Raises:
        DecodeError: as ``open_container`` and ``first_video_stream`` do.
    """
    with open_container(path, file, budget) as container:
        yield first_video_stream(path, container, MAX_RESIZED_PIXELS)


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Return the video streams that are not cover images, in the order of the file."""
    return [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic
        and stream.codec_context is not None
    ]


def times_are_guessed(container: Container, stream: VideoStream) -> bool:
    """Return whether packets or seeks of this format do not identify their frame."""
    name = container.format.name
    return name in ("mpeg", "mpegts") or (name == "avi" and stream.codec_context.has_b_frames)


def read_index(
    path: Path,
    file: BinaryIO,
    container: InputContainer,
    stream: VideoStream,
    budget: Budget,
    key: str | None = None,
) -> PacketIndex | None:
    """Return the index of a stream; None where its packets do not say, or wrongly, what is shown.

    Args:
        path: of the video, for messages.
        file: which ``container`` reads.
        container: opened, nothing read.
        stream: of the container.
        budget: of the scan.
        key: the result of ``packet_index.key_of``, before ``file`` was opened; None to scan it.

    Raises:
        DecodeError: when there are more than ``MAX_PACKETS``, or it takes too long.
    """
    if times_are_guessed(container, stream):
        return None
    if key is not None and file.seek(0, os.SEEK_END) < packet_index.LARGE_BYTES:
        key = None
    if (index := packet_index.remembered(key)) is not None:
        return index
    reopen = functools.partial(reopened, path, file, budget)
    packets = None if key is None else indexed_packets(file, container, stream)
    if packets is None:
        with reopen() if key else contextlib.nullcontext(stream) as unread:
            packets = _scanned_packets(path, unread)
    elif len(packets.pts) < packet_index.MANY_PACKETS:
        key = None
    budget.check_time()
    index = None if packets is None else _checked_index(container, stream, budget, packets, reopen)
    budget.check_time()
    if index is not None:
        packet_index.remember(key, index)
    return index


def _scanned_packets(path: Path, stream: VideoStream) -> Packets | None:
    """Read all packets of a stream whose file was just opened; None if one has no time."""
    has_hidden_packets = stream.codec_context.name == "vp8"
    pts = array.array("q")
    is_key, is_shown = bytearray(), bytearray()
    for packet in packet_checks.packets_after_opening(stream):
        if packet.pts is None:
            return None
        pts.append(packet.pts)
        is_key.append(packet.is_keyframe)
        is_shown.append(not (packet.is_discard or (has_hidden_packets and is_hidden_vp8(packet))))
        if len(pts) > MAX_PACKETS:
            raise DecodeError(
                f"contains more than {MAX_PACKETS:,} frames. Cut it into shorter videos", path
            )
    flags = (np.frombuffer(column, np.bool_) for column in (is_key, is_shown))
    return Packets(np.frombuffer(pts, np.int64), *flags)


def _checked_index(
    container: InputContainer,
    stream: VideoStream,
    budget: Budget,
    packets: Packets,
    reopen: Callable[[], contextlib.AbstractContextManager[VideoStream]],
) -> PacketIndex | None:
    pts, is_key, is_shown = packets
    if (np.diff(np.sort(pts)) == 0).any():
        return None
    codec = stream.codec_context
    if len(pts) > 1 and is_key.all() and not codec.codec.intra_only:
        second = packet_checks.decoded_alone(container, stream, int(pts[1]))
        if not packet_checks.is_whole(second):
            return None
    if codec.has_b_frames and (np.diff(pts) > 0).all():
        budget.restart()
        with reopen() as start:
            if not packet_checks.are_decoded_in_order(start, budget.spend):
                return None
    is_shown = is_shown.copy()
    is_shown[packet_checks.lost_at_the_start(reopen, *packets)] = False
    shown = np.flatnonzero(is_shown).astype(np.int32)
    return PacketIndex(pts, is_key, shown[np.argsort(pts[shown])])


def is_hidden_vp8(packet: av.Packet) -> bool:
    """Return whether this VP8 packet contains a reference frame that is not shown."""
    return not bytes(packet)[0] & 0x10  # show_frame, RFC 6386 section 9.1


# Browsers and screen recorders write WebM of uneven rate that claims 1000 frames a second: ticks
# of its clock. A small difference is only one frame more or less; then the file's number is exact.
WRONG_RATE = 0.1
_LONGEST_STEP_S = 10


def timing(
    path: Path,
    stream: VideoStream,
    index: PacketIndex | None,
    num_frames: int,
    dts: Sequence[int | None] = (),
) -> tuple[float, np.ndarray]:
    """Return the frames per second on average, and each frame's time in seconds from the first.

    Args:
        path: for messages.
        stream: of the frames.
        index: its packets, or None where they do not say when frames are shown.
        num_frames: frames that are shown.
        dts: when each packet is decoded; used where packets do not identify their frame.

    Raises:
        DecodeError: when there are no frames, or the file contains neither of these.
    """
    if num_frames == 0:
        raise DecodeError("the video stream contains no frames", path)
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    fps = float(rate) if rate else 0.0
    if index is None:
        dts = dts if times_are_guessed(stream.container, stream) else ()
        shown_pts = uneven_times(stream, dts, num_frames)
    else:
        shown_pts = index.pts[index.shown].tolist()
    if shown_pts is None or stream.time_base is None:
        fps = _corrected(fps, decoding_rate(stream, dts, num_frames))
        if fps <= 0:
            raise DecodeError("neither a frame rate nor times of frames", path)
        return fps, np.arange(num_frames) / fps
    times_s = (np.array(shown_pts, dtype=np.float64) - shown_pts[0]) * float(stream.time_base)
    span_s = float(times_s[-1])
    fps = _corrected(fps, (num_frames - 1) / span_s if num_frames > 1 and span_s > 0 else 0.0)
    return fps or 1.0, times_s


def _corrected(fps: float, measured_fps: float) -> float:
    return measured_fps if measured_fps > 0 and abs(fps / measured_fps - 1) > WRONG_RATE else fps


def uneven_times(
    stream: VideoStream, dts: Sequence[int | None], num_frames: int
) -> list[int] | None:
    """Return when frames of an AVI are shown, apart from a delay; None where they are even.

    An AVI numbers its packets: where frames were dropped in recording, numbers are left out.
    """
    known = [value for value in dts if value is not None]
    steps = {after - before for before, after in itertools.pairwise(known)}
    is_counted = stream.container.format.name == "avi" and len(known) == len(dts) == num_frames
    return known if is_counted and len(steps) > 1 and min(steps) > 0 else None


def decoding_rate(stream: VideoStream, dts: Sequence[int | None], num_frames: int) -> float:
    """Return the frames per second at which packets are decoded; 0 if unknown.

    An AVI copied from a video with B frames claims two frames for each that it contains, and a
    film on a DVD those that a television repeats.
    """
    known = [(place, value) for place, value in enumerate(dts) if value is not None]
    tick_s = stream.time_base or 0
    steps = [
        (place - before, (value - value_before) * tick_s)
        for (before, value_before), (place, value) in itertools.pairwise(known)
    ]
    clean = [step for step in steps if 0 < step[1] < _LONGEST_STEP_S]  # clocks may start again
    if not clean:
        return 0.0
    packets_of_frame = max(round(len(dts) / num_frames), 1)  # two where fields are coded apart
    num_packets, seconds = map(sum, zip(*clean, strict=True))
    return float(num_packets / seconds / packets_of_frame)
