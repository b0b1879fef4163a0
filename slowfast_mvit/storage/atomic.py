"""Files that are wholly there or not at all."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import IO

from slowfast_mvit.storage.outputs import upload_changes


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Write a file so that a crash at any moment leaves the old file or the new one, never a part.

    Args:
        path: where the file goes; its folder is made.
        write: called with a binary file to fill.

    Returns:
        The path written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot and no "checkpoint": PySlowFast resumes from whatever holds that word.
    # Processes of other machines may write here too, and have the same number.
    owner = f"{platform.node()}-{os.getpid()}"
    temporary = path.parent / f".tmp-{owner}-{path.name.replace('checkpoint', 'ckpt')}"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    upload_changes(path)
    return path


def write_text_atomically(path: str | Path, text: str) -> Path:
    """``write_atomically`` for a text, in UTF-8."""
    return write_atomically(path, lambda file: file.write(text.encode()))


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
