"""Items: one video with all its views, addressed by where in the run it is met.

A file is opened and decoded once for all its views. A worker that gets an ``ItemKey`` knows its
place in the run and can draw the random numbers of that place; it keeps no state of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from slowfast_mvit.errors import DecodeError
from slowfast_mvit.structures import FailedVideo, VideoRecord


@dataclass(frozen=True)
class ItemKey:
    """Which item: ``index`` in the list, met at ``position`` in ``epoch``."""

    epoch: int
    position: int
    index: int


@dataclass(frozen=True)
class VideoViews:
    """One item.

    Attributes:
        record: the video, or None where it could not be read.
        pixels: (V, 3, T, S, S) uint8, or None.
        failures: videos that could not be read on the way.
    """

    record: VideoRecord | None
    pixels: Tensor | None
    failures: tuple[FailedVideo, ...] = ()


def failed(record: VideoRecord, error: DecodeError) -> FailedVideo:
    """What is told of a video that cannot be read."""
    return FailedVideo(record.video_id, record.path, str(error))
