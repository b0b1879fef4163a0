"""Data sets whose item is one video with all its views: a file is opened and decoded once.

An item is addressed by an ``ItemKey``, so that a worker knows where in the run it is and can draw
the random numbers of that place; it keeps no state of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from slowfast_mvit.data.decode import open_reader
from slowfast_mvit.data.sampling import eval_indices, train_indices
from slowfast_mvit.data.transforms import eval_views
from slowfast_mvit.errors import DecodeError, in_one_message
from slowfast_mvit.randomness import REPLACEMENT, TEMPORAL, Draws, generator, whole_number
from slowfast_mvit.structures import Clip, ClipSpec, FailedVideo, VideoRecord, ViewPlan

MAX_REPLACEMENTS = 10  # videos tried in place of an unreadable one before training stops


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


class EvalVideos(Dataset[VideoViews]):
    """Validation and test videos: all views of each, nothing random, no other in its place.

    Args:
        videos: the list.
        clip: which frames make a clip.
        plan: which views.
        backend: reader of video files, a row of ``decode.READERS``.
    """

    def __init__(
        self,
        videos: Sequence[VideoRecord],
        clip: ClipSpec,
        plan: ViewPlan,
        *,
        backend: str = "pyav",
    ) -> None:
        self.videos = videos
        self.clip = clip
        self.plan = plan
        self.backend = backend

    @property
    def views(self) -> Tensor:
        """(V, 2) int64: the (clip, crop) of each view, clips slowest."""
        return self.plan.views()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: ItemKey) -> VideoViews:
        """The views of one video, or its failure."""
        record = self.videos[key.index]
        try:
            clips = read_clips(record, self.clip, self.plan.num_clips, backend=self.backend)
        except DecodeError as error:
            return VideoViews(None, None, (failed(record, error),))
        return VideoViews(record, views_of_clips(clips, self.plan))


def read_clips(
    record: VideoRecord, clip: ClipSpec, num_clips: int, *, backend: str = "pyav"
) -> list[Clip]:
    """The test clips of a video, with one opening and one decoding for all of them.

    Raises:
        DecodeError: when the video cannot be read.
    """
    with open_reader(record.path, backend) as reader:
        clips = eval_indices(clip, reader.num_frames, reader.fps, num_clips)
        wanted = sorted(set().union(*clips))
        frames = reader.frames(wanted)
        times_s = torch.from_numpy(reader.times_s[wanted])
    row_of = {index: row for row, index in enumerate(wanted)}
    rows = [torch.tensor([row_of[index] for index in indices]) for indices in clips]
    return [Clip(frames[row], times_s[row], record) for row in rows]


def views_of_clips(clips: Sequence[Clip], plan: ViewPlan) -> Tensor:
    """(V, 3, T, S, S) uint8: every crop of every clip, clips slowest."""
    return torch.cat([eval_views(clip.frames, plan) for clip in clips])


def failed(record: VideoRecord, error: DecodeError) -> FailedVideo:
    """What is told of a video that cannot be read."""
    return FailedVideo(record.video_id, record.path, str(error))
