"""Entry points of ``torch.hub``: every published model, by name.

torch.hub.load("OWNER/REPOSITORY", "mvitv2_s_16x4", pretrained=True)
torch.hub.load("OWNER/REPOSITORY", "mvitv2_b_32x3", pretrained="ssv2", num_classes=12)
"""

from __future__ import annotations

from collections.abc import Callable as _Callable
from typing import Any as _Any

import slowfast_mvit as _slowfast_mvit
from slowfast_mvit.weights.zoo import weights_of as _weights_of

dependencies = ["torch", "torchvision", "av", "fvcore", "iopath", "numpy", "yaml", "tqdm", "PIL"]


def _entry(name: str) -> _Callable[..., _Any]:
    def create(pretrained: bool | str = False, **options: _Any) -> _Any:
        weights = _weights_of(name)[0] if pretrained is True else pretrained or None
        return _slowfast_mvit.create_model(name, weights=weights, **options)

    create.__name__ = name
    create.__doc__ = f"""Create {name}; options are those of slowfast_mvit.create_model.

    Args:
        pretrained: True for {_weights_of(name)[0]}, or the data: {
        ", ".join(weights.partition(".")[2] for weights in _weights_of(name))
    }.
        options: num_classes, input_size, features_only, in_chans, drop_path and others.
    """
    return create


_names = [name for name in _slowfast_mvit.list_models() if _weights_of(name)]
globals().update({name: _entry(name) for name in _names})
