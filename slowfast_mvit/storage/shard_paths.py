"""Paths of members of a tar shard: ``shards/train-000003.tar/abc.mp4``."""

from __future__ import annotations

import os
from pathlib import Path

from slowfast_mvit.errors import DecodeError


def split_path(path: Path) -> tuple[Path, str] | None:
    """Return the shard and the member of a path; None for other paths.

    Raises:
        DecodeError: when the path leads out of its shard.
    """
    if f".tar{os.sep}" not in os.fspath(path):
        return None
    shard = next((p for p in path.parents if p.suffix == ".tar" and os.path.isfile(p)), None)
    if shard is None:
        return None
    member = path.relative_to(shard)
    if ".." in member.parts:
        raise DecodeError("'..' is not followed inside a shard", path)
    return shard, member.as_posix()


def leads_to_file(path: Path) -> bool:
    """Return whether a path exists; for a member of a shard, whether the shard does."""
    return os.path.exists(path) or split_path(path) is not None
