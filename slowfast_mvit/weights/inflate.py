"""Make weights of one size fit another: images to video, and other numbers of frames or pixels.

A convolution of an image model becomes one over time in one of three ways (``INFLATIONS``):

    center    the filter in the centre frame, zeros elsewhere (MViTv2, section 4.3). A clip made of
              one still image gives exactly what the image model gives on that image.
    mean      the filter in every frame, divided by their number: the same on a still clip away
              from its ends (PySlowFast's TRAIN.CHECKPOINT_INFLATE)
    repeat    the filter in every frame, undivided: responses grow with the number of frames
              (PySlowFast's TRAIN.CHECKPOINT_IN_INIT)

The other way round, a video model's convolution becomes an image's by summing over its frames: what
it does to a still clip away from its ends (as PySlowFast's CHECKPOINT_IN_INIT).

Position tables are resampled: those of relative positions along their rows, absolute positions on
their grid, as a model does for pixels of another size than it was trained on.

Letters used in shapes:

    O, I output and input channels of a convolution   C channels of a token   D head width
    R rows of a table   N = T * H * W tokens of a grid (frames, rows, columns)   P class token: 0, 1
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from slowfast_mvit.models.tables import THW, resample_table

Inflation = Callable[[Tensor, int], Tensor]


def center(kernel: Tensor, num_frames: int) -> Tensor:
    """(O, I, 1, H, W) -> (O, I, num_frames, H, W): in the centre frame, zeros elsewhere."""
    frames = [torch.zeros_like(kernel)] * num_frames
    frames[num_frames // 2] = kernel
    return torch.cat(frames, dim=2)


def mean(kernel: Tensor, num_frames: int) -> Tensor:
    """(O, I, 1, H, W) -> (O, I, num_frames, H, W): an equal share in every frame."""
    return repeat(kernel, num_frames) / num_frames


def repeat(kernel: Tensor, num_frames: int) -> Tensor:
    """(O, I, 1, H, W) -> (O, I, num_frames, H, W): whole in every frame."""
    return kernel.repeat(1, 1, num_frames, 1, 1)


INFLATIONS: dict[str, Inflation] = {
    "center": center,
    "mean": mean,
    "repeat": repeat,
}


def with_time(kernel: Tensor) -> Tensor:
    """A convolution's weight with a time axis: (O, I, H, W) -> (O, I, 1, H, W); 5-D stays."""
    return kernel.unsqueeze(2) if kernel.ndim == 4 else kernel


def fit_channels(kernel: Tensor, channels: int) -> Tensor:
    """A convolution's weight for RGB, (O, 3, ...) -> (O, channels, ...), as timm makes it.

    One channel gets the sum of the three. More get them in turn, scaled to keep the sum.
    """
    if kernel.shape[1] != 3 or channels == 3:
        return kernel
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    return kernel[:, [channel % 3 for channel in range(channels)]] * (3 / channels)


def fit_kernel(kernel: Tensor, shape: torch.Size, inflate: Inflation) -> Tensor | None:
    """Give a convolution's weight another length in time.

    Args:
        kernel: (O, I, H, W), or (O, I, T, H, W).
        shape: what the model wants, 4-D or 5-D.
        inflate: a value of ``INFLATIONS``; used only if one frame has to become several.

    Returns:
        The weight in that shape, summed over time where one frame is wanted; or None where more
        than the length in time differs, or several frames would have to become others.
    """
    kernel = with_time(kernel)
    wanted = shape if len(shape) == 5 else (*shape[:2], 1, *shape[2:])
    same_but_for_time = kernel.ndim == 5 and (*kernel.shape[:2], *kernel.shape[3:]) == (
        *wanted[:2],
        *wanted[3:],
    )
    if not same_but_for_time:
        return None
    if kernel.shape[2] == wanted[2]:
        return kernel.reshape(shape)
    if wanted[2] == 1:
        return kernel.sum(dim=2).reshape(shape)
    return inflate(kernel, wanted[2]) if kernel.shape[2] == 1 else None


def resize_table(table: Tensor, num_rows: int) -> Tensor:
    """A table of relative positions, (R, D) -> (num_rows, D), as the model itself would do it."""
    return resample_table(_exact_enough(table), num_rows).to(table.dtype)


def resample_temporal(positions: Tensor, num_frames: int) -> Tensor:
    """Positions in time, (1, T, C) -> (1, num_frames, C), linearly."""
    return resize_table(positions[0], num_frames).unsqueeze(0)


def resample_spatial(positions: Tensor, trained_hw: tuple[int, int], hw: tuple[int, int]) -> Tensor:
    """Positions in space, (1, H*W, C) of one grid -> (1, H'*W', C) of another, bicubic."""
    plane = _exact_enough(positions).transpose(1, 2).unflatten(2, trained_hw)  # (1, C, H, W)
    resampled = F.interpolate(plane, size=hw, mode="bicubic", align_corners=False)
    return resampled.flatten(2).transpose(1, 2).to(positions.dtype)  # (1, H'*W', C)


def resample_joint(positions: Tensor, trained_thw: THW, thw: THW) -> Tensor:
    """Positions over space and time together, (1, N, C) of one grid -> another, trilinear.

    Args:
        positions: without the class token's row.
        trained_thw: the grid (T, H, W) they were made for.
        thw: the grid wanted.
    """
    volume = _exact_enough(positions).transpose(1, 2).unflatten(2, trained_thw)
    resampled = F.interpolate(volume, size=thw, mode="trilinear", align_corners=False)
    return resampled.flatten(2).transpose(1, 2).to(positions.dtype)  # (1, N, C)


def _exact_enough(values: Tensor) -> Tensor:
    """Half precision is raised to float32 for the arithmetic; float32 and float64 stay."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
