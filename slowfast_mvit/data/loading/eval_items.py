"""Validation and test videos: all views of each, from one opening and one decoding of its file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from slowfast_mvit.data.loading.items import Begin, ItemKey, VideoViews, failed
from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.data.views.sampling import at_even_rate, eval_indices
from slowfast_mvit.data.views.transforms import scaled_planes
from slowfast_mvit.errors import DecodeError
from slowfast_mvit.structures import ClipSpec, VideoRecord, ViewPlan


class EvalVideos(Dataset[VideoViews]):
    """Validation and test videos: all views of each, nothing random, no other in its place.

    With several plans a video is read once for all of them, and what several views show is there
    once: a clip of a test with 3 clips may be one of a test with 5 as well, the clips of a video
    that is shorter than a clip are all the same, and so are the three crops of a square picture.

    Args:
        videos: the list.
        clip: which frames make a clip.
        plans: which views: those of each plan in turn. Their crops are those of the first plan.
        backend: reader of video files, a row of ``decode.READERS``.
    """

    def __init__(
        self,
        videos: Sequence[VideoRecord],
        clip: ClipSpec,
        *plans: ViewPlan,
        backend: str = "pyav",
    ) -> None:
        self.videos = videos
        self.clip = clip
        self.plans = plans
        self.backend = backend

    @property
    def view_shape(self) -> tuple[int, int, int, int]:
        """(3, T, S, S)."""
        side = self.plans[0].crop_px
        return (3, self.clip.num_frames, side, side)

    @property
    def views(self) -> Tensor:
        """(V, 2) int64: the (clip, crop) of each view, plan by plan, clips slowest."""
        return torch.cat([plan.views() for plan in self.plans])

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
                begin(key)
            pixels, places = read_views(
                record, self.clip, *self.plans, out=out, backend=self.backend
            )
        except DecodeError as error:
            return VideoViews(None, None, (failed(record, error),))
        return VideoViews(record, pixels, places=places)


def read_views(
    record: VideoRecord,
    clip: ClipSpec,
    *plans: ViewPlan,
    out: Tensor | None = None,
    backend: str = "pyav",
) -> tuple[Tensor, Tensor]:
    """All views of a video, from one opening and one decoding; those of equal pixels once.

    Args:
        record: the video.
        clip: which frames make a clip.
        plans: V views, those of each plan in turn. Their crops are those of the first plan.
        out: (V, 3, T, S, S) uint8, to write into; what is not needed is left as it was.
        backend: reader of video files, a row of ``decode.READERS``.

    Returns:
        The U <= V views that differ, (U, 3, T, S, S) uint8, and the place of each view among them,
        (V,) int64.

    Raises:
        DecodeError: when the video cannot be read.
    """
    frames, clips = _read_frames(record, clip, [plan.num_clips for plan in plans], backend)
    planes, corners = scaled_planes(frames, plans[0])  # (3, N, H, W): each frame is resized once
    views = list(itertools.product(clips, corners))
    place_of = {view: place for place, view in enumerate(dict.fromkeys(views))}
    side = plans[0].crop_px
    if out is None:
        out = torch.empty((len(place_of), 3, clip.num_frames, side, side), dtype=torch.uint8)
    for (rows, (top, left)), place in place_of.items():
        crops = planes[..., top : top + side, left : left + side]
        torch.stack([crops[:, row] for row in rows], dim=1, out=out[place])
    return out[: len(place_of)], torch.tensor([place_of[view] for view in views])


def _read_frames(
    record: VideoRecord, clip: ClipSpec, counts: Sequence[int], backend: str
) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Return what tests with each of these numbers of clips need of a video, every frame once.

    Returns:
        The frames (N, H, W, 3) uint8, and of each clip of each test in turn the T rows in which its
        frames are.
    """
    with open_reader(record.path, backend) as reader:
        clips = [
            at_even_rate(indices, reader.times_s)
            for count in counts
            for indices in eval_indices(clip, reader.num_frames, reader.fps, count)
        ]
        wanted = sorted(set().union(*clips))
        frames = reader.frames(wanted)
    row_of = {index: row for row, index in enumerate(wanted)}
    return frames, [tuple(row_of[index] for index in indices) for indices in clips]
