"""``from_pretrained``, ``save_pretrained`` and ``push_to_hub``, as models on the hub have them.

What is saved is the folder that ``weights/exports.py`` describes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from slowfast_mvit import __version__
from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.builders.model import model_of_checkpoint
from slowfast_mvit.errors import WeightsError
from slowfast_mvit.fast.block import FastMViT
from slowfast_mvit.models import MViT
from slowfast_mvit.weights.architecture import exact_state, matching_variant
from slowfast_mvit.weights.exports import write_folder
from slowfast_mvit.weights.fetch import NO_HUB
from slowfast_mvit.weights.names import strip_wrappers
from slowfast_mvit.weights.zoo import HUB

try:
    from huggingface_hub import ModelHubMixin
except ImportError:

    class ModelHubMixin:  # type: ignore[no-redef]
        """Folders without the hub."""

        def __init_subclass__(cls, **_: Any) -> None:
            super().__init_subclass__()

        def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
            """Write the folder."""
            self._save_pretrained(Path(save_directory))  # type: ignore[attr-defined]

        def push_to_hub(self, *_: Any, **__: Any) -> str:
            """Refuse it."""
            raise WeightsError(f"push_to_hub {NO_HUB}")


def from_pretrained(
    name: str | Path, *, revision: str | None = None, num_classes: int | None = None
) -> MViT:
    """Return a model from the hub or from a folder, in evaluation mode.

    Args:
        name: ``ORGANISATION/NAME``, or a folder that ``save_pretrained`` wrote.
        revision: a branch, tag or commit of the hub.
        num_classes: another number of classes gives a new head, 0 the features before it.

    Raises:
        DownloadError: it cannot be fetched.
        WeightsError: it cannot be read, or is not an MViT.
    """
    if not os.path.isdir(name):
        name = f"{HUB}{name}" + (f"@{revision}" if revision else "")
    model = with_hub_methods(model_of_checkpoint(name))
    if num_classes not in (None, model.num_classes):
        model.reset_classifier(num_classes)
    return model


def with_hub_methods(model: MViT) -> MViT:
    """Give a model of ``build_model`` the methods ``save_pretrained`` and ``push_to_hub``."""
    model.__class__ = FastHubMViT if isinstance(model, FastMViT) else PlainHubMViT
    return model


class _HubMethods(ModelHubMixin, library_name="slowfast_mvit"):
    """The methods of huggingface_hub's mixin, with our folder."""

    from_pretrained = staticmethod(from_pretrained)  # type: ignore[assignment]

    def _save_pretrained(self, save_directory: Path) -> None:
        model: Any = self
        if model.arguments is None:
            raise WeightsError(
                "the model was built from records of blocks, which a folder does not describe. "
                "Build it by create_model or build_model"
            )
        arguments = {**model.arguments, "num_classes": model.num_classes}
        with torch.device("meta"):
            expected = mvit_from_lists(**arguments).state_dict()
        state = {strip_wrappers(name): value for name, value in model.state_dict().items()}
        state = exact_state(state, expected, "the model")
        config = {
            "variant": matching_variant(state),
            "num_classes": model.num_classes,
            "global_pool": model.global_pool,
            "model": arguments,
            "input_spec": model.input_spec,
        }
        write_folder(save_directory, state, ours=__version__, config=config)


class FastHubMViT(_HubMethods, FastMViT):
    """An ``MViT`` with fast blocks and the methods of the hub."""


class PlainHubMViT(_HubMethods, MViT):
    """An ``MViT`` with plain blocks and the methods of the hub."""
