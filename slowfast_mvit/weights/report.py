"""The report of a load: the action for every parameter of a file and of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_EXAMPLES = 2  # names per line of the table
# Omitted from the examples of "dropped": the line of the new head reports the old one.
_OLD_HEAD = ("head.projection.weight", "head.projection.bias")

# The meaning of each list, in the order of the table.
_MEANINGS = {
    "loaded": "as in the file",
    "resized": "brought to the model's size",
    "inflated": "from two dimensions to three",
    "initialised": "not from the file, on purpose",
    "dropped": "in the file, left out on purpose",
    "missing": "NOT filled",
    "unexpected": "in the file, NOT used",
}


@dataclass(frozen=True)
class LoadReport:
    """The action of every parameter, by our names; each name is in one list only.

    The model's parameters are in ``loaded``, ``resized``, ``inflated``, ``initialised`` or
    ``missing``; those of the file that the model does not have, in ``dropped`` or ``unexpected``.

    Attributes:
        path: the file, or "(a state dict)".
        source: of the file's names: a key of ``SOURCES``, or "ours" for a file of this project.
        filled: share of the backbone's values that are from the file, 0 to 1.
        epoch: 0-based epoch of the file if it is a training checkpoint, with an optimizer's state.
        loaded: same values, maybe with axes of length one more or fewer.
        resized: position tables, resampled; a video's filters, summed over time for an image.
        inflated: convolutions of an image model that became convolutions over time.
        initialised: not in the file for a reason: a new head, time in an image's weights.
        dropped: the file's old head, and parts of other uses of the network (a detector, the
            decoder of a pre-training).
        missing: in the model; the file has none, or none that fits.
        unexpected: in the file; the model has no such parameter, or not in that shape.
        details: name -> the action as text, for every name that is not simply loaded.
        input_spec: preprocessing and class names of the weights, if the file has them.
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
    input_spec: Mapping[str, Any] | None = field(default=None, repr=False)

    def table(self, num_examples: int = _EXAMPLES) -> str:
        """Return a short text: a line for each list that is not empty, with its first names."""
        epoch = "" if self.epoch is None else f", a training checkpoint of epoch {self.epoch + 1}"
        # Rounded down: 100.0% only when everything was filled.
        share = math.floor(1000 * self.filled) / 10
        lines = [f"{self.path}: {self.source}{epoch}; {share:.1f}% of the backbone's values filled"]
        for group, meaning in _MEANINGS.items():
            names = getattr(self, group)
            examples = [
                f"{name} ({self.details[name]})"
                for name in names
                if name in self.details and not (group == "dropped" and name in _OLD_HEAD)
            ]
            text = f": {', '.join(examples[:num_examples])}" if examples else ""
            if len(examples) > num_examples:
                text += f", and {len(examples) - num_examples} more"
            if names:
                lines.append(f"  {group:<12}{len(names):>5}  {meaning}{text}")
        return "\n".join(lines)

    def full_table(self) -> str:
        """Return the table with every name that is not simply loaded, and its action."""
        return self.table(len(self.details))

    def as_dict(self) -> dict[str, Any]:
        """Return the parameters, in values that JSON can represent."""
        return {name: value for name, value in asdict(self).items() if name != "input_spec"}
