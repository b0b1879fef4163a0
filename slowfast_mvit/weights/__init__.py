"""Weights from anywhere into a model, with an account of every parameter.

sources.py            other origins: how their files are recognised, and the key map of each
names.py              the origin of a file, and our names of its parameters
renamed_state.py      the state dict of a file in our names
inflate.py            image to video, other numbers of frames and pixels
architecture.py       depth, widths, heads and grid of a model, from names and shapes alone
identify.py           the published model that has these names and shapes
trained_grids.py      the grid that absolute positions were made for
parameter_actions.py  load, resize, inflate or initialise: the action for one parameter
load.py               ``load_weights``: choose an action for every parameter, then fill the model
files.py              reading a file
report.py             ``LoadReport``: the account
exports.py            the layouts of other libraries
folders.py            writing files, and folders that are complete models

The two public names are loaded when they are first used: reading files needs iopath, while the key
maps in names.py need torch alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slowfast_mvit.weights.load import load_weights
    from slowfast_mvit.weights.report import LoadReport

__all__ = ["LoadReport", "load_weights"]

_PUBLIC = {
    "LoadReport": "slowfast_mvit.weights.report",
    "load_weights": "slowfast_mvit.weights.load",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
