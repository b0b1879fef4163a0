"""The graph of an exported file: a model with the first and the last steps of its use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slowfast_mvit.models.mvit import MViT


class ExportedModel(nn.Module):
    """A model for ``torch.export``, with inputs and outputs of the same dtypes in any precision.

        pixels (B, 3, T, S, S) float32, normalised          -> model -> logits (B, K) float32
        frames (B, T, S, S, 3) uint8 -> scale and shift     -> model -> softmax -> probs (B, K)

    Args:
        model: in evaluation; the dtype of its parameters is the precision of the graph.
        preprocessing: mean and standard deviation of R, G and B, on the scale from 0 to 1, for a
            graph that takes frames; None for one that takes pixels.

    Source: ``data.views.pixels.normalise`` has the same arithmetic; ``tests/jobs/test_export.py``
    compares them.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, model: MViT, preprocessing: tuple[Sequence[float], Sequence[float]] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.dtype = model.patch_embed.proj.weight.dtype
        self.takes_frames = preprocessing is not None
        mean, std = map(torch.tensor, preprocessing or ([0.0] * 3, [1.0] * 3))
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1, 1))
        self.register_buffer("shift", (-mean / std).view(3, 1, 1, 1))

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits of pixels, or probabilities of frames; see the class."""
        if not self.takes_frames:
            return self.model(clips.to(self.dtype)).float()  # type: ignore[no-any-return]
        pixels = clips.permute(0, 4, 1, 2, 3).float() * self.scale + self.shift
        return self.model(pixels.to(self.dtype)).float().softmax(dim=1)  # type: ignore[no-any-return]
