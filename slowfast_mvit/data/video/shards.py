"""Opening plain files, and videos inside tar shards in place: ``shards/train-000003.tar/abc.mp4``.

A network file system serves a few large files much faster than a million small ones. Nothing is
ever extracted: a member is the range of bytes that its header names, read by position.

Next to a shard is its index, a memory-mapped text, so that a worker needs no table of names:

    # tar index 1: 1073741824 bytes, 9112 members
    abc.mp4 0                       the name as in a URL, a space, the offset of its header;
    some%20class/def.mp4 120832     sorted by name

``data_prep/pack_shards.py`` writes shards and indexes, also indexes of shards of other origin.
Without an index, each process scans the shard once.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import itertools
import logging
import mmap
import os
import re
import stat
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote_from_bytes, unquote_to_bytes

from slowfast_mvit.errors import DecodeError
from slowfast_mvit.storage import split_path

_log = logging.getLogger(__name__)

INDEX_SUFFIX = ".index"  # after the name of the shard
MAX_SCANNED_MEMBERS = 100_000  # of a shard without an index

_SCANNED_SHARDS = (
    16  # of which a process keeps the index: at most 5 MB each for names of 40 letters
)
_BUFFER_BYTES = 1 << 16
_HEAD_BYTES = 100
_HEAD = re.compile(rb"# tar index 1: ([0-9]+) bytes, ([0-9]+) members\n")
_MAX_LINE_BYTES = 1 << 14  # of an index: a quoted path of 4096 bytes, and an offset
_MAX_DIGITS = 18
_MAX_HEADER_BYTES = 1 << 20  # of a member: extended headers give long names and times
_TAR_ERRORS = (tarfile.TarError, ValueError, OSError, ArithmeticError, LookupError, RecursionError)


def open_plain_file(path: Path) -> BinaryIO:
    """Open a file for reading, unless it is a folder, pipe, socket or device, which could block.

    Args:
        path: a file, or a file in a tar shard: ``shards/train-000003.tar/abc.mp4``.

    Raises:
        DecodeError: when it is one of these, missing, empty or not permitted.
    """
    if (place := split_path(path)) is None:
        return _open_regular(path)
    shard, member = place
    return open_member(_open_regular(shard), shard, member)


def _open_regular(path: Path) -> BinaryIO:
    try:
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DecodeError(f"cannot be opened ({reason})", path) from error
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return file
    file.close()
    raise DecodeError(
        "the file is empty" if stat.S_ISREG(status.st_mode) else "not a plain file", path
    )


def _open_without_waiting(path: str, flags: int) -> int:
    """Open without blocking: opening a pipe without a writer would never return."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def open_member(file: BinaryIO, shard: Path, name: str) -> BinaryIO:
    """Open a member of a shard as a seekable file that does not see the rest of the shard.

    Args:
        file: the opened shard; it is closed with the member, or when this raises.
        shard: its path, for messages and for its index.
        name: the member.

    Raises:
        DecodeError: when there is no such member, it is not a plain file or is empty, or the
            index does not belong to the shard.
    """
    try:
        with _index(file, shard) as index:
            offset = _find(index, _quoted(name), shard)
        if offset is None:
            raise DecodeError("the shard has no member of this name", shard / name)
        member = _header(file, shard, name, offset)
        end = member.offset_data + member.size
        if member.size <= 0 or end > os.fstat(file.fileno()).st_size:
            what = "the file is empty" if member.size <= 0 else "the shard ends within it"
            raise DecodeError(what, shard / name)
    except BaseException:
        file.close()
        raise
    raw = _Range(file, member.offset_data, end)
    return cast(BinaryIO, io.BufferedReader(raw, _BUFFER_BYTES))


def _header(file: BinaryIO, shard: Path, name: str, offset: int) -> tarfile.TarInfo:
    """Return the member whose header starts at ``offset``, if it is a plain file of this name."""
    try:
        file.seek(offset)
        member: tarfile.TarInfo | None = _archive(file).next()
    except _TAR_ERRORS as error:
        raise _bad_index(shard, f"no header at the offset of {name} ({error})") from error
    if member is None or _name_of(member) != name:
        there = "the end" if member is None else repr(_name_of(member))
        raise _bad_index(shard, f"{there} at the offset of {name}")
    if not _is_plain(member):
        raise DecodeError("a link, a folder or a device, not a plain file", shard / name)
    return member


class _Headers:
    """A shard for tarfile, which allocates as many bytes as a header claims to have."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, num_bytes: int) -> bytes:
        return self._read(max(0, min(num_bytes, _MAX_HEADER_BYTES)))


def _archive(file: BinaryIO) -> Any:  # Any, since its ``members`` have no type
    return tarfile.TarFile(fileobj=cast(BinaryIO, _Headers(file)))


def _bad_index(shard: Path, problem: str) -> DecodeError:
    return DecodeError(
        f"{problem}. Write it again with data_prep/pack_shards.py index", f"{shard}{INDEX_SUFFIX}"
    )


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()


def _name_of(member: tarfile.TarInfo) -> str:
    """Return the normal form of a name: ``./a.mp4`` is a.mp4."""
    return os.path.normpath(member.name)


class _Range(io.RawIOBase):
    """Bytes of a file from ``start`` to ``end``, read by position."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file = file
        self._descriptor = file.fileno()
        self._start = start
        self._size = end - start
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise OSError(errno.EINVAL, "a position before the start of the file")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._size - self._position))
        if wanted == 0:
            return 0
        view = memoryview(buffer)[:wanted]
        num_read = os.preadv(self._descriptor, [view], self._start + self._position)
        self._position += num_read
        return num_read

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


