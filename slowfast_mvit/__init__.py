"""MViT and MViTv2 for video: train, test and use them with PySlowFast's configs, lists and weights.

The names below are loaded when they are first used, so that ``import slowfast_mvit`` is quick and
``import slowfast_mvit.models`` needs nothing but torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_config": "slowfast_mvit.config",
    "build_model": "slowfast_mvit.builders",
    "create_model": "slowfast_mvit.builders",
    "from_pretrained": "slowfast_mvit.builders.hub",
    "list_models": "slowfast_mvit.builders",
    "load_weights": "slowfast_mvit.weights",
    "load": "slowfast_mvit.jobs.predict",
    "predict": "slowfast_mvit.jobs.predict",
    "accelerate": "slowfast_mvit.builders.accelerate",
}

__all__ = ["__version__", "errors", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("slowfast_mvit.errors")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'slowfast_mvit' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
