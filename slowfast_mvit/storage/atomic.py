"""Files that exist completely or not at all, even if the process that writes them is killed.

Each is written under a temporary name and renamed when it is complete. A killed process leaves a
hidden file, ``.tmp-<machine>-<process>-<digest of the name>``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from slowfast_mvit.errors import writing
from slowfast_mvit.storage.remote import upload_changes

_LEFT_OVER = re.compile(r"\.tmp-(.*)-(\d+)-([0-9a-f]{16})(\.pyth)?")
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of folders: SMB, mounted buckets
_OLD_S = 3600.0  # after which the process of another machine that wrote a file has ended


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which becomes ``path`` unless the block raises.

    A crash at any moment leaves the old file or the new one, never a part.

    Args:
        path: of the file; its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The machine, since processes of other machines may write here and have the same number. A
    # digest, since the name may already be of the maximal length, and PySlowFast resumes from any
    # file with "checkpoint" in its name.
    suffix = ".pyth" if path.suffix == ".pyth" else ""  # ``remove_unfinished`` of checkpoints
    temporary = temporary_path(path.parent, path.name, suffix)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    upload_changes(path)


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Write a file through ``atomic_path``.

    Args:
        path: of the file; its folder is made.
        write: called with a binary file to fill.

    Returns:
        The path written.
    """
    with (
        writing(path, lambda: _size_of(write)),
        atomic_path(path) as temporary,
        open(temporary, "wb") as file,
    ):
        content = _Content(file)
        try:
            write(cast(IO[bytes], content))
        except RuntimeError as error:  # torch raises its own one in place of that of the file
            raise content.error or error from error
    return Path(path)


class _Content:
    """A file that keeps the first error of its writes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Counter(io.RawIOBase):
    """A file that only counts its bytes."""

    num_bytes = position = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + (0, self.position, self.num_bytes)[whence]
        return self.position

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.num_bytes = max(self.num_bytes, self.seek(size, os.SEEK_CUR))
        return size


def _size_of(write: Callable[[IO[bytes]], object]) -> int:
    counter = _Counter()
    with contextlib.suppress(OSError):
        write(cast(IO[bytes], counter))
    return counter.num_bytes


def write_text_atomically(path: str | Path, text: str) -> Path:
    """``write_atomically`` for a text, in UTF-8."""
    return write_atomically(path, lambda file: file.write(text.encode()))


def remove_left_overs(paths: Iterable[Path]) -> None:
    """Remove the temporary files that killed processes left of these files, and no others.

    Each folder is read once, since that of Something-Something has 220,847 files.
    """
    left_over_of: dict[Path, set[str]] = {}
    for path in paths:
        left_over_of.setdefault(path.parent, set()).add(_digest(path.name))
    for folder, digests in left_over_of.items():
        for path in folder.glob(".tmp-*"):
            match = _LEFT_OVER.fullmatch(path.name)
            if match and match[3] in digests:
                path.unlink(missing_ok=True)


def temporary_path(folder: Path, name: str, suffix: str = "") -> Path:
    """Return the path of a temporary file of this process, for a file of this name."""
    return folder / f".tmp-{platform.node()}-{os.getpid()}-{_digest(name)}{suffix}"


def remove_files_of_dead_processes(folder: Path) -> None:
    """Remove the temporary files in a folder of processes that were killed; others may write."""
    for path in folder.glob(".tmp-*"):
        match = _LEFT_OVER.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if match and (
                (match[1] == platform.node() and not _is_running(int(match[2])))
                or time.time() - path.stat().st_mtime > _OLD_S
            ):
                path.unlink()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        pass
    return True


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
        finally:
            os.close(descriptor)