# Indexes


def index_text(members: Iterable[tuple[str, int]], num_bytes: int, shard: Path) -> bytes:
    """Return the index of a shard.

    Args:
        members: name and offset of the header of each plain file.
        num_bytes: size of the shard.
        shard: its path, for messages.

    Raises:
        DecodeError: when a name occurs twice.
    """
    lines = sorted((_quoted(name), offset) for name, offset in members)
    for (name, _), (following, _) in itertools.pairwise(lines):
        if name == following:
            shown = unquote_to_bytes(name).decode("utf-8", "replace")
            raise DecodeError(f"contains {shown} more than once", shard)
    head = b"# tar index 1: %d bytes, %d members\n" % (num_bytes, len(lines))
    return head + b"".join(b"%s %d\n" % line for line in lines)


def plain_members(file: BinaryIO, shard: Path) -> Iterator[tuple[str, int]]:
    """Return the name and the offset of the header of each plain file in a shard, by a scan.

    Links, folders and devices are skipped, and so are names that lead out of a folder.

    Raises:
        DecodeError: when it is not an uncompressed tar file, or is cut short.
    """
    end = os.fstat(file.fileno()).st_size
    file.seek(0)
    try:
        archive = _archive(file)
        while (member := archive.next()) is not None:
            archive.members.clear()  # it would keep every header
            if member.size < 0 or member.offset_data + member.size > end:
                raise DecodeError(f"ends within {member.name!r}. Copy it again", shard)
            name = _name_of(member)
            if _is_plain(member) and not name.startswith(("/", "..")):
                yield name, member.offset
        file.seek(archive.offset)
        rest = file.read(tarfile.BLOCKSIZE)
    except _TAR_ERRORS as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError(f"not an uncompressed tar file ({error})", shard) from error
    if rest.strip(b"\0"):  # a damaged header looks to tarfile like the end
        raise DecodeError(f"damaged at byte {archive.offset:,}. Copy it again", shard)
    if len(rest) < tarfile.BLOCKSIZE:  # cut between two files, which tarfile accepts
        raise DecodeError("ends without the end-of-archive mark. Copy it again", shard)


@contextlib.contextmanager
def _index(file: BinaryIO, shard: Path) -> Iterator[bytes | mmap.mmap]:
    """Return the index next to a shard, or one made by a scan."""
    status = os.fstat(file.fileno())
    try:
        descriptor = os.open(f"{shard}{INDEX_SUFFIX}", os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        yield _scanned(shard, status.st_size, status.st_mtime_ns)
        return
    except OSError as error:
        raise DecodeError(f"cannot be read ({error.strerror})", f"{shard}{INDEX_SUFFIX}") from error
    with open(descriptor, "rb") as index_file:
        try:
            index = mmap.mmap(index_file.fileno(), 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError):
            raise _bad_index(shard, "empty, or not a plain file") from None
        with index:
            head = _HEAD.match(index[:_HEAD_BYTES])
            if head is None or int(head[1]) != status.st_size:
                kind = "no index of a shard" if head is None else "the index of another shard"
                raise _bad_index(shard, kind)
            if int(head[2]) * tarfile.BLOCKSIZE > status.st_size:  # a header each
                raise _bad_index(shard, f"claims {int(head[2]):,} members, more than fit")
            yield index


@functools.lru_cache(maxsize=_SCANNED_SHARDS)
def _scanned(shard: Path, num_bytes: int, changed_ns: int) -> bytes:
    """Scan a shard that has no index; again when the shard has changed."""
    advice = "Write one with data_prep/pack_shards.py index"
    _log.warning("%s: has no index and is scanned. %s", shard, advice)
    with open(shard, "rb") as file:
        members = list(itertools.islice(plain_members(file, shard), MAX_SCANNED_MEMBERS + 1))
    if len(members) > MAX_SCANNED_MEMBERS:
        raise DecodeError(
            f"contains more than {MAX_SCANNED_MEMBERS:,} files and has no index. {advice}", shard
        )
    return index_text(members, num_bytes, shard)


def _find(index: bytes | mmap.mmap, name: bytes, shard: Path) -> int | None:
    """Return the offset of a member's header, by a binary search over the lines of an index."""
    low, high = index.find(b"\n") + 1, len(index)
    while low < high:
        start = max(index.rfind(b"\n", low, (low + high) // 2) + 1, low)
        end = index.find(b"\n", start, start + _MAX_LINE_BYTES)
        found, _, offset = index[start:end].partition(b" ") if end >= 0 else (b"", b"", b"")
        if not offset.isdigit() or len(offset) > _MAX_DIGITS:
            raise _bad_index(shard, "damaged")
        if found == name:
            return int(offset)
        low, high = (end + 1, high) if found < name else (low, start)
    return None


def _quoted(name: str) -> bytes:
    """Quote a name as in a URL, without spaces and line ends."""
    return quote_from_bytes(os.fsencode(name)).encode("ascii")
