"""The token grid that absolute positions were made for, where the weights or the file tell it.

Absolute positions are a list of tokens, and 1568 of them may be 8 frames of 14 x 14 or 32 of 7 x 7.
What tells more: the tables of relative positions, the config or the ``input_spec`` in a checkpoint,
and that an image has one frame.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from slowfast_mvit.models.tables import THW
from slowfast_mvit.weights.architecture import grid_of
from slowfast_mvit.weights.files import WeightsFile

KnownGrid = tuple[int | None, int | None, int | None]  # a token grid, None for an unknown axis


def known_grid(
    file: WeightsFile,
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    grid: THW,
    num_frames: int,
    from_image: bool,
) -> KnownGrid:
    """Return what is known of the grid that a file's weights were trained on.

    Args:
        file: what was read.
        state: its state dict, in our names.
        own: the model's.
        grid: the model's.
        num_frames: frames of the clips that the model is for.
        from_image: an image's weights for a video model.
    """
    # A first block that pools queries has tables of another length: the model's own give it away.
    readable = [mine in (None, known) for mine, known in zip(grid_of(own), grid, strict=True)]
    t, h, w = (
        tokens if trusted else None
        for tokens, trusted in zip(grid_of(state), readable, strict=True)
    )
    told = _frames_told(file)
    if t is None and told is not None:
        t = max(told * grid[0] // num_frames, 1)
    return (1 if from_image else t), h, w


def _frames_told(file: WeightsFile) -> int | None:
    """Frames of the clips that a checkpoint says it was trained on."""
    spec = file.extra.get("input_spec")
    if spec:
        return int(spec["num_frames"])
    found = re.search(r"\bNUM_FRAMES:\s*(\d+)", file.cfg_text or "")
    return int(found[1]) if found else None


def grid_of_joint(num_tokens: int, told: KnownGrid, grid: THW) -> THW | None:
    """The grid (T, H, W) of joint positions.

    Args:
        num_tokens: T * H * W.
        told: what is known.
        grid: the model's. Where T is not known, it is the model's if squares remain, else the
            model's H * W counts if a whole number of frames remains.

    Returns:
        None if no reading fits, or both differ from the model and neither is told.
    """
    t, h, w = told
    if h and w and num_tokens % (h * w) == 0:
        frames = num_tokens // (h * w)
        return (frames, h, w) if t in (None, frames) else None
    side = _side(num_tokens, grid[0] if t is None else t)
    if side is not None:
        return (grid[0] if t is None else t), side, side
    frames, rest = divmod(num_tokens, grid[1] * grid[2])
    return None if rest or t is not None else (frames, *grid[1:])


def plane_of(num_tokens: int, told: KnownGrid) -> tuple[int, int] | None:
    """(H, W) of positions in space: as it is told, else a square, else None."""
    _, h, w = told
    if h and w and h * w == num_tokens:
        return h, w
    side = _side(num_tokens, 1)
    return None if side is None else (side, side)


def _side(num_tokens: int, num_frames: int) -> int | None:
    """The side of the squares that so many frames make, or None if they make none."""
    per_frame, rest = divmod(num_tokens, num_frames)
    side = math.isqrt(per_frame)
    return side if rest == 0 and side * side == per_frame else None
