"""Our fast blocks inside a model of torchvision, with its parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.video import mvit as torchvision_mvit

from slowfast_mvit.errors import ConfigError
from slowfast_mvit.fast import create_model
from slowfast_mvit.fast.block import FastBlock
from slowfast_mvit.fast.plan import is_unmodified
from slowfast_mvit.models.tables import THW
from slowfast_mvit.weights.architecture import matching_variant
from slowfast_mvit.weights.names import to_ours


def accelerate(model: nn.Module) -> nn.Module:
    """Make torchvision's ``mvit_v2_s`` or ``mvit_v1_b`` compute its blocks as our models do.

    Outputs and gradients are the same but for rounding; parameters, state dict, head and the hooks
    of the blocks and of everything outside them stay. A block with a hook or a replaced layer
    inside runs as torchvision wrote it. Masks of stochastic depth are drawn differently.

    Args:
        model: from ``torchvision.models.video``; changed in place, also where it was trained.

    Returns:
        The same model.

    Raises:
        ConfigError: it is another model.
    """
    state = model.state_dict()
    is_theirs = isinstance(model, torchvision_mvit.MViT)
    name = matching_variant(to_ours(state, "model")[0]) if is_theirs else None
    if name is None:
        raise ConfigError(
            f"accelerate takes torchvision's mvit_v2_s and mvit_v1_b, got {type(model).__name__}. "
            "For timm's models, load their weights into create_model"
        )
    encoding: Any = model.pos_encoding
    blocks: Any = model.blocks
    grid = (encoding.temporal_size, *encoding.spatial_size)
    stride: Any = model.conv_proj.stride
    with torch.device("meta"):
        ours = create_model(
            name, input_size=[n * s for n, s in zip(grid, stride, strict=True)], drop_path=0.0
        )
    for theirs, fast in zip(blocks, ours.blocks, strict=True):
        theirs.__class__ = AcceleratedBlock
        theirs.fast = (fast,)  # in a tuple, so that it is no child with a state dict of its own
        theirs.own_layers = {
            layer: type(module) for layer, module in theirs.named_modules() if layer not in _SHARED
        }
    return model


# Layers of a block of torchvision -> those of ours that they stand in for.
_SHARED = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.qkv": "attn.qkv",
    "attn.project.0": "attn.proj",
    "attn.pool_q.norm_act.0": "attn.norm_q",
    "attn.pool_k.norm_act.0": "attn.norm_k",
    "attn.pool_v.norm_act.0": "attn.norm_v",
    "mlp.0": "mlp.fc1",
    "mlp.3": "mlp.fc2",
    "project": "proj",
}
_TABLES = ("rel_pos_h", "rel_pos_w", "rel_pos_t")
_POOLS = ("pool_q", "pool_k", "pool_v")


class AcceleratedBlock(torchvision_mvit.MultiscaleBlock):
    """A block of torchvision that one of ours computes; ``accelerate`` sets this class.

    Attributes:
        fast: our block, which has the layers and parameters of this one.
        own_layers: the classes of the layers that our block does not call.
    """

    fast: tuple[FastBlock]
    own_layers: dict[str, type]

    def forward(self, x: Tensor, thw: THW) -> tuple[Tensor, THW]:
        """Run the block; arguments and result are torchvision's."""
        (fast,) = self.fast
        if not self._is_as_built():
            return super().forward(x, thw)  # type: ignore[no-any-return]
        self._share(fast)
        return fast(x, thw)  # type: ignore[no-any-return]

    def _is_as_built(self) -> bool:
        """Return whether all layers that our block does not call are as torchvision built them."""
        own = {name: one for name, one in self.named_modules() if name and name not in _SHARED}
        return all(name in own for name in self.own_layers if name) and all(
            is_unmodified(one, self.own_layers.get(name, type(None)))
            and not (isinstance(one, nn.Dropout) and one.training and one.p > 0.0)
            for name, one in own.items()
        )

    def _share(self, fast: Any) -> None:
        """Give our block the layers of this one, which may have been replaced."""
        for theirs, ours in _SHARED.items():
            parent, _, name = ours.rpartition(".")
            owner = fast.get_submodule(parent)
            if hasattr(owner, name) and getattr(owner, name) is not None:
                owner._modules[name] = self.get_submodule(theirs)
        attn: Any = self.attn
        for name in _TABLES:
            if getattr(fast.attn, name) is not None:
                fast.attn._parameters[name] = getattr(attn, name)
        for name in _POOLS:
            if getattr(fast.attn, name) is not None:
                getattr(fast.attn, name)._parameters["weight"] = getattr(attn, name).pool.weight
        if fast.training != self.training:
            fast.training = fast.drop_path.training = self.training
        fast.drop_path.rate = self.stochastic_depth.p
