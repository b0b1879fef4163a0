"""Tables as CSV that a spreadsheet opens without running names of files as formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def csv_text(rows: Iterable[Sequence[object]], *, line_end: str = "\n") -> str:
    """The rows as lines of CSV, each cell as ``safe_cell`` writes it."""
    text = io.StringIO()
    csv.writer(text, lineterminator=line_end).writerows(map(_cells, rows))
    return text.getvalue()


def _cells(row: Sequence[object]) -> list[object]:
    return [safe_cell(value) if isinstance(value, str) else value for value in row]


def safe_cell(text: str) -> str:
    """The text on one line, with bytes that are not UTF-8 escaped, and no formula."""
    safe = text.encode("utf-8", "backslashreplace").decode()
    safe = safe.replace("\r", "\\r").replace("\n", "\\n")
    return f"'{safe}" if safe.startswith(("=", "+", "-", "@", "\t")) else safe
