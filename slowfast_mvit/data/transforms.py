"""From frames to views: resizing, cropping and flipping of uint8 clips; then, on the device,
normalisation and random erasing.

    train view    (RandAugment) -> random resized crop, or short-side jitter + random crop -> flip
    test views    short side to ``scale_px`` -> 1 or 3 crops
    on the device normalise -> random_erase -> (mixup)

Resizing is bilinear without antialiasing, as in PySlowFast. All frames of a clip are treated alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from slowfast_mvit.data.randaugment import RandAugment, parse_randaugment
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.randomness import Draws, whole_number
from slowfast_mvit.structures import ViewPlan

_CROP_TRIES = 10
_ERASE_TRIES = 100
_ERASE_AREA = (0.02, 1 / 3)  # of the picture
_ERASE_ASPECT = (0.3, 1 / 0.3)

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


# In a worker, on uint8


@dataclass(frozen=True)
class TrainTransform:
    """Makes one random training view of a clip.

    Args:
        crop_px: S, side of the view.
        scales_px: least and greatest short side before a random crop; read where ``area_range`` is
            empty.
        inverse_scales: draw one over the short side uniformly, which favours small ones.
        area_range: with ``aspect_range``: crop a random share of the area (0 to 1) and resize it.
        aspect_range: width over height of that crop.
        flip: mirror half of the views.
        randaugment: such as "rand-m7-n4-mstd0.5-inc1"; "" for none.
        interpolation: of RandAugment's geometric operations: "bilinear" or "bicubic".

    Raises:
        ConfigError: when these cannot be met.
    """

    crop_px: int
    scales_px: tuple[int, int]
    inverse_scales: bool = False
    area_range: Sequence[float] = ()
    aspect_range: Sequence[float] = ()
    flip: bool = True
    randaugment: str = ""
    interpolation: str = "bicubic"
    _augment: RandAugment | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        _check_ranges(self)
        if self.randaugment:
            augment = parse_randaugment(self.randaugment, self.interpolation)
            object.__setattr__(self, "_augment", augment)

    def __call__(self, frames: Tensor, rng: Draws) -> Tensor:
        """One view.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            rng: the stream of this view.

        Returns:
            (3, T, S, S) uint8 RGB.
        """
        clip = frames.permute(0, 3, 1, 2)  # (T, 3, H, W)
        if self._augment is not None:
            clip = self._augment(clip, rng)
        if self.area_range:
            clip = random_resized_crop(clip, self.crop_px, self.area_range, self.aspect_range, rng)
        else:
            short_px = draw_short_side(self.scales_px, self.inverse_scales, rng)
            clip = random_crop(resize_short_side(clip, short_px), self.crop_px, rng)
        if self.flip and rng.random() < 0.5:
            clip = clip.flip(-1)
        return clip.transpose(0, 1)


def _check_ranges(transform: TrainTransform) -> None:
    area, aspect = tuple(transform.area_range), tuple(transform.aspect_range)
    if bool(area) != bool(aspect):
        raise ConfigError(
            "DATA.TRAIN_JITTER_SCALES_RELATIVE and DATA.TRAIN_JITTER_ASPECT_RELATIVE go together: "
            f"got {area} and {aspect}. Set both, or neither"
        )
    if area and not (len(area) == 2 and 0 < area[0] <= area[1] <= 1):
        raise ConfigError(
            f"DATA.TRAIN_JITTER_SCALES_RELATIVE must be two shares from 0 to 1, got {area}"
        )
    if aspect and not (len(aspect) == 2 and 0 < aspect[0] <= aspect[1]):
        raise ConfigError(
            f"DATA.TRAIN_JITTER_ASPECT_RELATIVE must be two ratios above 0, got {aspect}"
        )
    least, greatest = transform.scales_px
    if not area and not transform.crop_px <= least <= greatest:
        raise ConfigError(
            f"DATA.TRAIN_JITTER_SCALES {(least, greatest)} must rise from DATA.TRAIN_CROP_SIZE "
            f"({transform.crop_px}) or more"
        )


def eval_views(frames: Tensor, plan: ViewPlan) -> Tensor:
    """The crops of one clip: (T, H, W, 3) uint8 -> (num_crops, 3, T, S, S) uint8.

    Three crops lie along the longer side: left, centre, right, or top, centre, bottom. A single one
    is the centre, for every data set (PySlowFast takes the left or top one for SSv2).
    """
    clip = resize_short_side(frames.permute(0, 3, 1, 2), plan.scale_px)
    side = plan.crop_px
    boxes = crop_boxes(clip.shape[-2], clip.shape[-1], side, plan.num_crops)
    crops = [clip[:, :, top : top + side, left : left + side] for top, left in boxes]
    return torch.stack(crops).transpose(1, 2)


def crop_boxes(height: int, width: int, side: int, num_crops: int) -> list[tuple[int, int]]:
    """(top, left) of each crop; the centre is rounded up."""
    top, left = math.ceil((height - side) / 2), math.ceil((width - side) / 2)
    if num_crops == 1:
        return [(top, left)]
    if height > width:
        return [(0, left), (top, left), (height - side, left)]
    return [(top, 0), (top, left), (top, width - side)]


def resize_short_side(clip: Tensor, short_px: int) -> Tensor:
    """(T, 3, H, W) with the shorter side at ``short_px``; the longer in proportion, floored."""
    height, width = clip.shape[-2:]
    if min(height, width) == short_px:
        return clip
    if width < height:
        size = [math.floor(height / width * short_px), short_px]
    else:
        size = [short_px, math.floor(width / height * short_px)]
    return _resize(clip, size)


def draw_short_side(scales_px: tuple[int, int], inverse: bool, rng: Draws) -> int:
    """A short side from the least to the greatest of ``scales_px``."""
    least, greatest = scales_px
    if inverse:
        return round(1.0 / rng.uniform(1.0 / greatest, 1.0 / least))
    return round(rng.uniform(least, greatest))


def random_crop(clip: Tensor, side: int, rng: Draws) -> Tensor:
    """A square anywhere in the picture; as in PySlowFast never at the very end of an axis."""
    height, width = clip.shape[-2:]
    top = whole_number(rng, 0, height - side) if height > side else 0
    left = whole_number(rng, 0, width - side) if width > side else 0
    return clip[..., top : top + side, left : left + side]


def random_resized_crop(
    clip: Tensor,
    side: int,
    area_range: Sequence[float],
    aspect_range: Sequence[float],
    rng: Draws,
) -> Tensor:
    """A random part of the picture, resized to a square (the crop of Inception)."""
    height, width = clip.shape[-2:]
    top, left, crop_height, crop_width = draw_crop(height, width, area_range, aspect_range, rng)
    part = clip[..., top : top + crop_height, left : left + crop_width]
    return _resize(part, [side, side])


def draw_crop(
    height: int,
    width: int,
    area_range: Sequence[float],
    aspect_range: Sequence[float],
    rng: Draws,
) -> Box:
    """A box of a random share of the area and a random aspect ratio, uniform in its logarithm.

    After ten boxes that do not fit: the largest in the centre within ``aspect_range``.
    """
    least, greatest = aspect_range
    for _ in range(_CROP_TRIES):
        area = rng.uniform(area_range[0], area_range[1]) * height * width
        aspect = math.exp(rng.uniform(math.log(least), math.log(greatest)))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = whole_number(rng, 0, height - box_height + 1)
            left = whole_number(rng, 0, width - box_width + 1)
            return top, left, box_height, box_width
    box_height = min(height, round(width / least))
    box_width = min(width, round(height * greatest))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _resize(clip: Tensor, size: list[int]) -> Tensor:
    bilinear = InterpolationMode.BILINEAR
    resized: Tensor = F.resize(clip, size, interpolation=bilinear, antialias=False)
    return resized


# On the device, on whole batches


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(..., 3, T, S, S) uint8 -> (N, 3, T, S, S) float32, N the product of the leading axes.

    Args:
        pixels: 0 to 255.
        mean: of R, G and B, on the scale from 0 to 1.
        std: standard deviation of R, G and B, on the same scale.
    """
    views = pixels.flatten(0, -5)
    scale = torch.tensor([1 / (255 * s) for s in std], device=pixels.device).view(3, 1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=pixels.device)
    return torch.addcmul(shift.view(3, 1, 1, 1), views, scale)  # one pass, one new tensor


