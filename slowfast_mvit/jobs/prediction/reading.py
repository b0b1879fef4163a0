"""The views of a video for prediction: a few clips of it, or windows over all of it.

A window is read as a video of its own would be: its clips are those of a file that was cut there.
Windows overlap, but each frame is decoded and resized once, and kept until no window needs it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from slowfast_mvit.data.video.readers import open_reader, stream_frames
from slowfast_mvit.data.views.eval_views import scaled_planes
from slowfast_mvit.data.views.sampling import at_even_rate, eval_indices
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.structures import ClipSpec, VideoReader, VideoRecord, ViewPlan

NUM_CLIPS = 5
SEGMENTS_WINDOW_S = 4.0  # as long as a video of Something-Something
MUCH_LONGER = 20  # a video of so many times the length of its clips has a timeline


@dataclass(frozen=True)
class Reading:
    """Plain settings of the views of a video.

    Attributes:
        clip: the frames of a clip.
        plan: the views of a verdict; its crops are those of windows, too.
        is_timeline: windows (True), clips (False), or windows of long videos only (None).
        window_s: length of a window in seconds.
        stride_s: seconds from a window to the next.
    """

    clip: ClipSpec
    plan: ViewPlan
    is_timeline: bool | None
    window_s: float
    stride_s: float

    @property
    def clip_s(self) -> float:
        """Seconds that a clip spans; the length of a video for which segments are meant."""
        return _clip_s(self.clip)


def _clip_s(clip: ClipSpec) -> float:
    if clip.policy == "segments":
        return SEGMENTS_WINDOW_S
    return clip.num_frames * clip.sampling_rate / clip.target_fps


def reading_of(
    spec: Mapping[str, Any],
    *,
    num_clips: int = NUM_CLIPS,
    num_crops: int = 1,
    is_timeline: bool | None = False,
    window_s: float | None = None,
    stride_s: float | None = None,
) -> Reading:
    """Return the settings for a model with this ``input_spec``.

    Args:
        spec: ``model.input_spec``.
        num_clips: clips spread over a video, for a verdict.
        num_crops: 1 (centre) or 3 crops of each clip.
        is_timeline: see ``Reading``.
        window_s: by default the length of a clip.
        stride_s: by default half of the window.

    Raises:
        ConfigError: a number is impossible.
    """
    if num_clips < 1 or num_crops not in (1, 3):
        raise ConfigError(
            f"the number of clips must be at least 1 and that of crops 1 or 3, "
            f"got {num_clips} and {num_crops}"
        )
    clip = ClipSpec(
        num_frames=spec["num_frames"],
        sampling_rate=spec["sampling_rate"],
        target_fps=spec["target_fps"],
        policy=spec["policy"],
        segment_clips=spec.get("segment_clips", "same"),  # older checkpoints lack it
        offset_sampling=True,
    )
    plan = ViewPlan(
        num_clips,
        num_crops,
        scale_px=spec["scale_px"],
        crop_px=spec["crop_px"],
        resizing=spec.get("resizing", "clip"),
    )
    window_s = _clip_s(clip) if window_s is None else window_s
    stride_s = window_s / 2 if stride_s is None else stride_s
    for name, value in (("window", window_s), ("stride", stride_s)):
        if not 0 < value < math.inf:
            raise ConfigError(f"the {name} must be a number of seconds above 0, got {value}")
    if stride_s > window_s:
        raise ConfigError(
            f"the stride ({stride_s:g} s) is longer than the window ({window_s:g} s), so parts of "
            "a video would not be seen. Shorten the stride"
        )
    return Reading(clip, plan, is_timeline, window_s, stride_s)


@dataclass(frozen=True)
class Looked:
    """The part of a video that is read.

    Attributes:
        duration_s: length of the video.
        num_units: spans that are scored apart: 1 for a verdict, or the number of windows.
        is_timeline: whether they are windows.
        text: a description, such as "5 clips of 0.7 s, 5 % of 64.0 s".
    """

    duration_s: float
    num_units: int
    is_timeline: bool
    text: str


class Unit(NamedTuple):
    """Views of a span of a video that are scored together.

    Attributes:
        looked: the part of the video that is read.
        start_s: start of the span in the video.
        end_s: its end.
        pixels: (U, 3, T, S, S) uint8, the views that differ.
        places: (V,) int64, the place of each view among them.
    """

    looked: Looked
    start_s: float
    end_s: float
    pixels: Tensor
    places: Tensor


def read_units(record: VideoRecord, reading: Reading) -> Iterator[Unit]:
    """Read a video: one unit for a verdict, or a unit for each window.

    Raises:
        DecodeError: it cannot be read.
    """
    with open_reader(record.path) as reader:
        duration_s = reader.num_frames / _rate(reader)
        is_timeline = reading.is_timeline
        if is_timeline is None:
            is_timeline = duration_s > MUCH_LONGER * reading.plan.num_clips * reading.clip_s
        if is_timeline:
            looked, starts_s, window_s, rows = _windows(reader, reading, duration_s)
        else:
            looked = Looked(duration_s, 1, False, _clips_as_text(reader, reading, duration_s))
            starts_s, window_s = np.zeros(1), duration_s
            rows = _rows(reader, reading, starts_s, duration_s, reading.plan.num_clips)
        wanted = np.unique(rows).tolist()
        frames = zip(wanted, stream_frames(reader, wanted), strict=True)
        held: dict[int, Tensor] = {}  # the planes (3, H, W) of each frame
        corners: list[tuple[int, int]] = []
        for start_s, clips in zip(starts_s.tolist(), rows, strict=True):
            first, last = int(clips.min()), int(clips.max())
            held = {index: planes for index, planes in held.items() if index >= first}
            while last not in held:
                index, frame = next(frames)
                planes, corners = scaled_planes(frame[None], reading.plan)
                held[index] = planes[:, 0]
            views = _cut(held, clips, corners, reading.plan.crop_px)
            yield Unit(looked, start_s, start_s + window_s, *views)


def _rate(reader: VideoReader) -> float:
    """Return the frames per second on average, by the times of the frames."""
    span_s = float(reader.times_s[-1])
    return (reader.num_frames - 1) / span_s if span_s > 0 else reader.fps


def _clips_as_text(reader: VideoReader, reading: Reading, duration_s: float) -> str:
    num_clips, clip = reading.plan.num_clips, reading.clip
    if reader.num_frames == 1:
        return "1 frame"
    if clip.policy == "segments":
        return f"{clip.num_frames} frames spread over {duration_s:.1f} s"
    clip_s = min(reading.clip_s, duration_s)
    share = min(num_clips * clip_s / duration_s, 1)
    clips = "clip" if num_clips == 1 else "clips"
    return f"{num_clips} {clips} of {clip_s:.1f} s, {100 * share:.0f} % of {duration_s:.1f} s"


# Windows


def spans_of(duration_s: float, window_s: float, stride_s: float, frame_s: float) -> np.ndarray:
    """Return the starts of the windows, (N,); the last window ends with the video.

    A remainder shorter than a frame gets no window of its own.
    """
    room_s = max(duration_s - window_s, 0.0)
    starts = stride_s * np.arange(int(room_s / stride_s + 1e-6) + 1)
    if room_s - starts[-1] > frame_s:
        starts = np.append(starts, room_s)
    return starts


def _windows(
    reader: VideoReader, reading: Reading, duration_s: float
) -> tuple[Looked, np.ndarray, float, np.ndarray]:
    """Return the description of the windows, their starts (N,), their length and their frames."""
    frame_s = duration_s / reader.num_frames
    window_s, stride_s = min(reading.window_s, duration_s), max(reading.stride_s, frame_s)
    starts_s = spans_of(duration_s, window_s, stride_s, frame_s)
    is_interval = reading.clip.policy == "interval"
    num_clips = max(1, round(reading.window_s / reading.clip_s)) if is_interval else 1
    rows = _rows(reader, reading, starts_s, window_s, num_clips)
    text = f"{len(rows):,} windows of {window_s:.1f} s, one every {stride_s:.1f} s"
    looked = Looked(duration_s, len(rows), True, f"{text}, of {duration_s:.1f} s")
    return looked, starts_s, window_s, rows


def _rows(
    reader: VideoReader, reading: Reading, starts_s: np.ndarray, window_s: float, num_clips: int
) -> np.ndarray:
    """Return (N, clips, T), the frames of the clips of each window."""
    rate = _rate(reader)
    firsts = np.rint(starts_s * rate).astype(np.int64)
    num_frames = min(max(round(window_s * rate), 1), reader.num_frames)
    within = np.array(eval_indices(reading.clip, num_frames, reader.fps, num_clips))
    indices = np.minimum(firsts[:, None, None] + within, reader.num_frames - 1)
    shown = at_even_rate(indices.ravel(), reader.times_s)
    rows: np.ndarray = np.array(shown, dtype=np.int32).reshape(indices.shape)
    return rows


def _cut(
    held: Mapping[int, Tensor], clips: np.ndarray, corners: Sequence[tuple[int, int]], side: int
) -> tuple[Tensor, Tensor]:
    """Return the views that differ, (U, 3, T, S, S) uint8, and the place of each view (V,)."""
    views = list(itertools.product(map(tuple, clips.tolist()), corners))
    place_of = {view: place for place, view in enumerate(dict.fromkeys(views))}
    pixels = [
        torch.stack([held[index][:, top : top + side, left : left + side] for index in clip], dim=1)
        for clip, (top, left) in place_of
    ]
    return torch.stack(pixels), torch.tensor([place_of[view] for view in views])
