"""Timelines: the probabilities of windows over a video, smoothed and merged into segments."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

STRIP_WIDTH = 64
_LETTERS = string.ascii_uppercase + string.ascii_lowercase


@dataclass(frozen=True)
class Segment:
    """A part of a video with one class.

    Attributes:
        start_s: in seconds from the first frame.
        end_s: the start of the next segment, or the end of the video.
        label: index of the class.
        name: of the class.
        prob: its mean probability there, 0 to 1.
    """

    start_s: float
    end_s: float
    label: int
    name: str
    prob: float


@dataclass(frozen=True)
class Timeline:
    """The classes of a video over time.

    Attributes:
        segments: from the start of the video to its end, without gaps.
        duration_s: of the video.
        edges_s: (N + 1,) the bounds of N cells, one for each window.
        probs: (N, K) smoothed probabilities of each cell.
    """

    segments: tuple[Segment, ...]
    duration_s: float
    edges_s: np.ndarray = field(repr=False)
    probs: np.ndarray = field(repr=False)

    def cell_at(self, time_s: float) -> int:
        """Return the number of the cell at a time."""
        cell = int(np.searchsorted(self.edges_s, time_s, side="right")) - 1
        return min(max(cell, 0), len(self.probs) - 1)

    def strip(self, width: int = STRIP_WIDTH) -> str:
        """Return a line of letters, one for each class in the order of their first segments."""
        letter_of = letters_of(segment.label for segment in self.segments)
        times_s = (np.arange(width) + 0.5) * self.duration_s / width
        ends_s = [segment.end_s for segment in self.segments[:-1]]
        places = np.searchsorted(ends_s, times_s, side="right").tolist()
        return "".join(letter_of[self.segments[place].label] for place in places)


def letters_of(labels: Iterable[int]) -> dict[int, str]:
    """Return a letter for each class, in the order of their first segments; # after the 52nd."""
    order = enumerate(dict.fromkeys(labels))
    return {label: _LETTERS[n] if n < len(_LETTERS) else "#" for n, label in order}


def timeline_of(
    probs: np.ndarray,
    spans_s: Sequence[tuple[float, float]],
    duration_s: float,
    names: Sequence[str],
) -> Timeline:
    """Return the timeline of a video from the probabilities of its windows.

    Args:
        probs: (N, K), of each window.
        spans_s: start and end of each window, rising.
        duration_s: of the video.
        names: K names of classes.
    """
    centres_s = np.mean(spans_s, axis=1)
    edges_s = np.concatenate([[0.0], (centres_s[1:] + centres_s[:-1]) / 2, [duration_s]])
    smooth = smoothed(probs, centres_s, spans_s[0][1] - spans_s[0][0])
    best = smooth.argmax(axis=1)
    starts = np.flatnonzero(np.diff(best, prepend=-1)).tolist()
    segments = tuple(
        Segment(
            float(edges_s[start]),
            float(edges_s[end]),
            int(best[start]),
            names[best[start]],
            _mean_prob(smooth[start:end, best[start]], np.diff(edges_s[start : end + 1])),
        )
        for start, end in zip(starts, [*starts[1:], len(best)], strict=True)
    )
    return Timeline(segments, duration_s, edges_s, smooth)


def _mean_prob(probs: np.ndarray, lengths_s: np.ndarray) -> float:
    weights = lengths_s if lengths_s.sum() > 0 else np.ones_like(lengths_s)
    return float(np.average(probs, weights=weights))


def smoothed(probs: np.ndarray, centres_s: np.ndarray, window_s: float) -> np.ndarray:
    """Return (N, K): each window averaged with those that overlap it, by the share of overlap.

    This is a triangular kernel, which does not move a change from one class to another.
    """
    total = probs.astype(np.float32)
    weight = np.ones((len(probs), 1), dtype=np.float32)
    for step in range(1, len(probs)):
        shares = 1 - (centres_s[step:] - centres_s[:-step]) / window_s
        shares = np.where(shares > 1e-6, shares, 0).astype(np.float32)[:, None]
        if not shares.any():
            break
        total[:-step] += shares * probs[step:]
        total[step:] += shares * probs[:-step]
        weight[:-step] += shares
        weight[step:] += shares
    smooth: np.ndarray = total / weight
    return smooth