def random_erase(
    clips: Tensor, rng: Draws, *, prob: float, mode: str = "pixel", max_count: int = 1
) -> Tensor:
    """Overwrite boxes of normalised clips; each clip has its own, the same in all of its frames.

    Args:
        clips: (N, 3, T, H, W) float, normalised.
        rng: the stream of this batch.
        prob: share of the clips that are erased.
        mode: "pixel": normal noise, fresh for each pixel of each frame; "rand": one normal colour
            for each frame; "const": zeros, the mean colour.
        max_count: 1 to this many boxes in a clip; they share the area.

    Returns:
        New clips, or ``clips`` itself where none was erased.

    Raises:
        ConfigError: when there is no such mode.
    """
    if mode not in ERASE_MODES:
        raise ConfigError(f"AUG.RE_MODE {mode!r} is not a choice. Choose from: {list(ERASE_MODES)}")
    height, width = clips.shape[-2:]
    boxes = [
        (number, box)
        for number in range(len(clips))
        if rng.random() < prob
        for box in _draw_erase_boxes(height, width, max_count, rng)
    ]
    if not boxes:
        return clips
    noise = torch.Generator(clips.device).manual_seed(whole_number(rng, 0, 1 << 62))
    erased = clips.clone()
    for number, (top, left, box_height, box_width) in boxes:
        region = erased[number, :, :, top : top + box_height, left : left + box_width]
        region.copy_(ERASE_MODES[mode](region, noise))
    return erased


def _draw_erase_boxes(height: int, width: int, max_count: int, rng: Draws) -> list[Box]:
    count = 1 if max_count == 1 else whole_number(rng, 1, max_count + 1)
    boxes = (_draw_erase_box(height, width, count, rng) for _ in range(count))
    return [box for box in boxes if box is not None]


def _draw_erase_box(height: int, width: int, count: int, rng: Draws) -> Box | None:
    least, greatest = map(math.log, _ERASE_ASPECT)
    for _ in range(_ERASE_TRIES):
        area = rng.uniform(*_ERASE_AREA) * height * width / count
        aspect = math.exp(rng.uniform(least, greatest))
        box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width < width and 0 < box_height < height:
            top = whole_number(rng, 0, height - box_height + 1)
            left = whole_number(rng, 0, width - box_width + 1)
            return top, left, box_height, box_width
    return None


def _pixel_noise(region: Tensor, noise: torch.Generator) -> Tensor:
    return torch.randn(region.shape, generator=noise, device=region.device, dtype=region.dtype)


def _colour_noise(region: Tensor, noise: torch.Generator) -> Tensor:
    shape = (*region.shape[:2], 1, 1)  # (3, T, 1, 1)
    return torch.randn(shape, generator=noise, device=region.device, dtype=region.dtype)


def _no_noise(region: Tensor, noise: torch.Generator) -> Tensor:
    return torch.zeros_like(region)


ERASE_MODES = {"pixel": _pixel_noise, "rand": _colour_noise, "const": _no_noise}
