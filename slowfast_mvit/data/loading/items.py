"""Items: one video with all its views, addressed by its place in the run.

A file is opened and decoded once for all its views. A worker that receives an ``ItemKey`` knows its
place in the run and can draw the random numbers of that place; it has no state of its own.

A batch is one tensor that is allocated once; every view is written into its slice of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.data.views.eval_views import scaled_planes
from slowfast_mvit.data.views.sampling import at_even_rate, eval_indices, train_indices
from slowfast_mvit.errors import DecodeError, in_one_message
from slowfast_mvit.randomness import REPLACEMENT, TEMPORAL, Draws, generator, whole_number
from slowfast_mvit.structures import Clip, ClipBatch, ClipSpec, FailedVideo, VideoRecord, ViewPlan

# Videos tried in place of an unreadable one before training stops. As many as PySlowFast tries: a
# list of which most videos fail is a matter of ``DATA.MAX_FAILED_FRACTION``.
MAX_REPLACEMENTS = 100
NUM_SHOWN = 3  # of their failures


@dataclass(frozen=True)
class ItemKey:
    """The key of an item: ``index`` in the list, at ``position`` in ``epoch``."""

    epoch: int
    position: int
    index: int


# Called with each video before it is opened; may refuse it with a DecodeError.
Begin = Callable[[ItemKey], None]


@dataclass(frozen=True)
class VideoViews:
    """One item.

    Attributes:
        record: the video, or None where it could not be read.
        pixels: (V, 3, T, S, S) uint8, or None. In testing (U, 3, T, S, S): those that differ.
        failures: videos that could not be read on the way.
        places: (V,) int64, the place of each view in ``pixels``; None where view v is at place v.
    """

    record: VideoRecord | None
    pixels: Tensor | None
    failures: tuple[FailedVideo, ...] = ()
    places: Tensor | None = None


class VideoItems(Protocol):
    """The items of batches: ``TrainVideos`` or ``EvalVideos``.

    Attributes:
        videos: the list.
        view_shape: (3, T, S, S).
    """

    videos: Sequence[VideoRecord]
    view_shape: tuple[int, int, int, int]

    @property
    def views(self) -> Tensor:
        """(V, 2) int64, the (clip, crop) of each view; in training (0, number of the view)."""

    def read(
        self, key: ItemKey, out: Tensor | None = None, begin: Begin | None = None
    ) -> VideoViews:
        """Read the views of a video, into ``out`` (V, 3, T, S, S) uint8 unless it is None."""


def read_batch(
    dataset: VideoItems,
    keys: Sequence[ItemKey],
    out: Tensor | None = None,
    begin: Begin | None = None,
) -> ClipBatch:
    """Read all views of the videos of a batch, without those that could not be read.

    Args:
        dataset: of the videos.
        keys: of the items.
        out: ``batch_shape`` uint8, to which the views are written; a new one if None.
        begin: called with each video before it is opened.
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
    """Return the part of (B, V, 3, T, S, S) that was written: the used places of these videos.

    Places that a video leaves empty are made black, so that equal videos make equal batches.
    """
    used = [int(video_places.max()) + 1 for video_places in places]
    num_places = max(used, default=pixels.shape[1])
    for video_pixels, num_used in zip(pixels, used, strict=False):
        video_pixels[num_used:num_places] = 0
    return pixels[:num_videos, :num_places]


def batch_shape(dataset: VideoItems, keys: Sequence[ItemKey]) -> tuple[int, ...]:
    """Return (B, V, 3, T, S, S)."""
    return (len(keys), len(dataset.views), *dataset.view_shape)


def failed(record: VideoRecord, error: DecodeError) -> FailedVideo:
    """Return the record of a video that cannot be read."""
    return FailedVideo(record.video_id, record.path, error.reason, error.path or "")


# Training


class MakeView(Protocol):
    """Makes an augmented view of a clip, such as ``train_views.TrainTransform``."""

    @property
    def crop_px(self) -> int:
        """S."""

    def __call__(self, frames: Tensor, rng: Draws, out: Tensor | None = None) -> Tensor:
        """Make a view (3, T, S, S) uint8 of (T, H, W, 3) uint8, in ``out`` unless it is None."""


