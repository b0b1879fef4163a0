"""Items: one video with all its views, addressed by where in the run it is met.

A file is opened and decoded once for all its views. A worker that gets an ``ItemKey`` knows its
place in the run and can draw the random numbers of that place; it keeps no state of its own.

A batch is one tensor that is made once; every view is written into its slice of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from slowfast_mvit.errors import DecodeError
from slowfast_mvit.structures import ClipBatch, FailedVideo, VideoRecord


@dataclass(frozen=True)
class ItemKey:
    """The key of an item: ``index`` in the list, at ``position`` in ``epoch``."""

    epoch: int
    position: int
    index: int


# Told of each video before it is opened; may refuse it with a DecodeError.
Begin = Callable[[ItemKey], None]


@dataclass(frozen=True)
class VideoViews:
    """One item.

    Attributes:
        record: the video, or None where it could not be read.
        pixels: (V, 3, T, S, S) uint8, or None. In testing (U, 3, T, S, S): those that differ.
        failures: videos that could not be read on the way.
        places: (V,) int64, where in ``pixels`` each view is; None where view v is at place v.
    """

    record: VideoRecord | None
    pixels: Tensor | None
    failures: tuple[FailedVideo, ...] = ()
    places: Tensor | None = None


class VideoItems(Protocol):
    """The items of batches: ``TrainVideos`` or ``EvalVideos``.

    Attributes:
        videos: the list.
    """

    videos: Sequence[VideoRecord]

    @property
    def views(self) -> Tensor:
        """(V, 2) int64, the (clip, crop) of each view; in training (0, number of the view)."""

    @property
    def view_shape(self) -> tuple[int, int, int, int]:
        """(3, T, S, S)."""

    def read(
        self, key: ItemKey, out: Tensor | None = None, begin: Begin | None = None
    ) -> VideoViews:
        """The views of one video, written into ``out`` (V, 3, T, S, S) uint8 where given."""


def read_batch(
    dataset: VideoItems,
    keys: Sequence[ItemKey],
    out: Tensor | None = None,
    begin: Begin | None = None,
) -> ClipBatch:
    """All views of the videos of a batch, without those that could not be read.

    Args:
        dataset: of the videos.
        keys: of the items.
        out: ``batch_shape`` uint8, where the views are written; a new one if None.
        begin: told of each video before it is opened.
    """
    pixels = torch.empty(batch_shape(dataset, keys), dtype=torch.uint8) if out is None else out
    records = list[VideoRecord]()
    failures = list[FailedVideo]()
    places = list[Tensor]()
    for key in keys:
        item = dataset.read(key, pixels[len(records)], begin)
        failures += item.failures
        if item.record is not None:
            records.append(item.record)
            places += [] if item.places is None else [item.places]
    return ClipBatch(
        pixels=filled(pixels, len(records), places),
        labels=torch.tensor([record.label for record in records], dtype=torch.int64),
        video_ids=tuple(record.video_id for record in records),
        views=dataset.views,
        failures=tuple(failures),
        places=torch.stack(places) if places else None,
    )


def filled(pixels: Tensor, num_videos: int, places: Sequence[Tensor]) -> Tensor:
    """The part of (B, V, 3, T, S, S) that was written: so many videos, so many places of each.

    Places that a video leaves empty are made black, so that equal videos are equal batches.
    """
    used = [int(its_places.max()) + 1 for its_places in places]
    num_places = max(used, default=pixels.shape[1])
    for its_pixels, its_used in zip(pixels, used, strict=False):
        its_pixels[its_used:num_places] = 0
    return pixels[:num_videos, :num_places]


def batch_shape(dataset: VideoItems, keys: Sequence[ItemKey]) -> tuple[int, ...]:
    """(B, V, 3, T, S, S)."""
    return (len(keys), len(dataset.views), *dataset.view_shape)


def failed(record: VideoRecord, error: DecodeError) -> FailedVideo:
    """Return the record of a video that cannot be read."""
    return FailedVideo(record.video_id, record.path, error.reason, error.path or "")
