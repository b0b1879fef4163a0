"""pytorchvideo's clip samplers with our readers, and the items of its data sets as batches.

    time span of a clip sampler -> T frames spread over it                      read_sampled_clips
    a list + a clip sampler -> pytorchvideo's LabeledVideoDataset, which reads with our readers
                                                                            labeled_video_dataset
    items {"video": (3, T, S, S), "label": ...} of any of its data sets -> ClipBatch    clip_batch

pytorchvideo is imported only where it is needed; its transforms, which cannot be imported with
current torchvision, never are. Its random samplers draw from Python's ``random``, which the workers
of a ``torch.utils.data.DataLoader`` seed from torch's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.errors import ConfigError, DecodeError
from slowfast_mvit.structures import Clip, ClipBatch, VideoReader, VideoRecord

logger = logging.getLogger(__name__)

Item = Mapping[str, Any]

ANOTHER = "the next video replaces one that cannot be read: %s"
NO_CLIP: dict[str, Tensor | None] = {"video": None, "audio": None}  # pytorchvideo then continues
ROUNDING_S = 1e-6  # a frame shown at 1 s may have 0.9999999999 for its time


class ClipSampler(Protocol):
    """A clip sampler as ``pytorchvideo.data.make_clip_sampler`` makes it."""

    def __call__(
        self, last_clip_time: float, video_duration: float, annotation: dict[str, Any]
    ) -> Any:
        """A ``ClipInfo``: start and end in seconds, clip, augmentation, whether it is the last; or
        a ``ClipInfoList`` of several."""

    def reset(self) -> None:
        """Prepare for the next video."""


def read_sampled_clips(
    record: VideoRecord, sampler: ClipSampler, *, num_frames: int, backend: str = "pyav"
) -> list[Clip]:
    """Read the clips of a video that a sampler selects, with one opening and one decoding.

    Args:
        record: the video.
        sampler: called until it marks a clip as the last.
        num_frames: T, frames spread evenly over each clip, as pytorchvideo's
            ``UniformTemporalSubsample`` does.
        backend: reader of video files, a row of ``readers.READERS``.

    Raises:
        DecodeError: when the video cannot be read, or a clip is behind its end.
    """
    with open_reader(record.path, backend) as reader:
        spans = list(_sampled_spans(sampler, _duration_s(reader), {"label": record.label}))
        clips = [spread_frames(reader.times_s, *span, num_frames) for span in spans]
        if not all(clips):
            raise DecodeError("shows nothing at the times of a sampled clip", record.path)
        wanted = sorted(set().union(*clips))
        frames = reader.frames(wanted)
        times_s = torch.from_numpy(reader.times_s[wanted])
    rows = [np.searchsorted(wanted, indices) for indices in clips]
    return [Clip(frames[row], times_s[row], record) for row in rows]


def spread_frames(times_s: np.ndarray, start_s: float, end_s: float, num_frames: int) -> list[int]:
    """Return the indices of T frames spread evenly over those shown in [start_s, end_s).

    Returns:
        T frame numbers, repeated where there are fewer frames; none where there is no frame.
    """
    span_s = np.array([float(start_s), float(end_s)])
    first, behind = np.searchsorted(times_s, span_s - ROUNDING_S, side="left")
    if first == behind:
        return []
    steps = torch.linspace(0, behind - first - 1, num_frames).long()  # as pytorchvideo rounds
    return (int(first) + steps).tolist()


def labeled_video_dataset(
    videos: Sequence[VideoRecord],
    sampler: ClipSampler,
    *,
    num_frames: int,
    transform: Callable[[dict[str, Any]], Any] | None = None,
    video_sampler: type[torch.utils.data.Sampler] = torch.utils.data.RandomSampler,
    backend: str = "pyav",
) -> Any:
    """Return a ``pytorchvideo.data.LabeledVideoDataset`` of our list, read with our readers.

    Its items are pytorchvideo's: "video" (3, T, H, W), here uint8 from 0 to 255, "label",
    "video_name", "video_index", "clip_index", "aug_index". As in all its data sets, the next video
    replaces one that cannot be read; the log names it.

    Args:
        videos: the list.
        sampler: selects the clips of each video.
        num_frames: T, frames spread evenly over each clip.
        transform: item -> item.
        video_sampler: the class that determines the order of the videos.
        backend: reader of video files, a row of ``readers.READERS``.

    Raises:
        ConfigError: when pytorchvideo is not installed.
    """
    try:
        from pytorchvideo.data import LabeledVideoDataset
    except ImportError as error:
        raise ConfigError(
            f"pytorchvideo's data sets need the package ({error}): "
            'pip install "slowfast_mvit[pytorchvideo]"'
        ) from error
    dataset = LabeledVideoDataset(
        _LabeledPaths(videos), sampler, video_sampler, transform, decode_audio=False
    )
    dataset.video_path_handler = _Opener(num_frames, backend)
    return dataset


def clip_batch(items: Sequence[Item]) -> ClipBatch:
    """Collate items of a pytorchvideo data set to a batch: a ``collate_fn``.

    Args:
        items: each with a square "video" (3, T, S, S), uint8 or float from 0 to 255 (so before any
            normalisation), a "label", and a "video_name" or "video_index". Where the sampler is
            "random_multi", "video" is a list of V clips, which become the views of the video.

    Raises:
        ConfigError: when the pixels are not whole numbers from 0 to 255.
    """
    clips = [video if isinstance(video := item["video"], list) else [video] for item in items]
    pixels = torch.stack([torch.stack(list(map(_as_uint8, views))) for views in clips])
    return ClipBatch(
        pixels=pixels,  # (B, V, 3, T, S, S)
        labels=torch.tensor([int(item["label"]) for item in items]),
        video_ids=tuple(str(item.get("video_name", item.get("video_index"))) for item in items),
        views=torch.tensor([(clip, 0) for clip in range(pixels.shape[1])]),
    )


def _as_uint8(pixels: Tensor) -> Tensor:
    whole = pixels.to(torch.uint8)
    if not torch.equal(whole.to(pixels.dtype), pixels):
        raise ConfigError(
            'the "video" of an item must contain whole numbers from 0 to 255, got '
            f"{pixels.dtype} from {pixels.min():g} to {pixels.max():g}. Leave scaling and "
            "normalisation out of the transform: they are done on the device"
        )
    return whole


def _sampled_spans(
    sampler: ClipSampler, duration_s: float, annotation: dict[str, Any]
) -> Iterator[tuple[float, float]]:
    """Yield the start and end of each clip of a video, in seconds."""
    end_s = 0.0
    while True:
        starts, ends, _, _, last = sampler(end_s, duration_s, annotation)
        if isinstance(starts, list):
            yield from zip(starts, ends, strict=True)
            ends, last = ends[-1], last[-1]
        else:
            yield starts, ends
        if last:
            sampler.reset()
            return
        end_s = ends


def _duration_s(reader: VideoReader) -> float:
    """Return the duration, if the last frame is shown as long as the others."""
    last_s = float(reader.times_s[-1])
    return last_s + (last_s / (reader.num_frames - 1) if last_s > 0 else 1 / reader.fps)


class _LabeledPaths:
    """A list in pytorchvideo's form: (path, {"label": index}), made on access."""

    def __init__(self, videos: Sequence[VideoRecord]) -> None:
        self._videos = videos

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> tuple[VideoRecord, dict[str, int]]:
        return self._videos[index], {"label": self._videos[index].label}


@dataclass(frozen=True)
class _Opener:
    """Replaces pytorchvideo's ``VideoPathHandler``."""

    num_frames: int
    backend: str

    def video_from_path(self, record: VideoRecord, **how_pytorchvideo_reads: object) -> _Video:
        try:
            return _Video(record, self.num_frames, self.backend)
        except DecodeError as error:
            logger.warning(ANOTHER, error)
            raise


class _Video:
    """A ``Video`` of pytorchvideo: open until it is closed."""

    def __init__(self, record: VideoRecord, num_frames: int, backend: str) -> None:
        self.name = record.video_id
        self._num_frames = num_frames
        self._open = contextlib.ExitStack()
        self._reader = self._open.enter_context(open_reader(record.path, backend))
        self.duration = _duration_s(self._reader)

    def get_clip(self, start_sec: float, end_sec: float) -> dict[str, Tensor | None]:
        indices = spread_frames(self._reader.times_s, start_sec, end_sec, self._num_frames)
        if not indices:
            return NO_CLIP
        try:
            return {"video": self._reader.frames(indices).permute(3, 0, 1, 2), "audio": None}
        except DecodeError as error:
            logger.warning(ANOTHER, error)
            return NO_CLIP

    def close(self) -> None:
        self._open.close()
