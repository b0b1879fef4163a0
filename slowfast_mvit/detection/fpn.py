"""Feature pyramid (https://arxiv.org/abs/1612.03144): maps of all strides with the same channels.

scale5 -- lateral ------------------- output --> p5 -- every second --> p6
                    | upsampled
scale4 -- lateral --+---------------- output --> p4
                    | upsampled
scale3 ...                                       p3, p2
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from slowfast_mvit.detection.layers import Conv
from slowfast_mvit.models import Backbone


class FPN(nn.Module):
    """A backbone and the feature pyramid over its maps.

    Args:
        bottom_up: the backbone.
        out_channels: channels of the pyramid.
        norm: makes the norm after each convolution, as ``ChannelNorm``; None for none.

    Attributes:
        strides: pixels of a cell of each map, by its name.

    Source: function and parameter names are those of detectron2's FPN, so its weights load
    unchanged; ``tests/detection/test_fpn.py`` compares outputs and gradients. Unlike detectron2's
    it takes images of any size, as it upsamples to the size of the next map.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        *,
        out_channels: int = 256,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        self.out_channels = out_channels
        self.strides = {}
        for name, stage in bottom_up.out_info.items():
            level = _level(name)
            lateral = Conv(stage["num_chs"], out_channels, 1, norm=norm)
            setattr(self, f"fpn_lateral{level}", lateral)
            setattr(self, f"fpn_output{level}", Conv(out_channels, out_channels, 3, norm=norm))
            self.strides[f"p{level}"] = stage["reduction"]
        self.strides[f"p{level + 1}"] = 2 * stage["reduction"]
        for module in self.modules():
            if isinstance(module, Conv):
                nn.init.kaiming_uniform_(module.weight, a=1)  # of detectron2: Xavier's bounds
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the maps (B, out_channels, H', W'), from the finest, p2, to the coarsest, p6.

        Args:
            pixels: (B, 3, H, W), normalised.
        """
        outputs: list[Tensor] = []
        above: Tensor | None = None
        for name, features in reversed(self.bottom_up(pixels).items()):
            lateral = self.get_submodule(f"fpn_lateral{_level(name)}")(features)
            if above is not None:
                lateral = lateral + F.interpolate(above, size=lateral.shape[2:], mode="nearest")
            outputs.insert(0, self.get_submodule(f"fpn_output{_level(name)}")(lateral))
            above = lateral
        outputs.append(outputs[-1][:, :, ::2, ::2])
        return dict(zip(self.strides, outputs, strict=True))


def _level(name: str) -> int:
    return int(name.removeprefix("scale"))
