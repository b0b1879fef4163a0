"""A file's state dict in our names, without what no model for recognition has."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from slowfast_mvit.weights.files import WeightsFile
from slowfast_mvit.weights.names import check_unique, strip_wrappers, to_ours, why_left_out

# Left out of a model only if it has no such parameter, and no model is at hand here.
_OF_MODELS = ("head.projection.", "cls_token")


def without_wrappers(
    file: WeightsFile, clear_name_patterns: Collection[str] = ()
) -> dict[str, Tensor]:
    """The state dict without what wrappers, and whoever saved it, put into its names.

    Args:
        file: what was read.
        clear_name_patterns: each is taken out of every name where it first occurs.

    Raises:
        WeightsError: if two names become one.
    """
    names = {}
    for name in file.state:
        cleared = name
        for pattern in clear_name_patterns:
            cleared = cleared.replace(pattern, "", 1)
        names[name] = strip_wrappers(cleared)
    check_unique(names, file.path)
    return {names[name]: value for name, value in file.state.items()}


def state_in_our_names(file: WeightsFile) -> tuple[dict[str, Tensor], str, tuple[str, ...]]:
    """Return what a file holds of a model for recognition.

    Returns:
        The state dict in our names; the source, a key of ``SOURCES``; and the names of what was
        left out: parts of a detector, of pre-training by masks and the like.

    Raises:
        WeightsError: if these are not the weights of an MViT.
    """
    state, source = to_ours(without_wrappers(file), file.path)
    left_out = tuple(
        name for name in state if not name.startswith(_OF_MODELS) and why_left_out(source, name)
    )
    return {name: value for name, value in state.items() if name not in left_out}, source, left_out
