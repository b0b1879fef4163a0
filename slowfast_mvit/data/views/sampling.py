"""Frame indices of a clip: plain arithmetic on frame numbers.

Two policies (``ClipSpec.policy``):

    interval   T frames, tau apart at ``target_fps``, from a start somewhere in the video. A file of
               another frame rate is stepped through so that the clip spans the same time.
    segments   the video is cut into T equal parts and each gives one frame (Something-Something).
               In a test with several clips each part gives its middle frame to every one of them,
               or frames spread over the part, another one to each (``ClipSpec.segment_clips``).

Interval clips are PySlowFast's: a clip of ``clip_size`` frames of the file runs from ``start`` to
``start + clip_size - 1``, and T frames are spread over it evenly and rounded down, so that 16 x 4
at 30 fps takes 0, 4, 8, 12, 16, 21, ... 63: a step of 63 / 15, not of 4. PySlowFast has two ways of
computing this, one for long and one for short files, that differ by a frame where ``start`` is
fractional; here it is always the first: whole frames from ``ceil(start)`` to ``floor(end)``.

A video that is shorter than the clip repeats its last frame.

All this counts frames as if each were shown equally long. Where they are not, ``at_even_rate``
returns the frames that are shown at the intended times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from slowfast_mvit.randomness import Draws, whole_number
from slowfast_mvit.structures import ClipSpec


def train_indices(spec: ClipSpec, num_frames: int, fps: float, rng: Draws) -> list[int]:
    """Draw the frame indices of a random training clip.

    Args:
        spec: of the clip.
        num_frames: frames of the file.
        fps: frames per second of the file.
        rng: draws, in this order, the growth of ``target_fps`` (where ``spec.jitter_fps`` is above
            0) and the start; or, by "segments", a frame of each part.

    Returns:
        T frame numbers, each from 0 to ``num_frames`` - 1.
    """
    if spec.policy == "segments":
        ranges = segment_ranges(num_frames, spec.num_frames)
        return [whole_number(rng, first, last + 1) for first, last in ranges]
    target_fps = spec.target_fps
    if spec.jitter_fps > 0:
        target_fps += float(rng.uniform(0.0, spec.jitter_fps))
    clip_size = interval_clip_size(spec, fps, target_fps)
    start = float(rng.uniform(0.0, max(num_frames - clip_size, 0.0)))
    return interval_indices(num_frames, clip_size, start, spec.num_frames)


def eval_indices(spec: ClipSpec, num_frames: int, fps: float, num_clips: int) -> list[list[int]]:
    """Return the frame indices of each of ``num_clips`` clips that are spread over the video.

    By "segments" with ``segment_clips`` "same" all clips are the same, as in PySlowFast.

    Returns:
        ``num_clips`` lists of T frame numbers, each from 0 to ``num_frames`` - 1.
    """
    if spec.policy == "segments":
        ranges = segment_ranges(num_frames, spec.num_frames)
        if spec.segment_clips == "same":
            return [segment_indices(ranges, 0, 1)] * num_clips
        return [segment_indices(ranges, clip, num_clips) for clip in range(num_clips)]
    clip_size = interval_clip_size(spec, fps, spec.target_fps)
    starts = interval_starts(num_frames, clip_size, num_clips, spec.offset_sampling)
    return [interval_indices(num_frames, clip_size, start, spec.num_frames) for start in starts]


def interval_clip_size(spec: ClipSpec, fps: float, target_fps: float) -> float:
    """Return the length of a clip in frames of a file with ``fps``; at least 1, any fraction."""
    return max(1.0, spec.num_frames * spec.sampling_rate / target_fps * fps)


def interval_starts(
    num_frames: float, clip_size: float, num_clips: int, offset_sampling: bool
) -> list[float]:
    """Return the starts of test clips, in frames of the file.

    Args:
        num_frames: length of the video.
        clip_size: length of a clip.
        num_clips: number of clips.
        offset_sampling: True to reach from the first frame to the last (one clip: the middle);
            False for equal steps from the first frame that stop one step before the end.
    """
    room = max(num_frames - clip_size, 0.0)
    if not offset_sampling:
        return [room * clip / num_clips for clip in range(num_clips)]
    if num_clips == 1:
        return [float(math.floor(room / 2))]
    step = math.floor(room / (num_clips - 1))
    return [float(clip * step) for clip in range(num_clips)]


def interval_indices(
    num_frames: int, clip_size: float, start: float, num_samples: int
) -> list[int]:
    """Return T frame indices spread evenly over a clip; see the top of this file."""
    first = math.ceil(start)
    last = max(min(math.floor(start + clip_size - 1), num_frames - 1), first)
    # float32, as PySlowFast computes it: float64 rounds 4.2 * 5 differently
    steps = torch.linspace(0, clip_size - 1, num_samples, dtype=torch.float32)
    return (first + steps.long()).clamp(max=min(last, num_frames - 1)).tolist()


def segment_ranges(num_frames: int, num_segments: int) -> list[tuple[int, int]]:
    """Return the first and the last frame of each part of a video; neighbours share a frame.

    Ends are rounded half to even, as numpy does.
    """
    edges = np.round((num_frames - 1) / num_segments * np.arange(num_segments + 1)).astype(int)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def segment_indices(ranges: Sequence[tuple[int, int]], clip: int, num_clips: int) -> list[int]:
    """Return one frame of each part: at (clip + 1/2) / num_clips of the way through it, floored.

    The only clip of one takes the middle frames.
    """
    return [first + (last - first) * (2 * clip + 1) // (2 * num_clips) for first, last in ranges]


def at_even_rate(indices: Sequence[int], times_s: np.ndarray) -> list[int]:
    """Return the frames shown at the times that ``indices`` would have at a constant rate.

    A frame counts as shown from half a mean step before its time, which is how ffmpeg fills an even
    rate (``-fps_mode cfr``). So where the rate does not vary, or only by the rounding of a
    container's clock, these are ``indices`` themselves.

    Args:
        indices: frame numbers, each from 0 to N - 1.
        times_s: (N,) when each frame is shown, rising.
    """
    last = len(times_s) - 1
    step_s = (times_s[-1] - times_s[0]) / max(last, 1)
    if step_s <= 0:
        return list(indices)
    moments_s = times_s[0] + (np.asarray(indices) + 0.5) * step_s
    shown = np.searchsorted(times_s, moments_s, side="right") - 1
    return [int(index) for index in shown.clip(0, last)]
