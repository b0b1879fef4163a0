"""Absolute position embeddings of MViTv1, added once before the first block.

All kinds are resampled when the token grid is not the one they were made for.

Letters used in shapes: P prefix tokens (0 or 1); T, H, W the token grid; C width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from slowfast_mvit.models.layers import with_prefix
from slowfast_mvit.models.tables import THW, resample_table


def separate_positions(
    spatial: Tensor, temporal: Tensor, class_token: Tensor | None, *, trained_thw: THW, thw: THW
) -> Tensor:
    """The sum of an embedding for the place and one for the time of each token.

    Args:
        spatial: (1, H*W, C) of the trained grid; resampled bicubically.
        temporal: (1, T, C) of the trained grid; resampled linearly.
        class_token: (1, 1, C), or None without a class token.
        trained_thw: the grid the embeddings were made for.
        thw: the grid wanted.

    Returns:
        (1, P + T*H*W, C).
    """
    spatial = plane_positions(spatial, trained_thw[1:], thw)
    temporal = resample_table(temporal[0], thw[0])
    patches = (temporal[None, :, None] + spatial[:, None]).flatten(1, 2)
    return patches if class_token is None else with_prefix(class_token, patches)


def joint_positions(
    embedding: Tensor, *, num_prefix_tokens: int, trained_thw: THW, thw: THW
) -> Tensor:
    """One embedding for each token, (1, P + T*H*W, C); resampled trilinearly to another grid."""
    if trained_thw == thw:
        return embedding
    p = num_prefix_tokens
    volume = embedding[:, p:].transpose(1, 2).unflatten(2, trained_thw)  # (1, C, T, H, W)
    volume = F.interpolate(volume, size=thw, mode="trilinear")
    return with_prefix(embedding[:, :p], volume.flatten(2).transpose(1, 2))


def plane_positions(embedding: Tensor, grid: tuple[int, int], thw: THW) -> Tensor:
    """An embedding of an image, (1, H*W, C), resampled bicubically to another grid.

    Args:
        embedding: (1, rows, C); the last rows are the places of ``grid``, the others are not used.
        grid: the one the embedding was made for.
        thw: the grid wanted, of one frame.
    """
    places = embedding[:, -grid[0] * grid[1] :]
    if grid == thw[1:]:
        return places
    plane = F.interpolate(places.transpose(1, 2).unflatten(2, grid), size=thw[1:], mode="bicubic")
    return plane.flatten(2).transpose(1, 2)


def new_embedding(length: int, dim: int) -> torch.nn.Parameter:
    """An embedding (1, length, dim) with its first values: normal, standard deviation 0.02."""
    return torch.nn.Parameter(torch.nn.init.trunc_normal_(torch.empty(1, length, dim), std=0.02))
