"""The records that the modules of the package exchange. Frozen, with checks in the constructor.

Letters used in shapes, here and in the rest of the project:
    N videos   B videos in a batch   V views of a video (clips x crops)   K classes
    T frames   H, W height and width in pixels   S side of the square crop

    list line -> VideoRecord -> Clip -> views -> ClipBatch -> logits -> ViewScores -> VideoScores
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from slowfast_mvit.errors import MissingViewsError

SAMPLING_POLICIES = ("interval", "segments")
SEGMENT_CLIPS = ("same", "shifted")
RESIZINGS = ("clip", "image", "whole image")


class VideoReader(Protocol):
    """One opened video: an MP4, a folder of JPEGs or a single image (then ``num_frames`` is 1).

    Attributes:
        num_frames: frames that are shown.
        fps: frames per second on average.
        times_s: (num_frames,) float64, when each frame is shown, in seconds from the first.
    """

    num_frames: int
    fps: float
    times_s: np.ndarray

    def frames(self, indices: Sequence[int]) -> Tensor:
        """The frames at these indices, repeats allowed, as uint8 RGB (len(indices), H, W, 3)."""


@dataclass(frozen=True)
class VideoRecord:
    """One line of a list.

    Attributes:
        video_id: the video as the list names it; unique in its list.
        path: where the file (or frame folder, or image) is.
        label: class index, 0 or more.
    """

    video_id: str
    path: str
    label: int


@dataclass(frozen=True)
class FailedVideo:
    """A video that could not be read; a line of ``failed_videos.csv``.

    Attributes:
        video_id: the video as its list names it.
        path: of the video.
        reason: without a path.
        file: the file that could not be read, usually ``path``; empty where it is not one file.
    """

    video_id: str
    path: str
    reason: str
    file: str = ""

    @property
    def message(self) -> str:
        """The file that could not be read, and the reason."""
        return f"{self.file}: {self.reason}" if self.file else self.reason

    def __str__(self) -> str:
        return self.message if self.file == self.path else f"{self.path}: {self.message}"


@dataclass(frozen=True)
class ClipSpec:
    """The frames of a clip.

    Attributes:
        num_frames: T.
        sampling_rate: tau, the step between frames counted at ``target_fps``; not read by the
            "segments" policy, which spreads T frames over the whole video.
        target_fps: frames per second in which tau is counted.
        policy: "interval" (Kinetics) or "segments" (Something-Something v2).
        jitter_fps: in training ``target_fps`` grows by a uniform draw from 0 to this.
        offset_sampling: test clips reach both ends of the video (see ``data/views/sampling.py``).
        segment_clips: the test clips of the "segments" policy: "same" frames in each, as in
            PySlowFast, or "shifted", with other frames of each part.
    """

    num_frames: int
    sampling_rate: int
    target_fps: float = 30.0
    policy: str = "interval"
    jitter_fps: float = 0.0
    offset_sampling: bool = False
    segment_clips: str = "same"

    def __post_init__(self) -> None:
        _require(self.num_frames >= 1, f"num_frames must be at least 1, got {self.num_frames}")
        _require(
            self.sampling_rate >= 1, f"sampling_rate must be at least 1, got {self.sampling_rate}"
        )
        _require(self.target_fps > 0, f"target_fps must be above 0, got {self.target_fps}")
        _require(
            self.policy in SAMPLING_POLICIES,
            f"policy must be one of {SAMPLING_POLICIES}, got {self.policy!r}",
        )
        _require(
            self.segment_clips in SEGMENT_CLIPS,
            f"segment_clips must be one of {SEGMENT_CLIPS}, got {self.segment_clips!r}",
        )

    def __str__(self) -> str:
        if self.policy == "segments":
            return f"{self.num_frames} frames spread over the whole video"
        return f"{self.num_frames} x {self.sampling_rate} at {self.target_fps:g} fps"


@dataclass(frozen=True)
class ViewPlan:
    """The views of a video in a test, such as "5 clips x 1 crop".

    Attributes:
        num_clips: clips, spread over the video.
        num_crops: 1 (centre) or 3 (along the longer side).
        scale_px: length of the short side before cropping, in pixels.
        crop_px: S, side of the square crop, in pixels.
        resizing: kind of resizing (see ``data/views/geometry.py``): "clip" as PySlowFast's videos,
            "image" as ImageNet's images, "whole image" likewise, but squeezed to a square, so that
            nothing is cropped.
    """

    num_clips: int
    num_crops: int
    scale_px: int
    crop_px: int
    resizing: str = "clip"

    def __post_init__(self) -> None:
        _require(self.num_clips >= 1, f"num_clips must be at least 1, got {self.num_clips}")
        _require(self.num_crops in (1, 3), f"num_crops must be 1 or 3, got {self.num_crops}")
        _require(
            1 <= self.crop_px <= self.scale_px,
            f"crop_px must be from 1 to scale_px ({self.scale_px}), got {self.crop_px}",
        )
        _require(
            self.resizing in RESIZINGS,
            f"resizing must be one of {RESIZINGS}, got {self.resizing!r}",
        )

    @property
    def num_views(self) -> int:
        return self.num_clips * self.num_crops

    def views(self) -> Tensor:
        """(V, 2) int64: the (clip, crop) of each view, clips slowest."""
        return torch.cartesian_prod(
            torch.arange(self.num_clips), torch.arange(self.num_crops)
        ).view(-1, 2)

    def __str__(self) -> str:
        return views_as_text(self.num_clips, self.num_crops)


def views_as_text(num_clips: int, num_crops: int) -> str:
    """Return the views of a video as "5 clips x 1 crop"."""
    clips = "clip" if num_clips == 1 else "clips"
    crops = "crop" if num_crops == 1 else "crops"
    return f"{num_clips} {clips} x {num_crops} {crops}"


@dataclass(frozen=True, repr=False)
class Clip:
    """T frames of a video.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        times_s: (T,) float64, when each frame is shown, in seconds from the first frame.
        record: the video.
    """

    frames: Tensor
    times_s: Tensor
    record: VideoRecord

    def __post_init__(self) -> None:
        _require_tensor("frames", self.frames, torch.uint8, ("T", "H", "W", 3))
        _require_tensor("times_s", self.times_s, torch.float64, (len(self.frames),))

    def __repr__(self) -> str:
        return _shapes(self)


@dataclass(frozen=True, repr=False)
class ClipBatch:
    """A batch of the loader: all views of B videos.

    Attributes:
        pixels: (B, V, 3, T, S, S) uint8 RGB. In testing views that show the same pixels share a
            place, so there are U <= V places, of which a video may leave the last ones empty.
        labels: (B,) int64.
        video_ids: B names, as their list has them.
        views: (V, 2) int64, the (clip, crop) of each view; in training (0, number of the view).
        failures: videos of this batch that could not be read. In training another video replaces
            each; in testing it is not among the B.
        places: (B, V) int64, where in ``pixels`` each view is; None where view v is at place v.
    """

    pixels: Tensor
    labels: Tensor
    video_ids: tuple[str, ...]
    views: Tensor
    failures: tuple[FailedVideo, ...] = ()
    places: Tensor | None = None

    def __post_init__(self) -> None:
        num_videos = len(self.video_ids)
        _require_tensor("pixels", self.pixels, torch.uint8, (num_videos, "V", 3, "T", "S", "S"))
        _require_tensor("labels", self.labels, torch.int64, (num_videos,))
        if self.places is None:
            _require_tensor("views", self.views, torch.int64, (self.pixels.shape[1], 2))
        else:
            _require_tensor("views", self.views, torch.int64, ("V", 2))
            _require_tensor("places", self.places, torch.int64, (num_videos, len(self.views)))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """The same batch with its tensors on ``device``."""
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> ClipBatch:
        """The same batch in page-locked memory; ``torch.utils.data.DataLoader`` calls this."""
        return replace(self, pixels=self.pixels.pin_memory(), labels=self.labels.pin_memory())

    def __repr__(self) -> str:
        return _shapes(self)


@dataclass(frozen=True, repr=False)
class ViewScores:
    """The probabilities of some views of one video.

    Attributes:
        video_id: the video as its list names it.
        label: its class index.
        views: (V, 2) int64, the (clip, crop) of each row of ``probs``.
        probs: (V, K) float32, each row sums to 1.
    """

    video_id: str
    label: int
    views: np.ndarray
    probs: np.ndarray

    def __post_init__(self) -> None:
        _require(
            self.probs.ndim == 2 and self.views.shape == (len(self.probs), 2),
            f"{self.video_id}: views {self.views.shape} do not belong to probs {self.probs.shape}",
        )

    def __repr__(self) -> str:
        return _shapes(self)


@dataclass(frozen=True, repr=False)
class VideoScores:
    """Every view of every video, and the video's own probabilities.

    Attributes:
        video_ids: N names, each once, in the order of the list.
        labels: (N,) int64.
        views: (V, 2) int64, the (clip, crop) of each view.
        view_probs: (N, V, K) float16.
        probs: (N, K) float32, each row sums to 1.
    """

    video_ids: tuple[str, ...]
    labels: np.ndarray
    views: np.ndarray
    view_probs: np.ndarray
    probs: np.ndarray

    def __post_init__(self) -> None:
        num_videos, num_views = len(self.video_ids), len(self.views)
        if len(set(self.video_ids)) != num_videos:
            raise MissingViewsError("a video is scored twice; each may appear once")
        num_classes = self.probs.shape[-1]
        for name, array, shape in (
            ("labels", self.labels, (num_videos,)),
            ("view_probs", self.view_probs, (num_videos, num_views, num_classes)),
            ("probs", self.probs, (num_videos, num_classes)),
        ):
            _require(array.shape == shape, f"{name} must have shape {shape}, got {array.shape}")

    def __repr__(self) -> str:
        return _shapes(self)


@dataclass(frozen=True)
class EvalResult:
    """The outcome of a test; all rates in percent.

    Attributes:
        metrics: each of ``evaluation.metrics.METRICS``, by name.
        num_videos: videos that were scored.
        failed: videos that could not be read, not counted in the rates.
        num_listed: videos in the list; ``num_videos + failed``, or this raises.
        num_views: views of each video.
        per_class: top-1 of each class that has videos, by class name.
        config_digest: digest of the keys that decide the numbers.
        failed_videos: the videos that could not be read.
    """

    metrics: dict[str, float]
    num_videos: int
    failed: int
    num_listed: int
    num_views: int
    per_class: dict[str, float]
    config_digest: str
    failed_videos: tuple[FailedVideo, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.num_videos + self.failed != self.num_listed:
            raise MissingViewsError(
                f"{self.num_videos} videos scored and {self.failed} failed, "
                f"but the list has {self.num_listed}"
            )

    @property
    def top1(self) -> float:
        """Videos whose best class is right."""
        return self.metrics["top1"]

    @property
    def top5(self) -> float:
        """Videos whose right class is among the best five, or among all of fewer classes."""
        return self.metrics["top5"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_tensor(
    name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int | str, ...]
) -> None:
    """Check the type and shape of a tensor; equal letters must have equal lengths."""
    lengths: dict[str, int] = {}
    fits = tensor.ndim == len(shape) and all(
        (lengths.setdefault(want, got) if isinstance(want, str) else want) == got
        for want, got in zip(shape, tensor.shape, strict=False)
    )
    _require(
        fits and tensor.dtype == dtype,
        f"{name} must be {dtype} of shape {shape}, "
        f"got {tensor.dtype} of shape {tuple(tensor.shape)}",
    )


def _shapes(record: Any) -> str:
    """Return a record with the shapes of its tensors in place of their values."""
    parts = []
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, (Tensor, np.ndarray)):
            value = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        elif isinstance(value, tuple) and len(value) > 2:
            value = f"<{len(value)} of them>"
        parts.append(f"{item.name}={value}")
    return f"{type(record).__name__}({', '.join(parts)})"
