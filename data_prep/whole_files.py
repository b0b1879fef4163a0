"""Outputs that are there whole or not at all, however the process that writes them ends.

Each is written under a name of its own and renamed when it is done. What a killed process leaves
is a hidden file, which the next run of the same part removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

# The machine, since those that share a folder may have processes of one number; then the output,
# as a digest, since its name may already be as long as a name may be.
_TEMPORARY = ".tmp-{machine}-{process}-{digest}"
_LEFT_OVER = re.compile(r"\.tmp-.*-([0-9a-f]{16})")


@contextlib.contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """Where to write ``out``: it gets its name when the block ends, unless by an error."""
    name = _TEMPORARY.format(
        machine=platform.node(), process=os.getpid(), digest=_digest_of(out.name)
    )
    temporary = out.with_name(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def remove_left_overs(outs: Iterable[Path]) -> None:
    """Remove what killed processes left of these outputs, and of no others.

    Each folder is read once, since that of Something-Something holds 220,847 files.
    """
    digests: dict[Path, set[str]] = {}
    for out in outs:
        digests.setdefault(out.parent, set()).add(_digest_of(out.name))
    for folder, of_folder in digests.items():
        if not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            found = [(entry.path, _LEFT_OVER.fullmatch(entry.name)) for entry in entries]
        for path, match in found:
            if match and match[1] in of_folder:
                Path(path).unlink(missing_ok=True)


def _digest_of(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
