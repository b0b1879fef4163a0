"""CSV tables that a spreadsheet opens without running file names as formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def csv_text(rows: Iterable[Sequence[object]], *, line_end: str = "\n") -> str:
    """Return the rows as lines of CSV, each text as ``safe_cell`` writes it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=line_end)
    for row in rows:
        writer.writerow(safe_cell(cell) if isinstance(cell, str) else cell for cell in row)
    return text.getvalue()


def safe_cell(text: str) -> str:
    """Return the text on one line, with bytes that are not UTF-8 escaped, and not a formula."""
    safe = text.encode("utf-8", "backslashreplace").decode()
    safe = safe.replace("\r", "\\r").replace("\n", "\\n")
    return f"'{safe}" if safe.startswith(("=", "+", "-", "@", "\t")) else safe
