"""The index of the packets of a video, and its copy that is kept where a scan is expensive.

A large file is scanned once and not for each clip: its index is remembered by path, size and time
of change. It is kept in the memory of the process, and as a file that all workers and runs
of a user share, in ``$XDG_CACHE_HOME/slowfast_mvit/packets`` (``~/.cache`` by default): some 15 KB
for an hour of video, which may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from slowfast_mvit.storage import split_path, write_atomically

MAX_PACKETS = 2_500_000  # in a file: 11 hours at 60 frames a second
LARGE_BYTES = 4 << 20  # smaller files are scanned each time, in a few milliseconds
MANY_PACKETS = 20_000  # fewer are read from the index of an MP4 in a few milliseconds
MAX_REMEMBERED_BYTES = 32 << 20  # in the memory of a process

_HEADER = struct.Struct("<4sqq")  # magic, number of packets, number of shown ones
_MAGIC = b"pki1"  # another one when the bytes, or the rules by which an index is made, change
_BYTES_PER_PACKET = 8 + 1 + 4


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """Packets of one stream, in decoding order.

    Attributes:
        pts: int64, when each packet's frame is shown, in the stream's time base; no two are equal.
        is_key: bool, whether decoding can start at each packet.
        shown: int32, the packets whose frames are shown, in the order in which they are.
    """

    pts: np.ndarray
    is_key: np.ndarray
    shown: np.ndarray

    def place_of(self, pts: int | None) -> int:
        """Return the place of the packet whose frame is shown at ``pts``; -1 if there is none."""
        places = [] if pts is None else np.flatnonzero(self.pts == pts).tolist()
        return places[0] if places else -1

    def hides_frames(self) -> bool:
        """Return whether frames are decoded that are not shown: an edit list cuts the video."""
        return len(self.shown) < len(self.pts)

    def key_frames(self) -> list[int]:
        """Return the numbers of the shown frames that are key frames."""
        numbers: list[int] = np.flatnonzero(self.is_key[self.shown]).tolist()
        return numbers

    def has_open_groups(self) -> bool:
        """Return whether a frame is decoded after a key frame but shown before it."""
        keys = np.where(self.is_key, np.arange(len(self.pts)), 0)
        return bool((self.pts < self.pts[np.maximum.accumulate(keys)]).any())

    def to_bytes(self) -> bytes:
        """Return a compact copy, for ``from_bytes``."""
        header = _HEADER.pack(_MAGIC, len(self.pts), len(self.shown))
        steps = (np.diff(column, prepend=column.dtype.type(0)) for column in (self.pts, self.shown))
        pts, shown = (step.tobytes() for step in steps)
        return header + zlib.compress(pts + self.is_key.tobytes() + shown)

    @classmethod
    def from_bytes(cls, content: bytes) -> PacketIndex:
        """Return the index of a copy.

        Raises:
            ValueError: when it is not one, or damaged.
        """
        try:
            magic, num_packets, num_shown = _HEADER.unpack_from(content)
            unpacked = zlib.decompressobj()
            data = unpacked.decompress(content[_HEADER.size :], MAX_PACKETS * _BYTES_PER_PACKET)
        except (struct.error, zlib.error) as error:
            raise ValueError(error) from error
        size = 9 * num_packets + 4 * num_shown
        if magic != _MAGIC or not 0 < num_shown <= num_packets or size != len(data):
            raise ValueError("not the index of a video")
        pts = np.frombuffer(data, np.int64, num_packets).cumsum()
        is_key = np.frombuffer(data, np.uint8, num_packets, 8 * num_packets) > 0
        shown = np.frombuffer(data, np.int32, num_shown, 9 * num_packets).cumsum(dtype=np.int32)
        if not unpacked.eof or shown.min() < 0 or shown.max() >= num_packets:
            raise ValueError("not the index of a video")
        return cls(pts, is_key, shown)


# Remembered indexes

_remembered: dict[str, bytes] = {}  # the least recently used one first


def key_of(path: Path) -> str | None:
    """Return the key of a large video, or of one in a large shard: path, size and time of change.

    Call it before the file is opened: the index of a file that was replaced in between then has a
    key that is never looked up again.
    """
    with contextlib.suppress(OSError, ValueError):  # opening it reports the problem
        place = split_path(path)
        status = os.stat(place[0] if place else path)
        if status.st_size < LARGE_BYTES:
            return None
        made_by = (_MAGIC, av.__version__)
        key = (os.path.abspath(path), status.st_size, status.st_mtime_ns, *made_by)
        return hashlib.sha256(repr(key).encode()).hexdigest()
    return None


def remembered(key: str | None) -> PacketIndex | None:
    """Return the index that was remembered under a key."""
    if key is None:
        return None
    content = _remembered.get(key)
    file = _file_of(key)
    with contextlib.suppress(OSError, ValueError):
        if content is None and file is not None:
            content = file.read_bytes()
        if content is not None:
            index = PacketIndex.from_bytes(content)
            _keep_in_memory(key, content)
            return index
    return None


def remember(key: str | None, index: PacketIndex) -> None:
    """Remember the index of a large video, in memory and, where that can be written, in a file."""
    if key is None:
        return
    content = index.to_bytes()
    _keep_in_memory(key, content)
    if (file := _file_of(key)) is not None:
        with contextlib.suppress(OSError):
            write_atomically(file, lambda opened: opened.write(content))


def _keep_in_memory(key: str, content: bytes) -> None:
    """Keep the most recently used ones."""
    _remembered.pop(key, None)
    _remembered[key] = content
    while sum(map(len, _remembered.values())) > MAX_REMEMBERED_BYTES:
        del _remembered[next(iter(_remembered))]


def _file_of(key: str) -> Path | None:
    """Return the file of an index, in a folder to which no other user can write."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    folder = root / "slowfast_mvit"
    with contextlib.suppress(OSError):
        if root.is_absolute():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = folder.stat()
            if status.st_uid == os.getuid() and not status.st_mode & 0o022:
                return folder / "packets" / key
    return None
