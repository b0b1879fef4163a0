"""The report of a load: the action for every parameter of a file and of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

_EXAMPLES = 2  # names per line of the table
# Of what is dropped, the old head needs no telling: the line of the new head says it.
_UNTOLD = {"dropped": ("head.projection.weight", "head.projection.bias")}

# What is said about each list, in the order of the table.
_MEANINGS = {
    "loaded": "as in the file",
    "resized": "brought to the model's size",
    "inflated": "from two dimensions to three",
    "initialised": "anew, on purpose",
    "dropped": "in the file, left out on purpose",
    "missing": "NOT filled",
    "unexpected": "in the file, NOT used",
}


@dataclass(frozen=True)
class LoadReport:
    """The action of every parameter, by our names; each name is in exactly one list of its side.

    The model's parameters are in ``loaded``, ``resized``, ``inflated``, ``initialised`` or
    ``missing``; those of the file that the model does not have, in ``dropped`` or ``unexpected``.

    Attributes:
        path: the file, or "(a state dict)".
        source: whose names the file has: a key of ``SOURCES``, or "ours" for a file that this
            project wrote.
        filled: share of the backbone's values that come from the file, 0 to 1.
        epoch: 0-based epoch of the file if it is a training checkpoint, with an optimizer's state.
        loaded: same values, perhaps with axes of length one more or fewer.
        resized: position tables, resampled; a video's filters, summed over time for an image.
        inflated: convolutions of an image model that became convolutions over time.
        initialised: not in the file for a reason: a new head, time in an image's weights.
        dropped: the file's old head, and what only other uses of the network have (a detector's
            parts, the decoder of a pre-training).
        missing: in the model; the file has none, or none that fits.
        unexpected: in the file; the model has no such parameter, or not in that shape.
        details: name -> what happened in words, for every name that is not simply loaded.
    """

    path: str
    source: str
    filled: float
    epoch: int | None = None
    loaded: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    inflated: tuple[str, ...] = ()
    initialised: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)

    def table(self) -> str:
        """A short text: one line for each list that is not empty, with the first of its names."""
        return self._table(_EXAMPLES)

    def full_table(self) -> str:
        """The same with every name that is not simply loaded, and what happened to it."""
        return self._table(len(self.details))

    def _table(self, num_examples: int) -> str:
        epoch = "" if self.epoch is None else f", a training checkpoint of epoch {self.epoch + 1}"
        # Rounded down: 100.0% is said only when everything was filled.
        share = math.floor(1000 * self.filled) / 10
        lines = [f"{self.path}: {self.source}{epoch}; {share:.1f}% of the backbone's values filled"]
        for name, meaning in _MEANINGS.items():
            names = getattr(self, name)
            if names:
                told = self._examples(names, num_examples, untold=_UNTOLD.get(name, ()))
                lines.append(f"  {name:<12}{len(names):>5}  {meaning}{told}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Everything, in values that JSON can hold."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain["details"] = dict(self.details)
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()
        }

    def _examples(
        self, names: tuple[str, ...], num_examples: int, *, untold: tuple[str, ...]
    ) -> str:
        told = [
            f"{name} ({self.details[name]})"
            for name in names
            if name in self.details and name not in untold
        ]
        if not told:
            return ""
        more = len(told) - num_examples
        rest = f", and {more} more" if more > 0 else ""
        return ": " + ", ".join(told[:num_examples]) + rest
