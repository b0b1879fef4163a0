"""Logs that grow line by line and survive a kill or a power cut at any moment.

One process writes such a log, others may read it at the same time. A last line without its end is
torn: it is not read, and cut off before the next line is written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from slowfast_mvit.errors import writing


class AppendLog:
    """A log opened for appending. The operating system has a line when ``append`` returns.

    Args:
        path: of the log; it and its folder are made.
        durable: whether each line is on the disk then, too, so that a power cut loses none.

    Attributes:
        is_empty: whether the log had no line when it was opened.
    """

    def __init__(self, path: str | Path, *, durable: bool = False) -> None:
        self.path = Path(path)
        self._durable = durable
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115
            self._cut_torn_line()
        self.is_empty = self._file.seek(0, os.SEEK_END) == 0

    def _cut_torn_line(self) -> None:
        if self._file.seek(0, os.SEEK_END) == 0:
            return
        self._file.seek(-1, os.SEEK_END)
        if self._file.read(1) != b"\n":
            self._file.seek(0)
            self._file.truncate(self._file.readall().rfind(b"\n") + 1)

    def append(self, lines: bytes) -> None:
        """Append one or several lines, each with its end.

        Raises:
            WriteError: the disk is full, or the like; nothing of the lines is in the log.
        """
        size = os.fstat(self._file.fileno()).st_size
        rest = memoryview(lines)
        with writing(self.path, lambda: len(lines)):
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(size)
                raise
        if self._durable:
            self.sync()

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        with writing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> AppendLog:
        return self

    def __exit__(self, *ended_by: object) -> None:
        self.close()


def whole_lines(path: str | Path) -> Iterator[bytes]:
    """Yield the lines of a log, each with its end, without a torn last line."""
    with open(path, "rb") as file:
        yield from (line for line in file if line.endswith(b"\n"))
