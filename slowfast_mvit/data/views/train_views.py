"""Training views: RandAugment, random crop, flip and colour jitter of uint8 clips.

    view            (RandAugment) -> random resized crop, or short-side jitter + random crop -> flip
                    -> (colour jitter, where there is no RandAugment)
    on the device   normalise -> random_erase -> (mixup)

All frames of a clip are treated alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from slowfast_mvit.data.views import exact, fused, geometry
from slowfast_mvit.data.views.geometry import GREY, Cut, Window, cut_from_all, cut_out
from slowfast_mvit.data.views.pixels import Frames, by_frame
from slowfast_mvit.data.views.randaugment import Step, parse_randaugment
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.randomness import Draws


@dataclass(frozen=True)
class ViewDraws:
    """All draws of one training view.

    Attributes:
        steps: the operations of RandAugment.
        cut: the crop.
        flip: whether the view is mirrored.
        fill: the colour of RandAugment outside the frame: not drawn.
    """

    steps: tuple[Step, ...]
    cut: Cut
    flip: bool
    fill: tuple[int, int, int] = GREY


@dataclass(frozen=True)
class TrainTransform:
    """One random training view of a clip.

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
        method: how RandAugment, crop and flip are computed, a row of ``METHODS``. The draws do
            not depend on it.
        colour_jitter: spread of brightness, contrast and saturation where there is no RandAugment;
            0 for none.
        resizing: "clip", or "image" (see ``pixels.py``): this needs ``area_range``.
        fill: R, G and B, 0 to 255, of RandAugment outside the frame.

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
    method: str = "exact"
    colour_jitter: float = 0.0
    resizing: str = "clip"
    fill: tuple[int, int, int] = GREY

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_ranges(self)
        if self.randaugment:
            parse_randaugment(self.randaugment)

    def __call__(self, frames: Tensor, rng: Draws, out: Tensor | None = None) -> Tensor:
        """Make one view.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            rng: the stream of this view.
            out: (3, T, S, S) uint8, contiguous, to write the view to; made where None.

        Returns:
            (3, T, S, S) uint8 RGB, ``out`` unless it was None.
        """
        draws = self.draw((frames.shape[1], frames.shape[2]), rng)
        if out is None:
            side = self.crop_px
            out = torch.empty((3, len(frames), side, side), dtype=torch.uint8)
        METHODS[self.method](frames.contiguous().numpy(), draws, self.interpolation, by_frame(out))
        if self.colour_jitter and not self.randaugment:
            adjust(out, draw_adjustments(self.colour_jitter, rng))
        return out

    def draw(self, size: tuple[int, int], rng: Draws) -> ViewDraws:
        """Draw the view of frames of this height and width."""
        steps = parse_randaugment(self.randaugment).draw(rng) if self.randaugment else ()
        if self.area_range:
            box = geometry.draw_crop(*size, self.area_range, self.aspect_range, rng)
            cut = Cut(size, box, self.resizing)
        else:
            scales_px, inverse = self.scales_px, self.inverse_scales
            cut = geometry.draw_random_cut(size, self.crop_px, scales_px, inverse, rng)
        flip = bool(self.flip and rng.random() < 0.5)
        return ViewDraws(steps, cut, flip, self.fill)


# The methods: frames (T, H, W, 3), draws, interpolation, and the view (T, S, S, 3) to write


def _exactly(frames: Frames, draws: ViewDraws, interpolation: str, view: Frames) -> None:
    """RandAugment on the frames, then crop, resize and flip: the order of PySlowFast."""
    size = frames.shape[1:3]
    box = draws.cut.source_box(size)
    part = exact.on_a_part(frames, draws.steps, interpolation, box, draws.fill)
    cropped = cut_out(Window(part, box, size), draws.cut, view.shape[1])
    view[:] = cropped[:, :, ::-1] if draws.flip else cropped


def _crop_first(frames: Frames, draws: ViewDraws, interpolation: str, view: Frames) -> None:
    """Crop, resize and flip, then RandAugment on the view: the order of timm."""
    cropped = np.ascontiguousarray(
        cut_from_all(frames, draws.cut, view.shape[1], mirrored=draws.flip)
    )
    view[:] = exact.on_whole_frames(cropped, draws.steps, interpolation, draws.fill)


def _fused(frames: Frames, draws: ViewDraws, interpolation: str, view: Frames) -> None:
    """All that moves pixels in one bilinear sampling, then the rest on the view."""
    steps, cut, backend = draws.steps, draws.cut, fused.best_backend()
    fused.write_view(frames, steps, cut, view, mirrored=draws.flip, backend=backend)


METHODS: dict[str, Callable[[Frames, ViewDraws, str, Frames], None]] = {
    "exact": _exactly,
    "crop_first": _crop_first,
    "fused": _fused,
}


def _check_choices(transform: TrainTransform) -> None:
    for key, value, table in (
        ("AUG.AA_METHOD", transform.method, list(METHODS)),
        ("AUG.INTERPOLATION", transform.interpolation, list(geometry.KERNELS)),
    ):
        if value not in table:
            raise ConfigError(f"{key} {value!r} is not a choice. Choose from: {table}")
    if transform.resizing != "clip" and transform.method == "fused":
        raise ConfigError(
            "AUG.AA_METHOD 'fused' samples bilinearly, and images are resized as Pillow does it. "
            "Choose 'crop_first', as timm does, or 'exact'"
        )


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
    if transform.resizing != "clip" and not area:
        raise ConfigError("images are cropped at random sizes: DATA.TRAIN_JITTER_SCALES_RELATIVE")
    least, greatest = transform.scales_px
    if not area and not transform.crop_px <= least <= greatest:
        raise ConfigError(
            f"DATA.TRAIN_JITTER_SCALES {(least, greatest)} must rise from DATA.TRAIN_CROP_SIZE "
            f"({transform.crop_px}) or more"
        )


# Colour jitter: PySlowFast applies it to images (``AUG.COLOR_JITTER``, by torchvision's
# ``ColorJitter``, without hue); here all frames of a clip are adjusted alike.

ADJUSTMENTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
}


def draw_adjustments(spread: float, rng: Draws) -> list[tuple[str, float]]:
    """Draw the order of ``ADJUSTMENTS`` and their factors (1: unchanged).

    Factors are uniform from 1 - ``spread`` (at least 0) to 1 + ``spread``.
    """
    names = [list(ADJUSTMENTS)[number] for number in rng.permutation(len(ADJUSTMENTS))]
    return [(name, float(rng.uniform(max(0.0, 1.0 - spread), 1.0 + spread))) for name in names]


def adjust(clip: Tensor, adjustments: Sequence[tuple[str, float]]) -> None:
    """Adjust a clip (3, T, S, S) uint8 in place."""
    frames = clip.transpose(0, 1)  # (T, 3, S, S)
    for name, factor in adjustments:
        frames = ADJUSTMENTS[name](frames, factor)
    clip.copy_(frames.transpose(0, 1))
