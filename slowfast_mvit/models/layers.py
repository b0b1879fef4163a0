"""The small parts of an MViT: patch embedding, MLP, stochastic depth, head, and their first values.

Letters used in shapes:
    B batch   C channels   P prefix tokens (0, or 1 for the class token)
    T, H, W   in ``thw`` and in comments on tokens: the token grid; of pixels: frames, rows, columns
    L = P + T * H * W   K classes
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast_mvit.models.pixel_checks import check_pixels
from slowfast_mvit.models.tables import THW

NORM_EPS = 1e-6


def initialise(module: nn.Module) -> None:
    """Give the parameters of one layer their first values; for ``nn.Module.apply``.

    Weights are normal with standard deviation 0.02, the depthwise pooling filters too. Biases of
    linear layers and LayerNorms start at 0.02, not 0, as in the published models.
    The bias of a convolution keeps PyTorch's own first value.
    """
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None:
        nn.init.constant_(module.bias, 0.02)


class PatchEmbed(nn.Module):
    """Cut a clip into overlapping patches and project each to a token.

    Args:
        dim: width of the tokens.
        in_chans: channels of the pixels.
        kernel: size of a patch, in (frames, rows, columns), or in (rows, columns) for images.
        stride: steps between patches, likewise.
        padding: zeros put around the clip, likewise.

    Raises:
        PixelsError: in ``forward``, if the pixels are not a batch of RGB clips (or images), or not
            of the dtype and on the device of the weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        in_chans: int = 3,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.for_images = len(kernel) == 2
        convolution: Any = nn.Conv2d if self.for_images else nn.Conv3d
        self.in_chans = in_chans
        self.proj = convolution(in_chans, dim, kernel, stride, padding)

    def forward(self, pixels: Tensor) -> tuple[Tensor, THW]:
        """Embed.

        Args:
            pixels: (B, 3, T, H, W); for an image model (B, 3, H, W) or (B, 3, 1, H, W).

        Returns:
            Tokens (B, T*H*W, dim), time slowest, and their grid (T, H, W).
        """
        check_pixels(pixels, self.proj, channels=self.in_chans, for_images=self.for_images)
        if self.for_images and pixels.ndim == 5:
            pixels = pixels.squeeze(2)
        grid = self.convolve(pixels)
        if self.for_images:
            grid = grid.unsqueeze(2)  # (B, dim, 1, H, W)
        t, h, w = grid.shape[2:]
        return grid.flatten(2).transpose(1, 2), (t, h, w)

    def convolve(self, pixels: Tensor) -> Tensor:
        """Return the patches as a grid, (B, dim, T, H, W), or (B, dim, H, W) for images.

        A clip shorter than the kernel gets zeros at its end, whose patches are cut off again: of a
        single frame in bfloat16, oneDNN makes NaN (PyTorch 2.11 to 2.14, CPUs with AVX-512).
        """
        sizes = list(zip(pixels.shape[2:], self.kernel, self.stride, self.padding, strict=True))
        missing = [max(size - length, 0) for length, size, _, _ in sizes]
        if not any(missing):
            return self.proj(pixels)  # type: ignore[no-any-return]
        padded = F.pad(pixels, [zeros for axis in reversed(missing) for zeros in (0, axis)])
        sizes_out = [(length + 2 * pad - size) // step + 1 for length, size, step, pad in sizes]
        grid: Tensor = self.proj(padded)
        for axis, length in enumerate(sizes_out, start=2):
            grid = grid.narrow(axis, 0, length)
        return grid


class Mlp(nn.Module):
    """Two linear layers with a GELU between, each followed by dropout."""

    def __init__(self, dim: int, dim_hidden: int, dim_out: int, *, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, dim_hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(dim_hidden, dim_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.dropout(self.act(self.fc1(tokens)))
        out: Tensor = self.dropout(self.fc2(hidden))
        return out


class DropPath(nn.Module):
    """Stochastic depth: in training a sample loses the whole branch with probability ``rate``.

    The other samples are divided by ``1 - rate``, so the expected value does not change.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    @property
    def is_active(self) -> bool:
        """Return whether anything is dropped now."""
        return self.training and self.rate > 0.0

    def draw(self, batch_size: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The factor of the branch of each sample, (B,): 0, or 1 / (1 - rate)."""
        keep = 1.0 - self.rate
        return torch.empty(batch_size, dtype=dtype, device=device).bernoulli_(keep) / keep

    def forward(self, branch: Tensor) -> Tensor:
        if not self.is_active:
            return branch
        factors = self.draw(len(branch), dtype=branch.dtype, device=branch.device)
        return branch * factors.view((-1,) + (1,) * (branch.ndim - 1))

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class Head(nn.Module):
    """Dropout and a linear classifier, or none for 0 classes; returns logits in evaluation too."""

    def __init__(self, dim: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.projection(self.dropout(features))
        return logits


def with_prefix(prefix: Tensor, patches: Tensor) -> Tensor:
    """Prefix tokens (B, P, ...) and the tokens of the grid, concatenated; P may be 0."""
    return torch.cat([prefix, patches], dim=1) if prefix.shape[1] else patches
