"""Curves of a run for programs that draw them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Curves(Protocol):
    """Takes the records of a run as they are made; only the main process has any."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Take a record of ``json_stats.log``."""

    def close(self) -> None:
        """Write what is not written yet."""
