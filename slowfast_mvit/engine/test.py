"""Scoring videos: many views of each for a test, the centre view for validation.

Each rank scores its own part of the list, and nothing is exchanged while it does. Every forward
pass has the same shape, so what a video gets does not depend on which rank scores it, or beside
which others.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
) -> Iterator[ViewScores | FailedVideo]:
    """The probabilities of every view of every video; views of the same pixels are scored once.

    Every forward pass has the same number of views, whatever the number of views of a video: what
    the last one lacks is filled with zeros. So the scores of a view do not depend, not even in the
    last bit, on its neighbours, its place, or which other views of its video are scored.

    Args:
        model: on ``device``; in evaluation mode while this runs.
        loader: the videos with all their views.
        prepare: normalises the views.
        forward_batch: views in each forward pass.
        precision: "fp32", "bf16" or "fp16".

    Yields:
        A ``ViewScores`` for each video that could be read, in the order of the list, and a
        ``FailedVideo`` for each other, as soon as it is met.

    Raises:
        WeightsError: the model's answer for a video is not finite.
    """
    passes = _ForwardPasses(model, forward_batch, precision)
    unscored = deque[_Read]()
    was_training = model.training
    model.eval()
    try:
        for batch in loader.epoch(0):
            yield from batch.failures
            if not batch.video_ids:
                continue
            inputs = prepare(batch.to(device, non_blocking=True))
            for video, views in zip(
                _videos(batch), inputs.split(batch.pixels.shape[1]), strict=True
            ):
                unscored.append(video)
                passes.add(views[: video.num_places])
            yield from _scored(unscored, passes)
        passes.finish()
        yield from _scored(unscored, passes)
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class _Read:
    """A video whose views are read, and perhaps not yet scored.

    Attributes:
        video_id: the video as its list names it.
        label: its class index.
        views: (V, 2) int64, the (clip, crop) of each view.
        places: (V,) int64, which of its scored pictures each view is.
    """

    video_id: str
    label: int
    views: np.ndarray
    places: np.ndarray

    @property
    def num_places(self) -> int:
        return int(self.places.max()) + 1


class _ForwardPasses:
    """Probabilities from forward passes of equal size, in the order in which views are added.

    A pass is read when the next one has been given to the device, which so never waits for us.

    Args:
        model: in evaluation mode.
        num_rows: views in each pass.
        precision: "fp32", "bf16" or "fp16".
    """

    def __init__(self, model: nn.Module, num_rows: int, precision: str) -> None:
        self._model = model
        self._num_rows = num_rows
        self._precision = precision
        self._waiting: list[Tensor] = []  # (some, 3, T, S, S) each, fewer than num_rows together
        self._uncollected: Tensor | None = None  # (some, K) of the last pass, on the device
        self._probs = np.empty((0, 0), dtype=np.float32)

    def add(self, views: Tensor) -> None:
        """Score ``views`` (N, 3, T, S, S), as far as they fill forward passes."""
        self._waiting.append(views)
        if sum(map(len, self._waiting)) < self._num_rows:
            return
        waiting = torch.cat(self._waiting)
        while len(waiting) >= self._num_rows:
            self._score(waiting[: self._num_rows], self._num_rows)
            waiting = waiting[self._num_rows :]
        self._waiting = [waiting]

    def finish(self) -> None:
        """Score what waits, in a pass filled up with zeros."""
        num_waiting = sum(map(len, self._waiting))
        if num_waiting:
            self._score(_filled(torch.cat(self._waiting), self._num_rows), num_waiting)
        self._waiting = []
        self._collect()

    @property
    def num_scored(self) -> int:
        """Views whose probabilities are read and have not been taken yet."""
        return len(self._probs)

    def take(self, num_views: int) -> np.ndarray:
        """The probabilities (num_views, K) float32 of the first views not taken yet."""
        taken, self._probs = self._probs[:num_views], self._probs[num_views:]
        return taken

    @torch.inference_mode()
    def _score(self, rows: Tensor, num_real: int) -> None:
        with autocast(rows.device, self._precision):
            logits = self._model(rows)
        probs = logits[:num_real].float().softmax(dim=1)
        self._collect()
        self._uncollected = probs

    def _collect(self) -> None:
        if self._uncollected is not None:
            probs = self._uncollected.cpu().numpy()
            self._probs = np.concatenate([self._probs, probs]) if len(self._probs) else probs
        self._uncollected = None


def _videos(batch: ClipBatch) -> Iterator[_Read]:
    views = batch.views.numpy()
    own_places = np.tile(np.arange(len(views)), (len(batch.video_ids), 1))
    places = own_places if batch.places is None else batch.places.numpy()
    labels = batch.labels.tolist()
    for video_id, label, its_places in zip(batch.video_ids, labels, places, strict=True):
        yield _Read(video_id, label, views, its_places)


def _scored(unscored: deque[_Read], passes: _ForwardPasses) -> Iterator[ViewScores]:
    """The scores of the videos all of whose views are scored; takes them from both."""
    while unscored and unscored[0].num_places <= passes.num_scored:
        video = unscored.popleft()
        probs = passes.take(video.num_places)
        _require_finite(video.video_id, probs)
        yield ViewScores(video.video_id, video.label, video.views, probs[video.places])


def _filled(rows: Tensor, num_rows: int) -> Tensor:
    """So many rows, the last ones zeros."""
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
    """Return how wrong the model is on the centre view of each video, in float32.

    With several ranks each measures its part of the list, and one exchange at the end gives all of
    them the same numbers: bit for bit those of a single process, as losses are added up in the
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
    was_training = model.training
    model.eval()
    try:
        for batch in loader.epoch(0):
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
    finally:
        model.train(was_training)
    mine = torch.stack(rows).cpu().numpy() if rows else np.zeros((0, 3))
    # The parts of the ranks may take very different times to read.
    wait_for_all("validation", should_stop)
    parts = gather_objects((mine, failed))
    values = np.concatenate([its_values for its_values, _ in parts])  # in the order of the list
    failed = [video for _, its_failed in parts for video in its_failed]
    if failed_path is not None:
        record_failed_videos(failed_path, failed, split="val", epoch=epoch)
    _tell_failed(failed, len(values))
    mean_loss, right1, right5 = (values.sum(axis=0) / len(values)).tolist()
    return {
        "top1_err": 100.0 * (1.0 - right1),
        "top5_err": 100.0 * (1.0 - right5),
        "loss": mean_loss,
        "num_videos": len(values),
        "num_failed": len(failed),
    }


def _measured(logits: Tensor, labels: Tensor, loss: Loss) -> list[Tensor]:
    """Of each video (3,) float64: its loss, whether its class is the best, among the best 5.

    One video at a time, as the losses give means over those they get.
    """
    return [
        torch.stack(
            [
                loss(its_logits, label).double(),
                num_correct(its_logits, label, 1).double(),
                num_correct(its_logits, label, 5).double(),
            ]
        )
        for its_logits, label in zip(logits.split(1), labels.split(1), strict=True)
    ]


def _require_finite(video_id: str, probs: np.ndarray) -> None:
    if not np.isfinite(probs).all():
        raise WeightsError(
            f"{video_id}: the model's scores are not finite numbers. Its weights may come from a "
            "run that diverged; with fp16, try bf16 or fp32"
        )


def _tell_failed(failed: list[FailedVideo], num_videos: int) -> None:
    if not failed:
        return
    message = (
        f"{len(failed):,} of {num_videos + len(failed):,} videos to validate on could not be read "
        f"and are not counted. First: {failed[0]}"
    )
    if num_videos == 0:
        raise UserError(message)
    logger.warning(message)
