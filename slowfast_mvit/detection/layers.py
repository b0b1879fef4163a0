"""Convolutions of a detector, with the names and norms of detectron2."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Conv(nn.Conv2d):
    """A convolution that keeps the grid, then a norm; with a bias where there is no norm.

    Args:
        dim: channels of the input.
        dim_out: channels of the output.
        kernel: its side, odd.
        norm: makes the norm for a number of channels; None for none.
    """

    def __init__(
        self, dim: int, dim_out: int, kernel: int, *, norm: Callable[[int], nn.Module] | None
    ) -> None:
        super().__init__(dim, dim_out, kernel, padding=kernel // 2, bias=norm is None)
        self.norm = None if norm is None else norm(dim_out)

    def forward(self, features: Tensor) -> Tensor:
        out = super().forward(features)
        return out if self.norm is None else self.norm(out)  # type: ignore[no-any-return]
