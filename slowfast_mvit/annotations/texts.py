"""Annotation files as text, CSV and JSON: opened, read row by row, reported with their lines."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from slowfast_mvit.annotations.records import Problem, not_found, not_readable, raise_problems
from slowfast_mvit.errors import ListError

# First bytes of files that are called .csv and are not text.
_OTHER_FORMATS = {
    b"\x1f\x8b": "compressed by gzip. Unpack it",
    b"PK\x03\x04": "a zip archive, or a table of Excel. Save it as CSV in UTF-8",
    b"\xff\xfe": "damaged UTF-16. Save it as UTF-8",
    b"\xfe\xff": "damaged UTF-16. Save it as UTF-8",
}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_LINES_TO_DETECT = 200  # that decide which character separates cells


@contextlib.contextmanager
def open_text(file: Path, *, errors: str = "strict") -> Iterator[TextIO]:
    """Open an annotation file as text in UTF-8, or in UTF-16 with a byte order mark (BOM).

    Args:
        file: the annotation file; its line ends are not translated, and a BOM is left out.
        errors: as for ``open``.

    Raises:
        ListError: it does not exist or cannot be read; or, inside the ``with`` statement, the
            text is not in UTF-8: names all such lines.
    """
    if not file.is_file():
        raise not_found(file)
    try:
        with open(file, "rb") as start:
            encoding = "utf-16" if start.read(2) in _UTF_16 else "utf-8-sig"
        with open(file, encoding=encoding, newline="", errors=errors) as text:
            yield text
    except UnicodeDecodeError:
        _raise_not_utf8(file)
    except OSError as error:
        raise not_readable(file, error) from None


def read_text(file: Path) -> str:
    """The whole content of a text, opened as ``open_text`` does."""
    with open_text(file) as text:
        return text.read()


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers; one at a time.

    Raises:
        ListError: when the text cannot be read, or is not in UTF-8.
    """
    with open_text(file) as lines:
        for number, line in enumerate(lines, start=1):
            if text := line.strip():
                yield number, text


def csv_rows(
    file: Path, *, separators: str = ",", errors: str = "strict"
) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not blank, with the lines on which they start.

    Args:
        file: in UTF-8 or UTF-16.
        separators: of several, the one of a first line ``sep=;``, as Excel writes it, or else the
            one that divides most lines alike separates the cells.
        errors: as for ``open``.

    Raises:
        ListError: when it cannot be read, is not in UTF-8 or not CSV; names the line.
    """
    is_unknown = len(separators) > 1
    with open_text(file, errors=errors) as lines:
        separator, num_before = _separator(lines, separators) if is_unknown else (separators, 0)
        rest = itertools.islice(lines, num_before, None)
        reader = csv.reader(rest, delimiter=separator, skipinitialspace=is_unknown)
        line = num_before + 1
        try:
            for cells in reader:
                if any(map(str.strip, cells)):
                    yield line, cells
                line = num_before + reader.line_num + 1  # a row with quotes may have several
        except csv.Error as error:
            message = f"line {line}: not CSV ({error}). Are its quotes closed?"
            raise ListError(message, file) from None


def _separator(lines: TextIO, separators: str) -> tuple[str, int]:
    """The character that separates cells, and the number of lines that only name it.

    A space is one only where no other is.
    """
    head = list(itertools.islice(lines, _LINES_TO_DETECT))
    lines.seek(0)
    named = re.fullmatch(r'"?sep=(.)"?\s*', head[0], re.IGNORECASE) if head else None
    if named:
        return named[1], 1

    def lines_alike(separator: str) -> tuple[bool, int, int, int]:
        reader = csv.reader(head, delimiter=separator, skipinitialspace=True)
        try:
            widths = Counter(len(without_empty_ends(cells)) for cells in reader)
        except csv.Error:
            widths = Counter()
        number, width = max(
            ((widths[width], width) for width in widths if width > 1), default=(0, 0)
        )
        is_likely = number > 0 and separator != " "
        return is_likely, number, width, sum(line.count(separator) for line in head)

    return max(separators, key=lines_alike), 0


def without_empty_ends(cells: list[str]) -> list[str]:
    """The cells without space around them, up to the last that is not empty."""
    cells = [cell.strip() for cell in cells]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ListError: when it is missing or not JSON; names the line.
    """
    content = read_text(file)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # ValueError also of numbers that are too long
        raise ListError(f"not a JSON file ({error})", file) from None


def json_entries(file: Path) -> Iterator[Any]:
    """The entries of a list in JSON, one at a time: all together, they would fill the memory.

    Raises:
        ListError: when it is missing or not a list in JSON; names the line.
    """
    content = read_text(file)
    try:
        yield from _entries_of(content)
    except (ValueError, RecursionError) as error:
        raise ListError(f"not a list in JSON ({error})", file) from None


def _entries_of(content: str) -> Iterator[Any]:
    decode = json.JSONDecoder().raw_decode
    place = _after("[", content, 0)
    has_more = content[place : place + 1] != "]"
    while has_more:
        entry, place = decode(content, place)
        yield entry
        has_more = re.compile(r"\s*,").match(content, place) is not None
        if has_more:
            place = _after(",", content, place)
    place = _after("]", content, place)
    if place < len(content):
        raise json.JSONDecodeError("Extra data", content, place)


def _after(sign: str, content: str, place: int) -> int:
    """The position after a sign and the white space around it, searched from ``place``."""
    match = re.compile(rf"\s*{re.escape(sign)}\s*").match(content, place)
    if match is None:
        raise json.JSONDecodeError(f"Expecting {sign!r}", content, place)
    return match.end()


def _raise_not_utf8(file: Path) -> None:
    content = file.read_bytes()
    for start, found in _OTHER_FORMATS.items():
        if content.startswith(start):
            raise ListError(f"not a text in UTF-8, but {found}", file)
    if b"\0" in content:
        raise ListError("not a text in UTF-8, but binary. Is it the right file?", file)
    problems = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            shown = line[:60].decode("ascii", "backslashreplace")
            message = f"not a text in UTF-8 ({error.reason}): {shown}"
            problems.append(Problem(file, number, "text", message))
    raise_problems(problems)
