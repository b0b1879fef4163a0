"""RandAugment (https://arxiv.org/abs/1909.13719) on whole clips of uint8 frames.

A specification such as ``rand-m7-n4-mstd0.5-inc1`` reads: 4 operations, drawn anew with repeats for
each clip; each is done with probability 1/2, at a strength drawn around 7 of 10 with standard
deviation 0.5; ``inc``: strength grows with the number for every operation. All frames of a clip get
the same operation, but statistics (histogram, mean) are those of each frame.

Pixels are computed as PIL computes them, which the published models were trained on; the tests
compare each operation with timm's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from slowfast_mvit.errors import ConfigError
from slowfast_mvit.randomness import Draws, whole_number

MAX_LEVEL = 10.0

_APPLY_PROB = 0.5
_FILL = 128  # grey that comes in from outside the picture
_JUST_BELOW = 1 / 4096  # values are rounded down, but not 7 that came out as 6.9999

Affine = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class RandAugment:
    """What a specification says; see the top of this file.

    Args:
        num_ops: operations drawn for a clip.
        magnitude: mean strength, 0 to 10.
        magnitude_std: standard deviation of the strength.
        increasing: whether every operation grows with its strength; if not, posterize, solarize
            and the enhancements keep the older scales.
        interpolation: of the geometric operations, a row of ``KERNELS``.
    """

    num_ops: int = 2
    magnitude: float = MAX_LEVEL
    magnitude_std: float = 0.0
    increasing: bool = False
    interpolation: str = "bicubic"

    def __call__(self, clip: Tensor, rng: Draws) -> Tensor:
        """Augment a clip (T, 3, H, W) uint8 with the draws of ``rng``."""
        names = [
            list(OPERATIONS)[whole_number(rng, 0, len(OPERATIONS))] for _ in range(self.num_ops)
        ]
        for name in names:
            if rng.random() < _APPLY_PROB:
                strength = float(rng.normal(self.magnitude, self.magnitude_std))
                level = min(max(strength, 0.0), MAX_LEVEL) / MAX_LEVEL
                clip = self.apply(
                    name, clip, OPERATIONS[name].argument(level, self.increasing, rng)
                )
        return clip

    def apply(self, name: str, clip: Tensor, argument: float) -> Tensor:
        """One operation on a clip (T, 3, H, W) uint8, with its argument in its own unit."""
        return OPERATIONS[name].apply(clip, argument, self.interpolation)


def parse_randaugment(spec: str, interpolation: str = "bicubic") -> RandAugment:
    """Read a specification in PySlowFast's and timm's form.

    Raises:
        ConfigError: when it is not one, or says something that no published model uses.
    """
    if interpolation not in KERNELS:
        raise ConfigError(
            f"AUG.INTERPOLATION {interpolation!r} is not a choice. Choose from: {list(KERNELS)}"
        )
    kind, *parts = spec.split("-")
    settings: dict[str, str] = {}
    for part in parts:
        match = re.fullmatch(r"(m|n|mstd|inc)(\d+(?:\.\d+)?)", part)
        if kind != "rand" or match is None or match[1] in settings:
            break
        settings[match[1]] = match[2]
    if kind != "rand" or len(settings) < len(parts) or "." in settings.get("n", ""):
        raise ConfigError(
            f"AUG.AA_TYPE {spec!r} cannot be read. Write it like rand-m7-n4-mstd0.5-inc1: "
            "m strength (0 to 10), n operations, mstd spread of the strength, inc1 increasing"
        )
    magnitude = float(settings.get("m", MAX_LEVEL))
    if magnitude > MAX_LEVEL:
        raise ConfigError(f"AUG.AA_TYPE {spec!r}: the strength m must be from 0 to 10")
    return RandAugment(
        num_ops=int(settings.get("n", 2)),
        magnitude=magnitude,
        magnitude_std=float(settings.get("mstd", 0.0)),
        increasing="inc" in settings,  # PySlowFast takes inc0 for true, too
        interpolation=interpolation,
    )


# From a level (0 to 1) to the argument of an operation

Argument = Callable[[float, bool, Draws], float]


def _nothing(level: float, increasing: bool, rng: Draws) -> float:
    return 0.0


def _signed(greatest: float) -> Argument:
    return lambda level, increasing, rng: _either_sign(level * greatest, rng)


def _either_sign(value: float, rng: Draws) -> float:
    return -value if rng.random() > 0.5 else value


def _kept_bits(level: float, increasing: bool, rng: Draws) -> float:
    bits = int(level * 4)
    return 4 - bits if increasing else bits


def _threshold(level: float, increasing: bool, rng: Draws) -> float:
    threshold = int(level * 256)
    return 256 - threshold if increasing else threshold


def _added(level: float, increasing: bool, rng: Draws) -> float:
    return int(level * 110)


def _factor(level: float, increasing: bool, rng: Draws) -> float:
    return 1.0 + _either_sign(level * 0.9, rng) if increasing else level * 1.8 + 0.1


# The operations: (T, 3, H, W) uint8, argument, interpolation -> the same


def auto_contrast(clip: Tensor, argument: float, interpolation: str) -> Tensor:
    """Stretch each channel of each frame to 0 to 255."""
    low = clip.amin(dim=(-2, -1)).flatten().double().unsqueeze(1)  # (T*3, 1)
    high = clip.amax(dim=(-2, -1)).flatten().double().unsqueeze(1)
    levels = torch.arange(256, dtype=torch.float64)
    scale = 255.0 / (high - low)
    table = torch.where(high > low, levels * scale - low * scale, levels)
    return _look_up(table, clip)


def equalize(clip: Tensor, argument: float, interpolation: str) -> Tensor:
    """Give each channel of each frame a flat histogram."""
    channels = clip.flatten(0, 1).flatten(1).long()  # (T*3, H*W)
    counts = torch.zeros(len(channels), 256, dtype=torch.int64)
    counts.scatter_add_(1, channels, torch.ones_like(channels))
    greatest = channels.amax(dim=1, keepdim=True)
    step = (channels.shape[1] - counts.gather(1, greatest)) // 255
    before = counts.cumsum(dim=1) - counts
    table = (step // 2 + before) // step.clamp(min=1)
    return _look_up(torch.where(step == 0, torch.arange(256), table), clip)


def _look_up(table: Tensor, clip: Tensor) -> Tensor:
    """Replace each level of each channel of each frame by its entry in ``table`` (T*3, 256)."""
    channels = clip.flatten(0, 1).flatten(1).long()
    return table.clamp(0, 255).to(torch.uint8).gather(1, channels).view(clip.shape)


def invert(clip: Tensor, argument: float, interpolation: str) -> Tensor:
    """255 - value."""
    return 255 - clip


def posterize(clip: Tensor, bits: float, interpolation: str) -> Tensor:
    """Keep the uppermost ``bits`` of each value."""
    return clip & (256 - (1 << (8 - int(bits)))) if bits > 0 else torch.zeros_like(clip)


def solarize(clip: Tensor, threshold: float, interpolation: str) -> Tensor:
    """Invert the values from ``threshold`` on."""
    return torch.where(clip.short() >= threshold, 255 - clip, clip)


def solarize_add(clip: Tensor, added: float, interpolation: str) -> Tensor:
    """Brighten the values below 128."""
    return torch.where(clip < 128, (clip.short() + int(added)).clamp(max=255).to(torch.uint8), clip)


def colour(clip: Tensor, factor: float, interpolation: str) -> Tensor:
    """Away from grey (factor above 1) or towards it."""
    return _blend(_grey(clip), clip, factor)


def contrast(clip: Tensor, factor: float, interpolation: str) -> Tensor:
    """Away from the mean grey of each frame, or towards it."""
    grey = _grey(clip)
    # Sums of whole numbers: a mean in floats would depend on the number of threads.
    mean = grey.sum(dim=(-3, -2, -1), keepdim=True) / grey[0].numel()
    return _blend((mean + 0.5).floor(), clip, factor)


def brightness(clip: Tensor, factor: float, interpolation: str) -> Tensor:
    """Away from black, or towards it."""
    return _blend(torch.zeros((), dtype=torch.int32), clip, factor)


def sharpness(clip: Tensor, factor: float, interpolation: str) -> Tensor:
    """Away from a smoothed picture, or towards it; the outermost pixels stay."""
    whole = clip.int()
    smooth = whole.clone()
    rows = whole[..., :-2, :] + whole[..., 1:-1, :] + whole[..., 2:, :]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = whole[..., 1:-1, 1:-1]
    smooth[..., 1:-1, 1:-1] = (2 * (around + 4 * inner) + 13) // 26  # 13 parts, rounded
    return _blend(smooth, clip, factor)


def _grey(clip: Tensor) -> Tensor:
    """(T, 1, H, W) int32, 0 to 255: ITU-R 601 luma with PIL's whole numbers."""
    red, green, blue = clip.int().unbind(dim=1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).unsqueeze(1)


