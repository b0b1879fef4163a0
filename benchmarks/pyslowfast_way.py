"""PySlowFast's method for a training item and for a test view, on a current stack.

Written from its documented behaviour, not from its code, with its decoder's fault (a sum of a list
and a number) repaired, without which it reads nothing:

    read    seek to before the window of T x tau frames, decode it, turn every frame of it into RGB,
            each with a converter of its own; then take T of them
    train   for each view: float, PIL images, RandAugment on whole frames, tensors, normalisation of
            whole frames, random resized crop, flip, random erasing
    test    for each view: read again, normalisation of whole frames, resize, crop

The draws are those of ours, so that both augment alike, except the erased box, which ours draws on
the device.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP
from torch import Tensor
from torchvision.transforms import RandomErasing
from torchvision.transforms.functional import to_pil_image, to_tensor

from slowfast_mvit.data.views.eval_views import crop_boxes
from slowfast_mvit.data.views.pixels import short_side_at
from slowfast_mvit.data.views.randaugment import Step
from slowfast_mvit.data.views.train_views import TrainTransform
from slowfast_mvit.randomness import Draws

MEAN = torch.tensor([0.45, 0.45, 0.45])
STD = torch.tensor([0.225, 0.225, 0.225])
SEEK_MARGIN = 1024  # in the stream's time base

WITHOUT_ARGUMENT = ("AutoContrast", "Equalize", "Invert")
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


@functools.cache
def recipe_transform(side_px: int, method: str = "exact") -> TrainTransform:
    """Return the augmentation of the MViTv2 recipe, by a method of ``transforms.METHODS``."""
    return TrainTransform(
        crop_px=side_px,
        scales_px=(256, 320),
        area_range=(0.08, 1.0),
        aspect_range=(0.75, 1.3333),
        randaugment="rand-m7-n4-mstd0.5-inc1",
        method=method,
    )


def read_clip(path: Path, indices: Sequence[int]) -> Tensor:
    """Read the frames of a clip: (T, H, W, 3) uint8.

    Args:
        path: a video file with a known duration.
        indices: frame numbers, rising; all frames from the first to the last are read.
    """
    frames = torch.as_tensor(np.stack(read_window(path, indices[0], indices[-1])))
    places = torch.tensor(indices) - indices[0]
    return torch.index_select(frames, 0, places.clamp(0, len(frames) - 1))


def read_window(path: Path, first: int, last: int) -> list[np.ndarray]:
    """Read every frame from ``first`` to ``last``, each (H, W, 3) uint8."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.duration is None or not stream.frames:
            raise ValueError(f"{path}: PySlowFast needs a duration and a number of frames")
        ticks = stream.duration / stream.frames
        first_pts, last_pts = int(first * ticks), int(last * ticks)
        container.seek(
            max(first_pts - SEEK_MARGIN, 0), any_frame=False, backward=True, stream=stream
        )
        frames = {}
        for frame in container.decode(video=0):
            if frame.pts > last_pts:
                break
            if frame.pts >= first_pts:
                frames[frame.pts] = frame
        return [frames[pts].to_rgb().to_ndarray() for pts in sorted(frames)]


def train_view(
    frames: Tensor,
    side: int,
    rng: Draws,
    *,
    resample: Image.Resampling = BICUBIC,
    erase_prob: float = 0.25,
) -> Tensor:
    """Return one augmented view: (T, H, W, 3) uint8 -> (3, T, S, S) float32, normalised.

    Args:
        frames: of the clip.
        side: S.
        rng: the stream of this view.
        resample: of RandAugment's geometric operations; the recipes say bicubic.
        erase_prob: share of the views with an erased box.
    """
    draws = recipe_transform(side).draw((frames.shape[1], frames.shape[2]), rng)
    floats = frames.clone().float() / 255.0
    images = [to_pil_image(image) for image in floats.permute(0, 3, 1, 2)]
    for step in draws.steps:
        images = apply_with_pil(images, step, resample)
    clip = torch.stack([to_tensor(image) for image in images])  # (T, 3, H, W)
    clip = normalise(clip.permute(0, 2, 3, 1)).permute(3, 0, 1, 2)  # (3, T, H, W)
    top, left, height, width = draws.cut.box
    clip = _resize(clip[:, :, top : top + height, left : left + width], (side, side))
    if draws.flip:
        clip = clip.flip(-1)
    erase = RandomErasing(erase_prob, (0.02, 1 / 3), (0.3, 1 / 0.3), value="random", inplace=True)
    return erase(clip.flatten(0, 1)).view_as(clip)  # type: ignore[no-any-return]


def apply_with_pil(
    images: Sequence[Image.Image], step: Step, resample: Image.Resampling = BICUBIC
) -> list[Image.Image]:
    """Apply an operation of RandAugment to all images by timm's PIL operations."""
    words = () if step.name in WITHOUT_ARGUMENT else (step.argument,)
    style = {"fillcolor": (128, 128, 128), "resample": resample}
    return [NAME_TO_OP[step.name](image, *words, **style) for image in images]


def test_view(path: Path, indices: Sequence[int], *, short_px: int, side: int) -> Tensor:
    """Return the central view of a test clip, read separately: (3, T, S, S) float32, normalised.

    Args:
        path: a video file.
        indices: frame numbers of the clip.
        short_px: shorter side before the crop.
        side: S.
    """
    clip = normalise(read_clip(path, indices)).permute(3, 0, 1, 2)
    size = short_side_at((clip.shape[2], clip.shape[3]), short_px)
    if clip.shape[2:] != size:
        clip = _resize(clip, size)
    [(top, left)] = crop_boxes(*size, side, 1)
    return clip[:, :, top : top + side, left : left + side]


def normalise(frames: Tensor) -> Tensor:
    """(..., 3) uint8, or float32 from 0 to 1 -> float32, normalised."""
    if frames.dtype == torch.uint8:
        frames = frames.float() / 255.0
    return (frames - MEAN) / STD


def _resize(clip: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(clip, size=size, mode="bilinear", align_corners=False)
