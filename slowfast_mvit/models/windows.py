"""Windows: attention within rectangles of a token grid, each over all frames.

    (B, T*H*W, ...)  -- cut_windows -->  (B*V, T*h*w, ...)  -- join_windows -->  (B, T*H*W, ...)

V is the number of windows of h x w tokens that cover H x W; those at the right and at the bottom
are filled with zeros. Windows are a larger batch, so every form of attention applies. Each of the
two functions is the gradient of the other.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from slowfast_mvit.models.tables import THW

Window = tuple[int, int]  # rows and columns, in tokens


def cut_windows(tokens: Tensor, thw: THW, window: Window | None) -> Tensor:
    """Cut tokens (B, T*H*W, N, D) of the grid into (B*V, T*h*w, N, D); unchanged for None."""
    if window is None:
        return tokens
    (rows, columns), (h, w) = num_windows(thw, window), window
    grid: Tensor = tokens.unflatten(1, thw)  # (B, T, H, W, N, D)
    missing_h, missing_w = rows * h - thw[1], columns * w - thw[2]
    if missing_h or missing_w:
        grid = F.pad(grid, (0, 0, 0, 0, 0, missing_w, 0, missing_h))
    # (B, T, rows, h, columns, w, N, D)
    cut: Tensor = grid.unflatten(3, (columns, w)).unflatten(2, (rows, h))
    return cut.permute(0, 2, 4, 1, 3, 5, 6, 7).flatten(0, 2).flatten(1, 3)


def join_windows(windows: Tensor, thw: THW, window: Window | None) -> Tensor:
    """Put windows (B*V, T*h*w, N, D) together to tokens (B, T*H*W, N, D) of the grid."""
    if window is None:
        return windows
    t, height, width = thw
    rows, columns = num_windows(thw, window)
    batch = windows.shape[0] // (rows * columns)
    # (B, rows, columns, T, h, w, N, D)
    cut: Tensor = windows.unflatten(1, (t, *window)).unflatten(0, (batch, rows, columns))
    grid = cut.permute(0, 3, 1, 4, 2, 5, 6, 7).flatten(4, 5).flatten(2, 3)
    return grid[:, :, :height, :width].flatten(1, 3)


def num_windows(thw: THW, window: Window) -> tuple[int, int]:
    """Rows and columns of the windows that cover a grid."""
    return -(-thw[1] // window[0]), -(-thw[2] // window[1])


def grid_in_window(thw: THW, window: Window | None) -> THW:
    """The grid of one window; the whole grid for None."""
    return thw if window is None else (thw[0], *window)
