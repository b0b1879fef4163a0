"""Training videos: one random clip of each, in several augmented views."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from slowfast_mvit.data.decode import open_reader
from slowfast_mvit.data.items import ItemKey, VideoViews, failed
from slowfast_mvit.data.sampling import train_indices
from slowfast_mvit.errors import DecodeError, in_one_message
from slowfast_mvit.randomness import REPLACEMENT, TEMPORAL, Draws, generator, whole_number
from slowfast_mvit.structures import Clip, ClipSpec, FailedVideo, VideoRecord

MAX_REPLACEMENTS = 10  # videos tried in place of an unreadable one before training stops


class TrainVideos(Dataset[VideoViews]):
    """Training videos: one random clip of each, seen in ``num_views`` augmented views.

    Args:
        videos: the list.
        clip: which frames make a clip.
        transform: makes a view (3, T, S, S) uint8 of frames (T, H, W, 3) uint8 with the draws of a
            generator.
        num_views: V, augmented views of the same clip.
        seed: ``RNG_SEED``.
        backend: reader of video files, a row of ``decode.READERS``.
    """

    def __init__(
        self,
        videos: Sequence[VideoRecord],
        clip: ClipSpec,
        *,
        transform: Callable[[Tensor, Draws], Tensor],
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
    def views(self) -> Tensor:
        """(V, 2) int64: (0, number of the view)."""
        return torch.tensor([(0, view) for view in range(self.num_views)])

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: ItemKey) -> VideoViews:
        """The views of one video; if it cannot be read, of another one drawn for its place.

        Raises:
            DecodeError: when ten more cannot be read either; names the first ones.
        """
        failures: list[FailedVideo] = []
        draws = generator(self.seed, key.epoch, key.position, REPLACEMENT)
        index = key.index
        for _ in range(1 + MAX_REPLACEMENTS):
            record = self.videos[index]
            try:
                clip = self._read_clip(record, key)
            except DecodeError as error:
                failures.append(failed(record, error))
                index = whole_number(draws, 0, len(self.videos))
                continue
            views = [
                self.transform(clip.frames, generator(self.seed, key.epoch, key.position, view))
                for view in range(self.num_views)
            ]
            return VideoViews(record, torch.stack(views), tuple(failures))
        reasons = [failure.reason for failure in failures[:3]]
        raise DecodeError(
            in_one_message(f"{len(failures)} videos in a row cannot be read; the first", reasons)
        )

    def _read_clip(self, record: VideoRecord, key: ItemKey) -> Clip:
        draws = generator(self.seed, key.epoch, key.position, TEMPORAL)
        with open_reader(record.path, self.backend) as reader:
            indices = train_indices(self.clip, reader.num_frames, reader.fps, draws)
            return Clip(reader.frames(indices), torch.from_numpy(reader.times_s[indices]), record)