@dataclass(eq=False)
class TrainVideos(Dataset[VideoViews]):
    """Training videos: one random clip of each, seen in ``num_views`` augmented views.

    Args:
        videos: the list.
        clip: which frames make a clip.
        transform: makes the views.
        num_views: V, augmented views of the same clip.
        seed: ``RNG_SEED``.
        backend: reader of video files, a row of ``readers.READERS``.
    """

    videos: Sequence[VideoRecord]
    clip: ClipSpec
    _: KW_ONLY
    transform: MakeView
    num_views: int = 1
    seed: int = 0
    backend: str = "pyav"

    def __post_init__(self) -> None:
        side = self.transform.crop_px
        self.view_shape = (3, self.clip.num_frames, side, side)

    @property
    def views(self) -> Tensor:
        """Return (V, 2) int64: (0, number of the view)."""
        return torch.tensor([(0, view) for view in range(self.num_views)])

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: ItemKey) -> VideoViews:
        """Read the views of a video, or of one drawn to replace it if it cannot be read."""
        return self.read(key)

    def __getitems__(self, keys: Sequence[ItemKey]) -> ClipBatch:
        """Read a batch, as ``torch.utils.data.DataLoader`` asks; its ``collate_fn`` has no work."""
        return read_batch(self, keys)

    def read(
        self, key: ItemKey, out: Tensor | None = None, begin: Begin | None = None
    ) -> VideoViews:
        """Read the views of a video, or of one drawn to replace it if it cannot be read.

        Args:
            key: the video, and its place in the run.
            out: (V, 3, T, S, S) uint8, to which the views are written; a new one if None.
            begin: called with each video before it is opened; may refuse it.

        Raises:
            DecodeError: when a hundred more cannot be read either; names the first ones, and
                contains all of them.
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
        different = {item.video_id: item for item in failures}
        headline = (
            f"no video could be read in {len(failures)} attempts in a row, with {len(different)} "
            "different videos. Check the list, DATA.PATH_TO_DATA_DIR and DATA.PATH_PREFIX"
        )
        messages = map(str, different.values())
        problem = DecodeError(in_one_message(headline, messages, limit=NUM_SHOWN))
        problem.failures = tuple(failures)
        raise problem

    def _read_clip(self, record: VideoRecord, key: ItemKey) -> Clip:
        draws = generator(self.seed, key.epoch, key.position, TEMPORAL)
        with open_reader(record.path, self.backend) as reader:
            indices = train_indices(self.clip, reader.num_frames, reader.fps, draws)
            indices = at_even_rate(indices, reader.times_s)
            return Clip(reader.frames(indices), torch.from_numpy(reader.times_s[indices]), record)


# Validation and tests


class EvalVideos(Dataset[VideoViews]):
    """Validation and test videos: all views of each, nothing random, no replacements.

    With several plans a video is read once for all of them, and pixels of equal views are stored
    once: a clip of a test with 3 clips may be one of a test with 5 as well, the clips of a video
    that is shorter than a clip are all the same, and so are the three crops of a square frame.

    Args:
        videos: the list.
        clip: which frames make a clip.
        plans: the views: those of each plan in turn. Their crops are those of the first plan.
        backend: reader of video files, a row of ``readers.READERS``.
    """

    def __init__(
        self, videos: Sequence[VideoRecord], clip: ClipSpec, *plans: ViewPlan, backend: str = "pyav"
    ) -> None:
        self.videos = videos
        self.clip = clip
        self.view_shape = (3, clip.num_frames, plans[0].crop_px, plans[0].crop_px)
        self.plans = plans
        self.backend = backend

    @property
    def views(self) -> Tensor:
        """Return (V, 2) int64: the (clip, crop) of each view, plan by plan, clips slowest."""
        return torch.cat([plan.views() for plan in self.plans])

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: ItemKey) -> VideoViews:
        """Read the views of a video, or return its failure."""
        return self.read(key)

    def read(
        self, key: ItemKey, out: Tensor | None = None, begin: Begin | None = None
    ) -> VideoViews:
        """Read the views of a video, or return its failure; see ``VideoItems``."""
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
    """Read all views of a video, with one opening and one decoding; those of equal pixels once.

    Args:
        record: the video.
        clip: which frames make a clip.
        plans: V views, those of each plan in turn. Their crops are those of the first plan.
        out: (V, 3, T, S, S) uint8, to write to; unused places are unchanged.
        backend: reader of video files, a row of ``readers.READERS``.

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
    """Read the frames of a video for tests with each of these numbers of clips, every frame once.

    Returns:
        The frames (N, H, W, 3) uint8, and the T rows of each clip of each test in turn.
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
