"""Texts that hold lists: opened, read, and complained of with their lines."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from slowfast_mvit.errors import ListError, in_one_message, nearest

_SHOWN_PROBLEMS = 20
# How files begin that are called .csv and are no texts.
_OTHER_FORMATS = {
    b"\x1f\x8b": "compressed by gzip. Unpack it",
    b"PK\x03\x04": "a zip archive, or a table of Excel. Save it as CSV in UTF-8",
    b"\xff\xfe": "UTF-16. Save it as UTF-8",
    b"\xfe\xff": "UTF-16. Save it as UTF-8",
}


@contextlib.contextmanager
def open_text(
    file: Path, *, newline: str | None = None, errors: str = "strict"
) -> Iterator[TextIO]:
    """Open a list as text in UTF-8, without a mark at its start (BOM).

    Args:
        file: the list.
        newline: as for ``open``.
        errors: as for ``open``.

    Raises:
        ListError: it is not there or may not be read; or, inside the ``with`` statement, what is
            read is not in UTF-8: names all lines that are not.
    """
    if not file.is_file():
        raise ListError(f"{file}: no such file.{nearest_path(file)}")
    try:
        with open(file, encoding="utf-8-sig", newline=newline, errors=errors) as text:
            yield text
    except UnicodeDecodeError:
        _raise_not_utf8(file)
    except OSError as error:
        raise ListError(f"{file}: cannot be read ({error.strerror})") from None


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers; one at a time.

    Raises:
        ListError: when the text cannot be read, or is not in UTF-8.
    """
    with open_text(file) as lines:
        for number, line in enumerate(lines, start=1):
            if text := line.strip():
                yield number, text


def read_json(file: Path, object_hook: Callable[[dict[str, Any]], object] | None = None) -> Any:
    """The content of a JSON file.

    Args:
        file: in UTF-8.
        object_hook: what to keep of each object, so that long lists need not be in memory whole.

    Raises:
        ListError: when it is missing or not JSON; names the line.
    """
    with open_text(file) as text:
        try:
            return json.load(text, object_hook=object_hook)
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:  # also of numbers that nobody can read
            raise ListError(f"{file}: not a JSON file ({error})") from None


def json_entries(file: Path) -> Iterator[Any]:
    """The entries of a list in JSON, one at a time: all together, they would fill the memory.

    Raises:
        ListError: when it is missing or not a list in JSON; names the line.
    """
    with open_text(file) as text:
        content = text.read()
    try:
        yield from _entries_of(content)
    except (ValueError, RecursionError) as error:
        raise ListError(f"{file}: not a list in JSON ({error})") from None


def _entries_of(content: str) -> Iterator[Any]:
    decode = json.JSONDecoder().raw_decode
    place = _behind("[", content, 0)
    has_more = content[place : place + 1] != "]"
    while has_more:
        entry, place = decode(content, place)
        yield entry
        has_more = re.compile(r"\s*,").match(content, place) is not None
        if has_more:
            place = _behind(",", content, place)
    place = _behind("]", content, place)
    if place < len(content):
        raise json.JSONDecodeError("Extra data", content, place)


def _behind(sign: str, content: str, place: int) -> int:
    """The place behind a sign and the white around it, which is looked for from ``place``."""
    match = re.compile(rf"\s*{re.escape(sign)}\s*").match(content, place)
    if match is None:
        raise json.JSONDecodeError(f"Expecting {sign!r}", content, place)
    return match.end()


def _raise_not_utf8(file: Path) -> None:
    content = file.read_bytes()
    for start, what in _OTHER_FORMATS.items():
        if content.startswith(start):
            raise ListError(f"{file}: not a text in UTF-8, but {what}")
    if b"\0" in content:
        raise ListError(f"{file}: not a text in UTF-8, but binary. Is it the right file?")
    problems = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            shown = line[:60].decode("ascii", "backslashreplace")
            problems.append((number, f"not a text in UTF-8 ({error.reason}): {shown}"))
    raise_problems(file, problems)


def raise_problems(file: Path, problems: Iterable[tuple[int, str]], what: str = "line") -> None:
    """Raise one ``ListError`` for all (line or entry, problem), the first twenty written out."""
    ordered = [f"{what} {line}: {problem}" for line, problem in sorted(problems)]
    if not ordered:
        return
    message = in_one_message(str(file), ordered).splitlines()
    if len(ordered) > _SHOWN_PROBLEMS:
        hidden = len(ordered) - _SHOWN_PROBLEMS
        message = [*message[: 1 + _SHOWN_PROBLEMS], f"  and {hidden:,} more"]
    raise ListError("\n".join(message))


def nearest_path(path: Path) -> str:
    """What stands where ``path`` should be: the nearest name, or the first few."""
    if path.is_dir():
        return " It is a folder"
    if path.is_symlink():
        return f" It is a link to {os.readlink(path)}, which does not exist"
    if not path.parent.is_dir():
        return f" {path.parent} does not exist either"
    names = sorted(entry.name for entry in path.parent.iterdir())
    if not names:
        return f" {path.parent} is empty"
    guess = nearest(path.name, names)
    if guess:
        return f" Did you mean {guess}?"
    more = ", ..." if len(names) > 8 else ""
    return f" {path.parent} holds: {', '.join(names[:8])}{more}"
