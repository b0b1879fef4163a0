"""From frames to views: augmenting, resizing, cropping and flipping of uint8 clips; then, on the
device, normalisation.

    train view    (RandAugment) -> random resized crop, or short-side jitter + random crop -> flip
    test views    short side to ``scale_px`` -> 1 or 3 crops
    on the device normalise -> random_erase -> (mixup)

All frames of a clip are treated alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from slowfast_mvit.data.views import exact, fused
from slowfast_mvit.data.views.affine import GREY, KERNELS, Window
from slowfast_mvit.data.views.colour_jitter import ColourJitter
from slowfast_mvit.data.views.crops import (
    Cut,
    crop_boxes,
    cut_out,
    draw_random_cut,
    draw_resized_cut,
    resize_pictures,
)
from slowfast_mvit.data.views.operations import Frames, Step
from slowfast_mvit.data.views.randaugment import RandAugment, parse_randaugment
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.randomness import Draws
from slowfast_mvit.structures import ViewPlan


@dataclass(frozen=True)
class ViewDraws:
    """All that is drawn for one training view.

    Attributes:
        steps: the operations of RandAugment.
        cut: the crop.
        flip: whether the view is mirrored.
        fill: the colour that RandAugment lets in from outside the picture: not drawn.
    """

    steps: tuple[Step, ...]
    cut: Cut
    flip: bool
    fill: tuple[int, int, int] = GREY


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
        method: how RandAugment, crop and flip are worked out, a row of ``METHODS``. What is drawn
            does not depend on it.
        colour_jitter: spread of brightness, contrast and saturation where there is no RandAugment;
            0 for none.
        resizing: "clip", or "image" (see ``crops.py``): this needs ``area_range``.
        fill: R, G and B, 0 to 255, that RandAugment lets in from outside the picture.

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
    _augment: RandAugment | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_ranges(self)
        if self.randaugment:
            object.__setattr__(self, "_augment", parse_randaugment(self.randaugment))

    def __call__(self, frames: Tensor, rng: Draws, out: Tensor | None = None) -> Tensor:
        """One view.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            rng: the stream of this view.
            out: (3, T, S, S) uint8, contiguous, to write the view to; made where None.

        Returns:
            (3, T, S, S) uint8 RGB, ``out`` where given.
        """
        draws = self.draw((frames.shape[1], frames.shape[2]), rng)
        if out is None:
            side = self.crop_px
            out = torch.empty((3, len(frames), side, side), dtype=torch.uint8)
        METHODS[self.method](frames.contiguous().numpy(), draws, self.interpolation, _by_frame(out))
        if self.colour_jitter and self._augment is None:
            ColourJitter(self.colour_jitter).draw(rng).apply_to(out)
        return out

    def draw(self, size: tuple[int, int], rng: Draws) -> ViewDraws:
        """Return what is done to frames of this height and width."""
        steps = self._augment.draw(rng) if self._augment else ()
        if self.area_range:
            cut = draw_resized_cut(size, self.area_range, self.aspect_range, rng, self.resizing)
        else:
            cut = draw_random_cut(size, self.crop_px, self.scales_px, self.inverse_scales, rng)
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
    cropped = np.ascontiguousarray(_cut_from_all(frames, draws, view.shape[1]))
    view[:] = exact.on_whole_frames(cropped, draws.steps, interpolation, draws.fill)


def _fused(frames: Frames, draws: ViewDraws, interpolation: str, view: Frames) -> None:
    """All that moves pixels in one bilinear sampling, then the rest on the view."""
    size, side, means = frames.shape[1:3], view.shape[1], fused.best_means()
    to_picture = draws.cut.to_picture(size, side, mirrored=draws.flip)
    if fused.has_geometry(draws.steps) or draws.cut.size != size:
        pixels = fused.sample(frames, draws.steps, to_picture, side, means)
    else:
        pixels = _cut_from_all(frames, draws, side)
    fused.finish(pixels, frames, draws.steps, to_picture, view, means)


METHODS: dict[str, Callable[[Frames, ViewDraws, str, Frames], None]] = {
    "exact": _exactly,
    "crop_first": _crop_first,
    "fused": _fused,
}


def _cut_from_all(frames: Frames, draws: ViewDraws, side: int) -> Frames:
    """The crop (T, S, S, 3), mirrored if drawn so."""
    size = frames.shape[1:3]
    cropped = cut_out(Window(frames, (0, 0, *size), size), draws.cut, side)
    return cropped[:, :, ::-1] if draws.flip else cropped


def _by_frame(out: Tensor) -> Frames:
    """A clip (3, T, S, S) seen as (T, S, S, 3)."""
    view: Frames = out.permute(1, 2, 3, 0).numpy()
    return view


def _check_choices(transform: TrainTransform) -> None:
    for key, value, table in (
        ("AUG.AA_METHOD", transform.method, list(METHODS)),
        ("AUG.INTERPOLATION", transform.interpolation, list(KERNELS)),
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


def scaled_planes(frames: Tensor, plan: ViewPlan) -> tuple[Tensor, list[tuple[int, int]]]:
    """The part of the scaled pictures that holds all crops.

    Three crops lie along the longer side: left, centre, right, or top, centre, bottom. A single one
    is the centre, for every data set (PySlowFast takes the left or top one for SSv2).

    Args:
        frames: (T, H, W, 3) uint8.
        plan: how large a picture is scaled, how large and how many its crops are.

    Returns:
        Planes (3, T, H', W') uint8, contiguous, and where in them each crop has its top and left.
    """
    clip = resize_pictures(frames, plan.scale_px, plan.resizing)
    height, width = clip.shape[-2:]
    boxes = crop_boxes(height, width, plan.crop_px, plan.num_crops, resizing=plan.resizing)
    (top, left), (bottom, right) = boxes[0], boxes[-1]  # corners of the first and the last
    part = clip[:, :, top : bottom + plan.crop_px, left : right + plan.crop_px]
    planes = torch.empty_like(part.transpose(0, 1), memory_format=torch.contiguous_format)
    write = fused.best_means().write  # torch takes 2 to 8 times as long to take pixels apart
    write(part.permute(0, 2, 3, 1).numpy(), planes.permute(1, 2, 3, 0).numpy())
    return planes, [(its_top - top, its_left - left) for its_top, its_left in boxes]


# On the device, on whole batches


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(..., 3, T, S, S) uint8 -> (N, 3, T, S, S) float32, N the product of the leading axes.

    Args:
        pixels: 0 to 255.
        mean: of R, G and B, on the scale from 0 to 1.
        std: standard deviation of R, G and B, on the same scale.
    """
    dtype = torch.get_default_dtype()
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), dtype, pixels.device)
    return torch.addcmul(shift, pixels.flatten(0, -5), scale)  # one pass, one new tensor


@functools.cache  # sending numbers to a GPU waits for all that it has been told to do
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return what to multiply bytes by and what to add then, (3, 1, 1, 1) each."""
    with torch.inference_mode(False):  # or training could not use what a test run has made
        scale = [1 / (255 * s) for s in std]
        shift = [-m / s for m, s in zip(mean, std, strict=True)]
        both = torch.tensor([scale, shift], dtype=dtype, device=device).view(2, 3, 1, 1, 1)
        return both[0], both[1]
