"""Training videos: one random clip of each, in several augmented views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from slowfast_mvit.data.loading.items import (
    Begin,
    ItemKey,
    VideoViews,
    batch_shape,
    failed,
    read_batch,
)
from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.data.views.sampling import at_even_rate, train_indices
from slowfast_mvit.errors import DecodeError, in_one_message
from slowfast_mvit.randomness import REPLACEMENT, TEMPORAL, Draws, generator, whole_number
from slowfast_mvit.structures import Clip, ClipBatch, ClipSpec, FailedVideo, VideoRecord

# Videos tried in place of an unreadable one before training stops. As many as PySlowFast tries: a
# list of which most videos fail is a matter of ``DATA.MAX_FAILED_FRACTION``.
MAX_REPLACEMENTS = 100


class MakeView(Protocol):
    """Makes an augmented view of a clip, such as ``transforms.TrainTransform``."""

    @property
    def crop_px(self) -> int:
        """S."""

    def __call__(self, frames: Tensor, rng: Draws, out: Tensor | None = None) -> Tensor:
        """(T, H, W, 3) uint8 -> (3, T, S, S) uint8, with the draws of a generator.

        The view is written into ``out``, which is returned, where that is given.
        """


class TrainVideos(Dataset[VideoViews]):
    """Training videos: one random clip of each, seen in ``num_views`` augmented views.

    Args:
        videos: the list.
        clip: which frames make a clip.
        transform: makes the views.
        num_views: V, augmented views of the same clip.
        seed: ``RNG_SEED``.
        backend: reader of video files, a row of ``decode.READERS``.
    """

    def __init__(
        self,
        videos: Sequence[VideoRecord],
        clip: ClipSpec,
        *,
        transform: MakeView,
        num_views: int = 1,
        seed: int = 0,
        backend: str = "pyav",
    ) -> None:
        self.videos = videos
        self.clip = clip
        self.transform = transform
        self.num_views = num_views
        self.seed = seed
        self.backend = backend

    @property
    def view_shape(self) -> tuple[int, int, int, int]:
        """(3, T, S, S)."""
        side = self.transform.crop_px
        return (3, self.clip.num_frames, side, side)

    @property
    def views(self) -> Tensor:
        """(V, 2) int64: (0, number of the view)."""
        return torch.tensor([(0, view) for view in range(self.num_views)])

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: ItemKey) -> VideoViews:
        """The views of one video; if it cannot be read, of another one drawn for its place."""
        return self.read(key)

    def __getitems__(self, keys: Sequence[ItemKey]) -> ClipBatch:
        """A batch; what ``torch.utils.data.DataLoader`` calls, whose ``collate_fn`` has no work."""
        return read_batch(self, keys)

    def read(
        self, key: ItemKey, out: Tensor | None = None, begin: Begin | None = None
    ) -> VideoViews:
        """The views of one video; if it cannot be read, of another one drawn for its place.

        Args:
            key: which video, and its place in the run.
            out: (V, 3, T, S, S) uint8, where the views are written; a new one if None.
            begin: told of each video before it is opened; may refuse it.

        Raises:
            DecodeError: when a hundred more cannot be read either; names the first ones, and holds
                all of them.
        """
        failures: list[FailedVideo] = []
        draws = generator(self.seed, key.epoch, key.position, REPLACEMENT)
        index = key.index
        for _ in range(1 + MAX_REPLACEMENTS):
            record = self.videos[index]
            try:
                if begin is not None:
                    begin(replace(key, index=index))
                clip = self._read_clip(record, key)
            except DecodeError as error:
                failures.append(failed(record, error))
                index = whole_number(draws, 0, len(self.videos))
                continue
            if out is None:
                out = torch.empty(batch_shape(self, [key])[1:], dtype=torch.uint8)
            for view in range(self.num_views):
                rng = generator(self.seed, key.epoch, key.position, view)
                self.transform(clip.frames, rng, out[view])
            return VideoViews(record, out, tuple(failures))
        reasons = [failure.message for failure in failures[:3]]
        count = f"{len(failures)} videos in a row cannot be read"
        check = "Check the list, DATA.PATH_TO_DATA_DIR and DATA.PATH_PREFIX"
        hopeless = DecodeError(in_one_message(f"{count}. {check}. The first", reasons))
        hopeless.failures = tuple(failures)
        raise hopeless

    def _read_clip(self, record: VideoRecord, key: ItemKey) -> Clip:
        draws = generator(self.seed, key.epoch, key.position, TEMPORAL)
        with open_reader(record.path, self.backend) as reader:
            meant = train_indices(self.clip, reader.num_frames, reader.fps, draws)
            indices = at_even_rate(meant, reader.times_s)
            return Clip(reader.frames(indices), torch.from_numpy(reader.times_s[indices]), record)
