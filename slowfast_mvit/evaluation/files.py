"""Reading of the files of a test, which may be damaged, or of a stranger: bounded, typed errors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slowfast_mvit.errors import UserError

MAX_JSON_BYTES = 200_000_000  # results with a million classes or failed videos have half as many

# What reading a damaged file raises: ValueErrors are of JSON, Unicode and shapes, RuntimeErrors
# of deep recursion and of links in a circle.
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)


def read_limited(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of at most ``max_bytes``, which is not a link out of its folder.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, something else, or a link to another folder.
    """
    if not path.resolve().is_relative_to(path.parent.resolve()):
        raise ValueError("it is a link to a file of another folder")
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes:,} bytes")
    return content


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file; raises as ``read_limited``, and RecursionError."""
    return json.loads(read_limited(path, max_bytes).decode())


@contextlib.contextmanager
def explained_damage(
    path: str | Path, name: str, remedy: str = "Run the test again"
) -> Iterator[None]:
    """Convert the errors of reading a file into one that names it, the reason and the remedy.

    Args:
        path: of the file.
        name: under which a test writes it.
        remedy: a sentence without its full stop.

    Raises:
        UserError: the block has raised what a missing, damaged or other file gives.
    """
    try:
        yield
    except DAMAGE as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        first_line = (reason or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{path}: not a readable {name} ({first_line}). {remedy}") from error
