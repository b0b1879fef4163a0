"""Checks of every reader: the file before it is opened, frame numbers before they are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from slowfast_mvit.data.video.shards import open_member
from slowfast_mvit.errors import DecodeError
from slowfast_mvit.storage import split_path


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


def check_indices(path: Path, indices: Sequence[int], num_frames: int) -> None:
    """Refuse frame numbers that the video does not have: a bug of the caller.

    Raises:
        IndexError: names the first of them.
    """
    for index in indices:
        if not 0 <= index < num_frames:
            raise IndexError(f"{path}: frame {index} of 0 to {num_frames - 1} was asked for")
