"""Scores of many videos: threads read ahead of the model, and unlike videos share its batches.

videos -> read_units in threads -> batches of one unit -> engine.test.score_videos -> Scored
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from slowfast_mvit.data.loading.items import failed
from slowfast_mvit.data.views.pixels import normalise
from slowfast_mvit.engine.test import score_videos
from slowfast_mvit.errors import DecodeError
from slowfast_mvit.jobs.prediction.reading import Looked, Reading, Unit, read_units
from slowfast_mvit.runtime.launch_environment import available_cores
from slowfast_mvit.structures import ClipBatch, FailedVideo, VideoRecord

T = TypeVar("T")
U = TypeVar("U")

UNITS_AHEAD = 4  # of each video that is being read
MAX_THREADS = 8
_END = object()


@dataclass
class Scored:
    """The scores of a video.

    Attributes:
        record: the video.
        looked: the part of it that was read.
        spans_s: start and end of each unit, in seconds.
        probs: (K,) float32 for each unit.
    """

    record: VideoRecord
    looked: Looked
    spans_s: list[tuple[float, float]] = field(default_factory=list)
    probs: list[np.ndarray] = field(default_factory=list)

    @property
    def mean_probs(self) -> np.ndarray:
        """(K,) float32, the mean over the units."""
        mean: np.ndarray = np.mean(self.probs, axis=0)
        return mean


def score(
    model: nn.Module,
    videos: Sequence[VideoRecord],
    reading: Reading,
    *,
    batch: int,
    mean: Sequence[float],
    std: Sequence[float],
    on_progress: Callable[[float], object] = lambda share: None,
) -> Iterator[Scored | FailedVideo]:
    """Score videos, and yield the result of each in their order.

    Args:
        model: runs where it is.
        videos: of different paths.
        reading: the views of each.
        batch: views in each forward pass.
        mean: of R, G and B, for ``normalise``.
        std: standard deviation of R, G and B.
        on_progress: called with the share of a video that was scored, 1 for a whole one.
    """
    source = _Units(videos, reading)
    failures: dict[str, FailedVideo] = {}
    waiting = deque(videos)
    device = next(model.parameters()).device
    outcomes = score_videos(
        model,
        source,
        lambda clips: normalise(clips.pixels, mean, std),
        device=device,
        forward_batch=batch,
        fills_last=False,
    )
    for outcome in outcomes:
        if isinstance(outcome, FailedVideo):
            failures[outcome.path] = outcome
            scored = source.scored.get(outcome.path)
            on_progress(1 - (len(scored.probs) / scored.looked.num_units if scored else 0))
        elif outcome.video_id not in failures:
            scored = source.scored[outcome.video_id]
            scored.probs.append(outcome.probs.mean(axis=0))
            on_progress(1 / scored.looked.num_units)
        while waiting:
            path = waiting[0].path
            scored = source.scored.get(path)
            if path in failures:
                yield failures[path]
            elif scored is not None and len(scored.probs) == scored.looked.num_units:
                yield scored
            else:
                break
            source.scored.pop(waiting.popleft().path, None)


class _Units:
    """The units of all videos as batches of one, for ``score_videos``.

    Attributes:
        scored: of the videos that were begun, by path, without their probabilities.
    """

    def __init__(self, videos: Sequence[VideoRecord], reading: Reading) -> None:
        self._videos = videos
        self._reading = reading
        self.scored: dict[str, Scored] = {}

    @property
    def num_videos(self) -> int:
        return len(self._videos)

    def __len__(self) -> int:
        return len(self._videos)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[ClipBatch]:
        """Return the batches; ``video_ids`` are the paths."""
        threads = min(available_cores(), MAX_THREADS)
        for record, unit in read_ahead(self._videos[start_step:], self._read, threads):
            if isinstance(unit, FailedVideo):
                yield _batch_of_failure(unit)
                continue
            scored = self.scored.setdefault(record.path, Scored(record, unit.looked))
            scored.spans_s.append((unit.start_s, unit.end_s))
            num_views = len(unit.places)
            yield ClipBatch(
                pixels=unit.pixels[None],
                labels=torch.zeros(1, dtype=torch.int64),
                video_ids=(record.path,),
                views=torch.stack([torch.arange(num_views), torch.zeros(num_views).long()], 1),
                places=unit.places[None],
            )

    def _read(self, record: VideoRecord) -> Iterator[Unit | FailedVideo]:
        try:
            yield from read_units(record, self._reading)
        except DecodeError as error:
            yield failed(record, error)


def _batch_of_failure(failure: FailedVideo) -> ClipBatch:
    pixels = torch.empty((0, 1, 3, 1, 1, 1), dtype=torch.uint8)
    labels = torch.empty(0, dtype=torch.int64)
    return ClipBatch(pixels, labels, (), torch.zeros((1, 2), dtype=torch.int64), (failure,))


def read_ahead(
    tasks: Sequence[T], read: Callable[[T], Iterator[U]], num_threads: int
) -> Iterator[tuple[T, U]]:
    """Yield what ``read`` yields for each task, in order, while threads read the next ones.

    Each thread is at most ``UNITS_AHEAD`` items ahead, so the memory does not grow with the
    length of a task or the number of tasks.
    """
    stop = threading.Event()

    def fill(task: T, items: queue.Queue) -> None:
        try:
            for item in read(task):
                if not _put(items, item, stop):
                    return
        finally:
            _put(items, _END, stop)

    pool = ThreadPoolExecutor(num_threads)
    begun: deque[tuple[T, queue.Queue, Future[None]]] = deque()
    upcoming = iter(tasks)
    try:
        for _ in tasks:
            for task in upcoming:
                items: queue.Queue = queue.Queue(UNITS_AHEAD)
                begun.append((task, items, pool.submit(fill, task, items)))
                if len(begun) > num_threads:
                    break
            task, items, future = begun.popleft()
            while (item := items.get()) is not _END:
                yield task, item
            future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _put(items: queue.Queue, item: object, stop: threading.Event) -> bool:
    """Put an item into a queue once it has space; return False if reading was stopped."""
    while not stop.is_set():
        try:
            items.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
