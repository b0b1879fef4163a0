"""test_provenance.json: the weights, the time, the machine and the versions of a test.

Apart from the results, which are the same bytes whenever and wherever they are measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from slowfast_mvit.evaluation.files import explained_damage, read_json
from slowfast_mvit.storage import write_text_atomically

PROVENANCE_FILE = "test_provenance.json"
MAX_BYTES = 100_000


class Provenance(NamedTuple):
    """Lines of text; empty where a test of an earlier version did not record them."""

    weights: str
    clip: str = ""
    time: str = ""  # of the start
    machine: str = ""
    versions: str = ""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Provenance:
        """Return the lines in a JSON object, which may have other keys too.

        Raises:
            KeyError: there are no weights.
            TypeError: a line is not text.
        """
        lines = {name: content[name] for name in cls._fields if name in content}
        for name, line in lines.items():
            if not isinstance(line, str):
                raise TypeError(f"{name} is not text")
        return cls(content["weights"], **{k: v for k, v in lines.items() if k != "weights"})


def save_provenance(provenance: Provenance, folder: Path) -> None:
    """Write the file of a test, atomically."""
    text = json.dumps(provenance._asdict(), indent=2)
    write_text_atomically(folder / PROVENANCE_FILE, text + "\n")


def load_provenance(folder: Path) -> Provenance | None:
    """Read the file of a test; None where there is none.

    Raises:
        UserError: it is damaged or something else.
    """
    path = folder / PROVENANCE_FILE
    if not path.exists():
        return None
    with explained_damage(path, PROVENANCE_FILE, "Run the test again, or delete the file"):
        return Provenance.of(read_json(path, MAX_BYTES))