def _blend(degenerate: Tensor, clip: Tensor, factor: float) -> Tensor:
    start = degenerate.float()
    return (start + factor * (clip.float() - start)).clamp(0, 255).to(torch.uint8)


def rotate(clip: Tensor, degrees: float, interpolation: str) -> Tensor:
    """Turn the picture anticlockwise round its centre."""
    angle = -math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = clip.shape[-1] / 2, clip.shape[-2] / 2
    shift_x, shift_y = x - cosine * x - sine * y, y + sine * x - cosine * y
    return affine(clip, (cosine, sine, shift_x, -sine, cosine, shift_y), interpolation)


def shear_x(clip: Tensor, factor: float, interpolation: str) -> Tensor:
    """Shift each row by ``factor`` times its height."""
    return affine(clip, (1.0, factor, 0.0, 0.0, 1.0, 0.0), interpolation)


def shear_y(clip: Tensor, factor: float, interpolation: str) -> Tensor:
    """Shift each column by ``factor`` times its distance from the left."""
    return affine(clip, (1.0, 0.0, 0.0, factor, 1.0, 0.0), interpolation)


def translate_x(clip: Tensor, share: float, interpolation: str) -> Tensor:
    """Shift the picture to the left by a share of its width."""
    return affine(clip, (1.0, 0.0, share * clip.shape[-1], 0.0, 1.0, 0.0), interpolation)


