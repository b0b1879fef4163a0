"""Files that exist completely or not at all, even if the process that writes them is killed.

Each is written under a temporary name and renamed when it is complete. A killed process leaves a
hidden file, ``.tmp-<machine>-<process>-<digest of the name>``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from slowfast_mvit.storage.remote import upload_changes

_LEFT_OVER = re.compile(r"\.tmp-.*-([0-9a-f]{16})(\.pyth)?")


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
    owner = f"{platform.node()}-{os.getpid()}"
    temporary = path.with_name(f".tmp-{owner}-{_digest(path.name)}{suffix}")
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
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        write(file)
    return Path(path)


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
            if match and match[1] in digests:
                path.unlink(missing_ok=True)


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
