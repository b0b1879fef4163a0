"""The packets of an MP4 or MOV file from its own index, so that a long one is not read whole.

FFmpeg gives the time of decoding, the flags and the size of each sample, edit lists applied
(``index_entries``). A frame is shown later than it is decoded by what the table ``ctts`` has for
its sample (ISO 14496-12, 8.6.1.3). FFmpeg does not pass this table on, so it is read here:

    moov - trak (of the stream) - mdia - minf - stbl - ctts

A file is scanned instead if it is in fragments, has several edits or descriptions of samples, lacks
samples that it announces, or if its first and last packets are not as the index says. The codecs
are those of which FFmpeg passes samples on as they are.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from slowfast_mvit.data.video.packet_checks import packets_of
from slowfast_mvit.data.video.packet_index import MAX_PACKETS

MAX_UNBACKED_SAMPLES = 1_000_000  # that a file may claim however small it is: 70 MB in FFmpeg

_CODECS = ("h264", "hevc", "av1", "mpeg4", "mjpeg", "prores")
_MAX_BOXES = 200  # in a box, or in the file
_NUM_COMPARED = 48  # packets, at either end
_KEY, _DISCARD = 1, 2  # AVINDEX_KEYFRAME, AVINDEX_DISCARD_FRAME
_ENTRY = np.dtype([("dts", np.int64), ("flags", np.int32), ("size", np.int32)])
_OFFSETS = np.dtype([("count", ">u4"), ("offset", ">i4")])

_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf")
_COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4}  # where in the content samples are counted
_MAX_DEPTH = 10  # of boxes in boxes, as in FFmpeg

_Span = tuple[int, int]  # of bytes in the file: the content of a box


class _Doubt(Exception):
    """The index may be wrong; the file is to be scanned."""


class Packets(NamedTuple):
    """All packets of a stream, in decoding order.

    Attributes:
        pts: int64, when each packet's frame is shown.
        is_key: bool, whether it is marked as a key frame.
        is_shown: bool, whether it is marked as shown.
    """

    pts: np.ndarray
    is_key: np.ndarray
    is_shown: np.ndarray


def indexed_packets(
    file: BinaryIO, container: InputContainer, stream: VideoStream
) -> Packets | None:
    """Return the packets by the index of an MP4 or MOV file; None where that may be wrong.

    Args:
        file: the opened file.
        container: of the file, just opened; some packets are read from it.
        stream: of the container.
    """
    codec = stream.codec_context.codec.canonical_name
    if not container.format.name.startswith("mov,") or codec not in _CODECS:
        return None
    try:
        return _compared(container, stream, _packets(file, stream))
    except _Doubt:
        return None


class _Readable(Protocol):
    """A file, or a ``TimedFile``."""

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def read(self, size: int, /) -> bytes: ...


def claims_too_many(file: _Readable) -> bool:
    """Return whether an MP4 or MOV file claims more samples than it has bytes.

    When FFmpeg opens it, it makes an entry of 70 bytes for each, and again for each edit that shows
    it, before it reads any: a file of 6 KB can take gigabytes.
    """
    size = file.seek(0, 2)
    num_samples, _ = _claims(file, (0, size))
    return num_samples > max(size, MAX_UNBACKED_SAMPLES)


def _claims(file: _Readable, span: _Span, depth: int = 0) -> tuple[int, int]:
    """Return the samples that the boxes in a box claim, and the edits outside of its tracks."""
    start, end = span
    num_samples = num_edits = 0
    while start + 8 <= end and depth < _MAX_DEPTH:
        file.seek(start)
        head = file.read(28)
        size, name, width = int.from_bytes(head[:4], "big"), head[4:8], 8
        if size == 1:
            size, width = int.from_bytes(head[8:16], "big"), 16
        size = size or end - start
        if size < width or not head:
            break
        content = head[width : width + 12]
        if name in _PARENTS:
            samples, edits = _claims(file, (start + width, min(start + size, end)), depth + 1)
            is_track = name == b"trak"
            num_samples += samples * max(edits, 1) if is_track else samples
            num_edits += 0 if is_track else edits
        elif name in _COUNTS:
            num_samples += int.from_bytes(content[_COUNTS[name] :][:4], "big")
        elif name == b"elst":
            num_edits += int.from_bytes(content[4:8], "big")
        start += size
    return num_samples, num_edits


def _packets(file: BinaryIO, stream: VideoStream) -> Packets:
    entries = getattr(stream, "index_entries", ())  # not in every PyAV that is supported
    num_packets = len(entries)
    if not 0 < num_packets == stream.frames <= MAX_PACKETS:
        raise _Doubt
    offsets = _offsets(file, stream.id, num_packets)
    values = ((entry.timestamp, entry.flags, entry.size) for entry in entries)
    table = np.fromiter(values, _ENTRY, num_packets)
    last = entries[num_packets - 1]
    if (table["size"] <= 0).any() or last.pos + last.size > file.seek(0, 2):
        raise _Doubt
    is_key, is_shown = table["flags"] & _KEY > 0, table["flags"] & _DISCARD == 0
    return Packets(table["dts"] + offsets, is_key, is_shown)


def _compared(container: InputContainer, stream: VideoStream, packets: Packets) -> Packets:
    """Compare with the packets at the start and from the last key frame on.

    FFmpeg adds a constant to all times where ``ctts`` has negative ones: that of the first packet.
    """
    start = list(itertools.islice(packets_of(container, stream), _NUM_COMPARED))
    if not start or start[0].pts is None or not packets.is_key.any():
        raise _Doubt
    packets = packets._replace(pts=packets.pts - packets.pts[0] + start[0].pts)
    last_key = int(packets.pts[packets.is_key][-1])
    container.seek(last_key, stream=stream, backward=True)
    end = list(itertools.islice(packets_of(container, stream), _NUM_COMPARED))
    for read in (start, end):
        place = int((packets.pts == read[0].pts).argmax()) if read else 0
        columns = [column[place : place + _NUM_COMPARED].tolist() for column in packets]
        if columns != [
            [packet.pts for packet in read],
            [packet.is_keyframe for packet in read],
            [not packet.is_discard for packet in read],
        ]:
            raise _Doubt
    return packets


def _offsets(file: BinaryIO, track_id: int, num_samples: int) -> np.ndarray | int:
    """Return how much later than it is decoded each sample of a track is shown."""
    moov = _box(file, (0, file.seek(0, 2)), b"moov")
    if moov is None or _box(file, moov, b"mvex") is not None:
        raise _Doubt
    tracks = [span for name, span in _boxes(file, moov) if name == b"trak"]
    tracks = [span for span in tracks if _track_id(file, span) == track_id]
    if len(tracks) != 1 or _num_edits(file, _box(file, tracks[0], b"edts", b"elst")) > 1:
        raise _Doubt
    samples = _box(file, tracks[0], b"mdia", b"minf", b"stbl")
    if _count(file, _box(file, samples, b"stsd")) != 1:
        raise _Doubt
    span = _box(file, samples, b"ctts")
    if span is None:
        return 0
    num_bytes = _count(file, span) * _OFFSETS.itemsize
    if num_bytes > min(span[1] - file.tell(), num_samples * _OFFSETS.itemsize):
        raise _Doubt
    table = np.frombuffer(file.read(num_bytes), _OFFSETS)
    if table["count"].sum(dtype=np.int64) != num_samples:
        raise _Doubt
    return np.repeat(table["offset"].astype(np.int64), table["count"])


def _boxes(file: BinaryIO, span: _Span | None) -> Iterator[tuple[bytes, _Span]]:
    """Return the type and the content of each box (ISO 14496-12, 4.2)."""
    start, end = span or (0, 0)
    for _ in range(_MAX_BOXES):
        file.seek(start)
        head = file.read(16)
        if start + 8 > end or len(head) < 16:
            return
        size, name = struct.unpack(">I4s", head[:8])
        content = start + 8
        if size == 1:
            size = int.from_bytes(head[8:], "big")
            content += 8
        start = start + size if size else end
        if not content <= start <= end:
            raise _Doubt
        yield name, (content, start)
    raise _Doubt


def _box(file: BinaryIO, span: _Span | None, *names: bytes) -> _Span | None:
    """Return the content of the box at the end of these names, each in the one before."""
    for wanted in names:
        spans = [content for name, content in _boxes(file, span) if name == wanted]
        if len(spans) > 1:
            raise _Doubt
        span = spans[0] if spans else None
    return span


def _track_id(file: BinaryIO, track: _Span) -> int:
    """Return the number of a track: after two times, of 64 bits in version 1 (8.3.2)."""
    header = _box(file, track, b"tkhd")
    if header is None:
        raise _Doubt
    file.seek(header[0])
    content = file.read(24)
    return int.from_bytes(content[20:24] if content[:1] == b"\1" else content[12:16], "big")


def _num_edits(file: BinaryIO, table: _Span | None) -> int:
    """Return the number of edits, without empty ones, whose time is -1 (8.6.6)."""
    count = _count(file, table)
    if table is None or count not in (1, 2):
        return count
    size = (table[1] - table[0] - 8) // count
    width = (size - 4) // 2  # of a duration and a time; in version 1 they have 64 bits
    edits = [file.read(size) for _ in range(count)]
    return sum(edit[width : 2 * width] != b"\xff" * width for edit in edits)


def _count(file: BinaryIO, table: _Span | None) -> int:
    """Return the number of entries of a table, 0 if there is none; the file is at the first one."""
    if table is None:
        return 0
    file.seek(table[0])
    return int.from_bytes(file.read(8)[4:], "big")
