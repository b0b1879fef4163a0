"""Scoring videos: many views of each for a test, the centre view for validation.

Each rank scores its part of the list without any exchange. Every forward pass has the same shape,
so the scores of a video do not depend on its rank, or on the other videos of the pass.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from slowfast_mvit.engine.failed_videos import record_failed_videos
from slowfast_mvit.engine.meter import num_correct
from slowfast_mvit.engine.settings import BatchSource
from slowfast_mvit.errors import UserError, WeightsError
from slowfast_mvit.optim.objectives import Loss
from slowfast_mvit.runtime.distributed import gather_objects, wait_for_all
from slowfast_mvit.runtime.precision import autocast
from slowfast_mvit.runtime.watchdog import note_progress
from slowfast_mvit.structures import ClipBatch, FailedVideo, ViewScores

logger = logging.getLogger(__name__)

# Inputs (B*U, 3, T, S, S) of a batch on its device; nothing is drawn at random.
PrepareViews = Callable[[ClipBatch], Tensor]


def score_videos(
    model: nn.Module,
    loader: BatchSource,
    prepare: PrepareViews,
    *,
    device: torch.device,
    forward_batch: int,
    precision: str = "fp32",
    fills_last: bool = True,
) -> Iterator[ViewScores | FailedVideo]:
    """Score every view of every video; views of the same pixels are scored once.

    Every forward pass has the same number of views, whatever the number of views of a video; the
    last one is filled up with zeros. So the scores of a view do not depend, not even in the last
    bit, on the other views of the pass or of its video.

    Args:
        model: on ``device``; in evaluation mode while this runs.
        loader: the videos with all their views.
        prepare: normalises the views.
        forward_batch: views in each forward pass.
        precision: "fp32", "bf16" or "fp16".
        fills_last: False to save the time of the zeros, where last bits do not matter.

    Yields:
        A ``ViewScores`` for each readable video, in the order of the list, and a ``FailedVideo``
        for each other, as soon as it fails.

    Raises:
        WeightsError: the model's scores of a video are not finite.
    """
    scorer = _Scorer(model, forward_batch, precision, fills_last)
    note_progress("test, reading videos")
    with evaluation_mode(model):
        for number, batch in enumerate(loader.epoch(0), start=1):
            note_progress(f"test, batch {number}")
            yield from batch.failures
            if not batch.video_ids:
                continue
            inputs = prepare(batch.to(device, non_blocking=True))
            for video, views in zip(
                _videos(batch), inputs.split(batch.pixels.shape[1]), strict=True
            ):
                scorer.add(video, views[: video.num_places])
            yield from scorer.finished()
        scorer.score_rest()
        yield from scorer.finished()


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _Read(NamedTuple):
    """A video whose views are read, and perhaps not yet scored.

    Attributes:
        video_id: the video as its list names it.
        label: its class index.
        views: (V, 2) int64, the (clip, crop) of each view.
        places: (V,) int64, the index of each view among its scored inputs.
    """

    video_id: str
    label: int
    views: np.ndarray
    places: np.ndarray

    @property
    def num_places(self) -> int:
        return int(self.places.max()) + 1


class _Scorer:
    """Scores videos by forward passes of equal size.

    The result of a pass is read after the next pass has started, so that the device never waits.

    Args:
        model: in evaluation mode.
        num_rows: views in each pass.
        precision: "fp32", "bf16" or "fp16".
        fills_last: whether the last pass is filled up with zeros.
    """

    def __init__(
        self, model: nn.Module, num_rows: int, precision: str, fills_last: bool = True
    ) -> None:
        self._model = model
        self._num_rows = num_rows
        self._precision = precision
        self._fills_last = fills_last
        self._videos = deque[_Read]()  # not all of their views are scored
        self._waiting: list[Tensor] = []  # (some, 3, T, S, S) each, fewer than num_rows together
        self._uncollected: Tensor | None = None  # (some, K) of the last pass, on the device
        self._probs = np.empty((0, 0), dtype=np.float32)  # of the first views of ``_videos``

    def add(self, video: _Read, views: Tensor) -> None:
        """Add a video with its ``views`` (N, 3, T, S, S), and run the passes that are full."""
        self._videos.append(video)
        self._waiting.append(views)
        if sum(map(len, self._waiting)) < self._num_rows:
            return
        waiting = torch.cat(self._waiting)
        while len(waiting) >= self._num_rows:
            self._score(waiting[: self._num_rows], self._num_rows)
            waiting = waiting[self._num_rows :]
        self._waiting = [waiting]

    def score_rest(self) -> None:
        """Score the waiting views."""
        num_waiting = sum(map(len, self._waiting))
        if num_waiting:
            rows = torch.cat(self._waiting)
            self._score(_filled(rows, self._num_rows) if self._fills_last else rows, num_waiting)
        self._waiting = []
        self._collect()

    def finished(self) -> Iterator[ViewScores]:
        """Remove and yield the videos whose views are all scored."""
        while self._videos and self._videos[0].num_places <= len(self._probs):
            video = self._videos.popleft()
            probs = self._probs[: video.num_places]
            self._probs = self._probs[video.num_places :]
            if not np.isfinite(probs).all():
                raise WeightsError(
                    f"{video.video_id}: the model's scores are not finite numbers. Its weights may "
                    "come from a run that diverged; with fp16, try bf16 or fp32"
                )
            yield ViewScores(video.video_id, video.label, video.views, probs[video.places])

    @torch.inference_mode()
    def _score(self, rows: Tensor, num_views: int) -> None:
        with autocast(rows.device, self._precision):
            logits = self._model(rows)
        probs = logits[:num_views].float().softmax(dim=1)
        self._collect()
        self._uncollected = probs

    def _collect(self) -> None:
        if self._uncollected is not None:
            probs = self._uncollected.cpu().numpy()
            self._probs = np.concatenate([self._probs, probs]) if len(self._probs) else probs
        self._uncollected = None


def _videos(batch: ClipBatch) -> Iterator[_Read]:
    views, labels = batch.views.numpy(), batch.labels.tolist()
    all_places = np.tile(np.arange(len(views)), (len(batch.video_ids), 1))
    if batch.places is not None:
        all_places = batch.places.numpy()
    for video_id, label, places in zip(batch.video_ids, labels, all_places, strict=True):
        yield _Read(video_id, label, views, places)


def _filled(rows: Tensor, num_rows: int) -> Tensor:
    """Append rows of zeros up to ``num_rows``."""
    missing = num_rows - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows


@torch.inference_mode()
def validate(
    model: nn.Module,
    loader: BatchSource,
    prepare: PrepareViews,
    loss: Loss,
    *,
    device: torch.device,
    forward_batch: int,
    failed_path: str | Path | None = None,
    epoch: int | None = None,
    should_stop: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Return the metrics of a model on the centre view of each video, in float32.

    With several ranks each scores its part of the list, and one exchange at the end returns the
    same numbers to all: bit for bit those of a single process, as losses are added up in the
    order of the list.

    Args:
        model: on ``device``; in evaluation mode while this runs. Its forward pass must not wait
            for other ranks, which may have fewer videos.
        loader: this rank's part of the videos, with one view each.
        prepare: normalises the views.
        loss: a function of ``optim.objectives.LOSSES``, given class indices.
        device: of the model.
        forward_batch: views in each forward pass.
        failed_path: ``failed_videos.csv`` of the run, if there is one.
        epoch: 0-based, for that file.
        should_stop: called before each batch; raises what ends the run.

    Returns:
        "top1_err" and "top5_err" in percent, the mean "loss", "num_videos" scored, "num_failed".

    Raises:
        UserError: no video could be read.
    """
    rows, failed = list[Tensor](), list[FailedVideo]()
    when = "validation" if epoch is None else f"validation after epoch {epoch + 1}"
    note_progress(f"{when}, reading videos")
    with evaluation_mode(model):
        for number, batch in enumerate(loader.epoch(0), start=1):
            note_progress(f"{when}, batch {number}")
            if should_stop is not None:
                should_stop()
            failed += batch.failures
            if batch.video_ids:
                batch = batch.to(device, non_blocking=True)
                inputs = prepare(batch)  # (B, 3, T, S, S)
                for some, labels in zip(
                    inputs.split(forward_batch), batch.labels.split(forward_batch), strict=True
                ):
                    logits = model(_filled(some, forward_batch))[: len(some)]
                    rows += _measured(logits, labels, loss)
    of_rank = torch.stack(rows).cpu().numpy() if rows else np.zeros((0, 3))
    # Ranks may take very different times to read their parts.
    wait_for_all("validation", should_stop)
    parts = gather_objects((of_rank, failed))
    values = np.concatenate([part_values for part_values, _ in parts])  # in the order of the list
    failed = [video for _, part_failed in parts for video in part_failed]
    if failed_path is not None:
        record_failed_videos(failed_path, failed, split="val", epoch=epoch)
    if failed:
        message = (
            f"{len(failed):,} of {len(values) + len(failed):,} videos to validate on could not be "
            f"read and are not counted. First: {failed[0]}"
        )
        if len(values) == 0:
            raise UserError(message)
        logger.warning(message)
    mean_loss, top1_correct, top5_correct = (values.sum(axis=0) / len(values)).tolist()
    return {
        "top1_err": 100.0 * (1.0 - top1_correct),
        "top5_err": 100.0 * (1.0 - top5_correct),
        "loss": mean_loss,
        "num_videos": len(values),
        "num_failed": len(failed),
    }


def _measured(logits: Tensor, labels: Tensor, loss: Loss) -> Iterator[Tensor]:
    """Yield (3,) float64 of each video: its loss, 1 if it is top-1 correct, 1 if top-5 correct.

    One video at a time, as the losses return means over their batch.
    """
    for row, label in zip(logits.split(1), labels.split(1), strict=True):
        values = (loss(row, label), num_correct(row, label, 1), num_correct(row, label, 5))
        yield torch.stack([value.double() for value in values])
