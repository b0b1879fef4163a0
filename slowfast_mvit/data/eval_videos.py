"""Validation and test videos: all views of each, from one opening and one decoding of its file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from slowfast_mvit.data.decode import open_reader
from slowfast_mvit.data.items import Begin, ItemKey, VideoViews, failed
from slowfast_mvit.data.sampling import eval_indices
from slowfast_mvit.data.transforms import eval_views
from slowfast_mvit.errors import DecodeError
from slowfast_mvit.structures import Clip, ClipSpec, VideoRecord, ViewPlan


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
    def view_shape(self) -> tuple[int, int, int, int]:
        """(3, T, S, S)."""
        side = self.plan.crop_px
        return (3, self.clip.num_frames, side, side)

    @property
    def views(self) -> Tensor:
        """(V, 2) int64: the (clip, crop) of each view, clips slowest."""
        return self.plan.views()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: ItemKey) -> VideoViews:
        """The views of one video, or its failure."""
        return self.read(key)

    def read(
        self, key: ItemKey, out: Tensor | None = None, begin: Begin | None = None
    ) -> VideoViews:
        """The views of one video, or its failure; see ``items.VideoItems``."""
        record = self.videos[key.index]
        try:
            if begin is not None:
                begin(key.index)
            clips = read_clips(record, self.clip, self.plan.num_clips, backend=self.backend)
        except DecodeError as error:
            return VideoViews(None, None, (failed(record, error),))
        return VideoViews(record, views_of_clips(clips, self.plan, out))


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


def views_of_clips(clips: Sequence[Clip], plan: ViewPlan, out: Tensor | None = None) -> Tensor:
    """(V, 3, T, S, S) uint8: every crop of every clip, clips slowest; in ``out`` where given."""
    views = [view for clip in clips for view in eval_views(clip.frames, plan)]
    return torch.stack(views, out=out)