def translate_y(clip: Tensor, share: float, interpolation: str) -> Tensor:
    """Shift the picture upwards by a share of its height."""
    return affine(clip, (1.0, 0.0, 0.0, 0.0, 1.0, share * clip.shape[-2]), interpolation)


def affine(clip: Tensor, matrix: Affine, interpolation: str) -> Tensor:
    """Fetch each pixel (x, y) from (a x + b y + c, d x + e y + f), in pixels from the corner.

    What lies outside the picture is grey. Neighbours beyond the edge repeat the edge.
    """
    height, width = clip.shape[-2:]
    a, b, c, d, e, f = matrix
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5,
        torch.arange(width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    from_x, from_y = (a * x + b * y + c).flatten(), (d * x + e * y + f).flatten()
    outside = (from_x < 0) | (from_x >= width) | (from_y < 0) | (from_y >= height)
    columns, column_weights = _taps(from_x - 0.5, width, interpolation)
    rows, row_weights = _taps(from_y - 0.5, height, interpolation)
    neighbours = (rows.unsqueeze(2) * width + columns.unsqueeze(1)).flatten(1)  # (H*W, taps)
    weights = (row_weights.unsqueeze(2) * column_weights.unsqueeze(1)).flatten(1)
    # A weighted sum of a few rows of a table: what embedding_bag does, and does quickly.
    pixels = clip.permute(2, 3, 0, 1).reshape(height * width, -1).float()  # (H*W, T*3)
    fetched = F.embedding_bag(neighbours, pixels, mode="sum", per_sample_weights=weights.float())
    fetched = fetched.add_(_JUST_BELOW).clamp_(0, 255).to(torch.uint8)
    fetched.masked_fill_(outside.unsqueeze(1), _FILL)
    return fetched.view(height, width, -1, 3).permute(2, 3, 0, 1).contiguous()


def _taps(positions: Tensor, size: int, interpolation: str) -> tuple[Tensor, Tensor]:
    """The neighbours of each position along an axis, and their weights: both (positions, taps).

    A neighbour that has no weight anywhere is left out: a shear moves along one axis only.
    """
    first = positions.floor()
    offset, kernel = KERNELS[interpolation]
    weights = kernel(positions - first)
    used = [number for number, weight in enumerate(weights) if weight.any()]
    neighbours = [(first.int() + offset + number).clamp(0, size - 1) for number in used]
    return torch.stack(neighbours, dim=1), torch.stack([weights[number] for number in used], dim=1)


def _linear_weights(d: Tensor) -> list[Tensor]:
    return [1 - d, d]


def _cubic_weights(d: Tensor) -> list[Tensor]:
    """The cubic kernel with a = -1 that PIL uses to transform (its resize has a = -1/2)."""
    return [
        -d + 2 * d**2 - d**3,
        1 - 2 * d**2 + d**3,
        d + d**2 - d**3,
        -(d**2) + d**3,
    ]


# interpolation -> the first neighbour, counted from the floor, and the weights of all
KERNELS: dict[str, tuple[int, Callable[[Tensor], list[Tensor]]]] = {
    "bilinear": (0, _linear_weights),
    "bicubic": (-1, _cubic_weights),
}


@dataclass(frozen=True)
class Operation:
    """A level (0 to 1) -> its argument -> what it does to a clip."""

    argument: Argument
    apply: Callable[[Tensor, float, str], Tensor]


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": Operation(_nothing, auto_contrast),
    "Equalize": Operation(_nothing, equalize),
    "Invert": Operation(_nothing, invert),
    "Rotate": Operation(_signed(30.0), rotate),
    "Posterize": Operation(_kept_bits, posterize),
    "Solarize": Operation(_threshold, solarize),
    "SolarizeAdd": Operation(_added, solarize_add),
    "Color": Operation(_factor, colour),
    "Contrast": Operation(_factor, contrast),
    "Brightness": Operation(_factor, brightness),
    "Sharpness": Operation(_factor, sharpness),
    "ShearX": Operation(_signed(0.3), shear_x),
    "ShearY": Operation(_signed(0.3), shear_y),
    "TranslateXRel": Operation(_signed(0.45), translate_x),
    "TranslateYRel": Operation(_signed(0.45), translate_y),
}
