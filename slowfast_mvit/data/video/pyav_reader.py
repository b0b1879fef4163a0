"""The PyAV reader: exact frames of a video file, decoding no more than they need.

    open:    read the packets without decoding them -> when each frame is shown, which packets are
             key frames
    frames:  for each run of requested frames, seek to the key frame they depend on, decode from
             there to the last requested one and convert the requested ones to RGB

What makes it fast, each measured: one converter (``VideoReformatter``) with one thread for all
frames; frames that are not requested and that no other frame refers to are skipped undecoded;
decoding stops after the last requested packet; one thread, since workers share the machine.

What does not pay: scaling by FFmpeg in the conversion. From 454 x 256 to 397 x 224, 32 frames take
35 ms of CPU time that way and 12 ms when converted and then resized (1280 x 720: 44 and 53), and
the frames differ from those of ``eval_views.resize_frames`` by 3 levels of 255 on average.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import av.filter
import av.video.reformatter
import numpy as np
import torch
from av.container import InputContainer
from torch import Tensor

from slowfast_mvit.data.video import packets
from slowfast_mvit.data.video.colours import ignore_unknown_matrix
from slowfast_mvit.data.video.packet_checks import packets_after_opening, packets_of
from slowfast_mvit.data.video.packet_index import PacketIndex, key_of
from slowfast_mvit.data.video.packets import Budget, check_indices
from slowfast_mvit.data.video.rotation import Orientation, orientation_of
from slowfast_mvit.data.video.shards import open_plain_file
from slowfast_mvit.errors import DecodeError

# Codecs of which unreferenced frames may be skipped without harm to the others.
_SKIPPING_CODECS = ("h264", "hevc")

# 8-bit 4:2:0: converted alike by every version of FFmpeg, and fast, if of even size. With others
# ``VideoReformatter`` places colour samples differently from the ffmpeg program, and separates
# fields: by up to 7 levels of 255 on average, over 200 at saturated edges.
_FAST_FORMATS = ("yuv420p", "yuvj420p")


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
    budget = Budget(path)
    key = key_of(path)
    with open_plain_file(path) as file, packets.open_container(path, file, budget) as container:
        with packets.as_decode_errors(path, "pyav"):
            reader = PyavReader(path, file, container, budget, key)
        yield reader


class PyavReader:
    """One opened video file. Use ``open_pyav``, which closes it.

    Attributes:
        num_frames: frames that are shown.
        fps: frames per second on average.
        times_s: (num_frames,) float64, when each frame is shown, in seconds from the first.
    """

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        container: InputContainer,
        budget: Budget,
        key: str | None,
    ) -> None:
        self._path = path
        self._file = file
        self._container = container
        self._budget = budget
        self._stream = packets.first_video_stream(path, container)
        self._codec = self._stream.codec_context
        self._size = (self._codec.width, self._codec.height)
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._orientation: Orientation | None = None  # of all frames, known from the first
        self._scaler: tuple[str, av.filter.Graph] | None = None
        self._index = packets.read_index(path, file, container, self._stream, budget, key)
        dts: list[int | None] = []
        self.num_frames = self._count_frames(dts) if self._index is None else len(self._index.shown)
        self.fps, self.times_s = packets.timing(
            path, self._stream, self._index, self.num_frames, dts
        )

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Return the frames at ``indices``, repeats allowed, as uint8 RGB (len(indices), H, W, 3).

        Raises:
            DecodeError: when the file ends or breaks before, its frames change their size, or
                it needs more than ``packets.MAX_SECONDS`` or ``packets.MAX_DECODED_FRAMES``.
            IndexError: when an index is not from 0 to ``num_frames`` - 1.
        """
        check_indices(self._path, indices, self.num_frames)
        self._budget.restart()
        wanted = sorted(set(indices))
        row_of = {index: row for row, index in enumerate(wanted)}
        pixels = np.empty((0,), dtype=np.uint8)
        missing = set(wanted)
        why = "then the file ended"
        try:
            for index, frame in self._decode_wanted(wanted):
                image = self._to_rgb(index, frame)
                if len(missing) == len(wanted):
                    pixels = np.empty((len(wanted), *image.shape), dtype=np.uint8)
                pixels[row_of[index]] = image
                missing.discard(index)
        except packets.LIBRARY_ERRORS as error:
            if isinstance(error, DecodeError):
                raise
            why = f"then a packet is damaged ({packets.reason(error)})"
        if missing:
            raise self._incomplete(missing, len(wanted), why)
        frames = torch.from_numpy(pixels)
        if list(indices) == wanted:
            return frames
        return frames[torch.tensor([row_of[index] for index in indices])]

    def stream(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Yield the frames at rising ``indices``, each (H, W, 3) uint8; none is decoded twice.

        The memory does not grow with their number. The limits of ``frames`` are those of each.

        Raises:
            DecodeError: as ``frames`` does.
        """
        check_indices(self._path, indices, self.num_frames)
        missing, why = deque(indices), "then the file ended"
        self._budget.restart()
        for decode in (self._decode_wanted, self._decode_from_start):
            try:
                for index, frame in decode(list(missing)):
                    if index != missing[0]:  # the one before was not found
                        break
                    image = np.ascontiguousarray(self._to_rgb(index, frame))
                    missing.popleft()
                    yield torch.from_numpy(image)
                    if not missing:
                        return
                    self._budget.restart()
            except packets.LIBRARY_ERRORS as error:
                if isinstance(error, DecodeError):
                    raise
                why = f"then a packet is damaged ({packets.reason(error)})"
                break
        if missing:
            raise self._incomplete(missing, len(indices), why)

    def _incomplete(self, missing: Collection[int], num_wanted: int, why: str) -> DecodeError:
        self._budget.check_time()
        return DecodeError(
            f"the reader 'pyav' gave {num_wanted - len(missing)} of {num_wanted} "
            f"frames, {why}; frame {min(missing)} of {self.num_frames} is the first it lacks. "
            "Copy or download the video again, or drop it from the list",
            self._path,
        )

    def _decode_wanted(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        # A seek loses the palette, which only the first packet contains.
        if self._index is None or self._codec.pix_fmt == packets.PALETTE_FORMAT:
            yield from self._decode_counting(set(wanted))
            return
        frame_of_pts = self._frame_of_pts(self._index, wanted)
        places = np.sort(self._index.shown[np.array(wanted, dtype=np.int64)]).tolist()
        for run in _runs(self._index, places):
            for frame in self._decode_run(self._index, run):
                if frame.pts in frame_of_pts:
                    yield frame_of_pts.pop(frame.pts), frame
        if frame_of_pts:  # a wrong seek or key frame
            yield from self._decode_from_start(sorted(frame_of_pts.values()))

    def _decode_from_start(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        if self._index is None:
            yield from self._decode_counting(set(wanted))
            return
        frame_of_pts = self._frame_of_pts(self._index, wanted)
        with contextlib.closing(self._decode_all()) as frames:
            for frame in frames:
                if frame.pts in frame_of_pts:
                    yield frame_of_pts.pop(frame.pts), frame
                if not frame_of_pts:
                    break

    @staticmethod
    def _frame_of_pts(index: PacketIndex, wanted: Sequence[int]) -> dict[int, int]:
        shown = index.shown[np.array(wanted, dtype=np.int64)]
        return dict(zip(index.pts[shown].tolist(), wanted, strict=True))

    def _decode_run(self, index: PacketIndex, run: _Run) -> Iterator[av.VideoFrame]:
        can_skip = self._codec.name in _SKIPPING_CODECS
        for place, packet in self._packets_of_run(index, run):
            self._budget.spend()
            if can_skip:
                self._codec.skip_frame = "DEFAULT" if place in run.wanted else "NONREF"
            yield from self._codec.decode(packet)
            if place == run.last:
                break
        yield from self._codec.decode(None)
        self._codec.flush_buffers()

    def _packets_of_run(self, index: PacketIndex, run: _Run) -> Iterator[tuple[int, av.Packet]]:
        """Return the packets of a run, each with its place in decoding order."""
        pts_of_run = index.pts[run.first : run.last + 1].tolist()
        place_of = {pts: place for place, pts in enumerate(pts_of_run, run.first)}
        for pts in (pts_of_run[0], int(index.pts[0]), int(index.pts.min())):
            try:
                self._container.seek(pts, stream=self._stream, backward=True)
            except av.error.FFmpegError:  # nothing before it from which to start
                continue
            found = packets_of(self._container, self._stream)
            start = list(itertools.islice(found, 1))
            if start and index.place_of(start[0].pts) <= run.first:
                for packet in itertools.chain(start, found):
                    if packet.pts in place_of:
                        yield place_of[packet.pts], packet
                return

    def _decode_counting(self, wanted: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode from the start and count, where packets do not say when they are shown."""
        with contextlib.closing(self._decode_all()) as frames:
            for number, frame in enumerate(frames):
                if number in wanted:
                    yield number, frame
                    wanted.discard(number)
                if not wanted:
                    break

    def _count_frames(self, dts: list[int | None]) -> int:
        self._budget.restart()
        num_frames = 0
        for frame in self._decode_all(dts):
            self._check_size(num_frames, frame)
            num_frames += 1
        self._budget.check_time()
        return num_frames

    def _decode_all(
        self, dts: list[int | None] | None = None
    ) -> Generator[av.VideoFrame, None, None]:
        """Decode the file from the start, opened again: seeks may not reach it, or lose a palette.

        Packets before the first key frame that cannot be decoded are left out, as ffmpeg does.

        Args:
            dts: the time of decoding of each packet is added, unless it is None.
        """
        with packets.reopened(self._path, self._file, self._budget) as stream:
            has_key = False
            for packet in packets_after_opening(stream):
                self._budget.spend()
                has_key = has_key or packet.is_keyframe
                if dts is not None:
                    dts.append(packet.dts)
                with contextlib.suppress(*(() if has_key else (av.error.FFmpegError,))):
                    yield from stream.codec_context.decode(packet)
            yield from stream.codec_context.decode(None)

    def _to_rgb(self, index: int, frame: av.VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8, upright: a view of the converted frame, without a copy."""
        self._check_size(index, frame)
        ignore_unknown_matrix(frame)
        try:
            rgb = self._converted(frame)
        except packets.LIBRARY_ERRORS as error:
            raise DecodeError(
                f"frame {index} of the format {frame.format.name} cannot be converted to RGB "
                f"({packets.reason(error)}). Convert the video with ffmpeg",
                self._path,
            ) from error
        plane = rgb.planes[0]  # its lines may be longer than the frame is wide
        image = np.ndarray(
            (rgb.height, rgb.width, 3), np.uint8, memoryview(plane), strides=(plane.line_size, 3, 1)
        )
        if self._orientation is None:
            self._orientation = orientation_of(self._path, frame)
        return self._orientation.upright(image)

    def _converted(self, frame: av.VideoFrame) -> av.VideoFrame:
        if (
            frame.format.name in _FAST_FORMATS
            and frame.width % 2 == frame.height % 2 == 0
            and not frame.interlaced_frame
        ):
            return self._reformatter.reformat(frame, format="rgb24", threads=1)
        if self._scaler is None or self._scaler[0] != frame.format.name:
            self._scaler = (frame.format.name, _scaler_of(frame))
        _, scaler = self._scaler
        scaler.push(frame)
        rgb = scaler.pull()
        assert isinstance(rgb, av.VideoFrame)
        return rgb

    def _check_size(self, index: int, frame: av.VideoFrame) -> None:
        if (frame.width, frame.height) != self._size:
            raise DecodeError(
                f"the frames change their size, from {self._size[0]} x "
                f"{self._size[1]} to {frame.width} x {frame.height} at frame {index}. Encode it "
                "again with data_prep/resize_videos.py",
                self._path,
            )


def _scaler_of(frame: av.VideoFrame) -> av.filter.Graph:
    """Return the ffmpeg program's conversion to RGB, for frames on which the two differ."""
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1, 1000),  # times do not matter to it
    )
    steps = (graph.add("scale", "flags=bicubic"), graph.add("format", "rgb24"))
    graph.link_nodes(source, *steps, graph.add("buffersink")).configure()
    return graph


def _runs(index: PacketIndex, places: Sequence[int]) -> list[_Run]:
    """Return the runs that decode the packets at these places (in decoding order, sorted)."""
    keys = np.flatnonzero(index.is_key)
    runs: list[_Run] = []
    for place in places:
        first = _key_before(index, keys, place)
        if runs and first <= runs[-1].last + 1:
            runs[-1].last = place
            runs[-1].wanted.add(place)
        else:
            runs.append(_Run(first, place, {place}))
    return runs


def _key_before(index: PacketIndex, keys: np.ndarray, place: int) -> int:
    """Return the key frame to start from: the last one before, in decoding and in showing order.

    A frame that is decoded after a key frame but shown before it (open GOP) refers to frames
    before that key frame.
    """
    for key in keys[: np.searchsorted(keys, place, "right")][::-1]:
        if index.pts[key] <= index.pts[place]:
            return int(key)
    return 0
