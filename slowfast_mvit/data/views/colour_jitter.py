"""Colour jitter: brightness, contrast and saturation in a random order, by random factors.

PySlowFast does it to images where there is no RandAugment (``AUG.COLOR_JITTER``, by torchvision's
``ColorJitter``, without hue). Here a clip is treated so, all of its frames alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms.v2 import functional as F

from slowfast_mvit.randomness import Draws

ADJUSTMENTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
}


@dataclass(frozen=True)
class Adjustments:
    """The drawn adjustments: names of ``ADJUSTMENTS`` with factors (1: unchanged), in order."""

    factors: tuple[tuple[str, float], ...]

    def apply_to(self, clip: Tensor) -> None:
        """Adjust a clip (3, T, S, S) uint8 in place."""
        frames = clip.transpose(0, 1)  # (T, 3, S, S)
        for name, factor in self.factors:
            frames = ADJUSTMENTS[name](frames, factor)
        clip.copy_(frames.transpose(0, 1))


@dataclass(frozen=True)
class ColourJitter:
    """Factors are uniform from 1 - ``spread`` (at least 0) to 1 + ``spread``."""

    spread: float

    def draw(self, rng: Draws) -> Adjustments:
        """An order and three factors."""
        names = [list(ADJUSTMENTS)[number] for number in rng.permutation(len(ADJUSTMENTS))]
        least, greatest = max(0.0, 1.0 - self.spread), 1.0 + self.spread
        return Adjustments(tuple((name, float(rng.uniform(least, greatest))) for name in names))
