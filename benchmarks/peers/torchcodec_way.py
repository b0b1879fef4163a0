"""torchcodec and torchvision's transforms as their documentation shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchcodec.decoders import VideoDecoder
from torchvision.transforms import InterpolationMode, v2

MEAN = [0.45, 0.45, 0.45]
STD = [0.225, 0.225, 0.225]


def read_frames(path: Path, indices: Sequence[int]) -> Tensor:
    """The frames at ``indices``: (len(indices), 3, H, W) uint8; exact seeking, one thread."""
    return VideoDecoder(str(path)).get_frames_at(indices=list(indices)).data


def train_transform(side: int) -> v2.Transform:
    """torchvision's own order, crop first; strength 7 of 10 is bin 21 of 31; bilinear,
    since tensors know no bicubic here."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(side, scale=(0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandAugment(
                num_ops=4, magnitude=21, interpolation=InterpolationMode.BILINEAR, fill=[128] * 3
            ),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
            v2.RandomErasing(p=0.25),
        ]
    )


def test_transform(short_px: int, side: int) -> v2.Transform:
    """One centre crop."""
    return v2.Compose(
        [
            v2.Resize(short_px, antialias=True),
            v2.CenterCrop(side),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def make_views(
    path: Path,
    clips: Sequence[Sequence[int]],
    transform: v2.Transform,
    num_views: int,
    *,
    seed: int,
) -> list[Tensor]:
    """``num_views`` views of each clip, each (T, 3, S, S) float32; one decoder for all."""
    frames = read_frames(path, [index for clip in clips for index in clip])
    with torch.random.fork_rng(devices=[]):  # the transforms draw from the global generator
        torch.manual_seed(seed)
        return [transform(clip) for clip in frames.split(len(clips[0])) for _ in range(num_views)]
