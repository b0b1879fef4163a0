"""Scoring videos: many views of each for a test, the centre view for validation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from slowfast_mvit.engine.measure import num_correct
from slowfast_mvit.engine.train import BatchSource
from slowfast_mvit.errors import UserError, WeightsError
from slowfast_mvit.optim.objectives import Loss
from slowfast_mvit.runtime.precision import autocast
from slowfast_mvit.structures import ClipBatch, FailedVideo, ViewScores

logger = logging.getLogger(__name__)

# Inputs (B*V, 3, T, S, S) of a batch on its device; nothing is drawn at random.
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
    """The probabilities of every view of every video, in the order of the list.

    Every forward pass has the same number of views: what lacks is filled with zeros, so a
    video's scores do not depend, not even in the last bit, on its neighbours or its place.

    Args:
        model: on ``device``; in evaluation mode while this runs.
        loader: the videos with all their views.
        prepare: normalises the views.
        forward_batch: views in a forward pass, at most. Views of several videos of a batch share
            one; the views of one video are spread over several.
        precision: "fp32", "bf16" or "fp16".

    Yields:
        A ``ViewScores`` for each video that could be read, a ``FailedVideo`` for each other.

    Raises:
        WeightsError: the model's answer for a video is not finite.
    """
    num_rows = 0
    was_training = model.training
    model.eval()
    try:
        for batch in loader.epoch(0):
            yield from batch.failures
            if not batch.video_ids:
                continue
            num_listed = len(batch.video_ids) + len(batch.failures)
            num_rows = max(num_rows, min(forward_batch, num_listed * len(batch.views)))
            inputs = prepare(batch.to(device, non_blocking=True))
            probs = _probabilities(model, inputs, num_rows, precision)
            probs = probs.reshape(len(batch.video_ids), len(batch.views), -1)
            for video_id, label, its_probs in zip(
                batch.video_ids, batch.labels.tolist(), probs, strict=True
            ):
                _require_finite(video_id, its_probs)
                yield ViewScores(video_id, label, batch.views.numpy(), its_probs)
    finally:
        model.train(was_training)


@torch.inference_mode()
def validate(
    model: nn.Module,
    loader: BatchSource,
    prepare: PrepareViews,
    loss: Loss,
    *,
    device: torch.device,
) -> dict[str, float]:
    """How wrong the model is on the centre view of each video, in float32.

    Args:
        model: on ``device``; in evaluation mode while this runs.
        loader: the videos with one view each.
        prepare: normalises the views.
        loss: a function of ``optim.objectives.LOSSES``, given class indices.

    Returns:
        "top1_err" and "top5_err" in percent, the mean "loss", "num_videos" scored, "num_failed".

    Raises:
        UserError: no video could be read.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    num_videos, failed = 0, list[FailedVideo]()
    was_training = model.training
    model.eval()
    for batch in loader.epoch(0):
        failed += batch.failures
        if not batch.video_ids:
            continue
        batch = batch.to(device, non_blocking=True)
        logits = model(prepare(batch))
        num_videos += len(logits)
        mean_loss = loss(logits, batch.labels)
        right = [num_correct(logits, batch.labels, k) for k in (1, 5)]
        sums += torch.stack([mean_loss.double() * len(logits), *(r.double() for r in right)])
    model.train(was_training)
    _tell_failed(failed, num_videos)
    total_loss, right1, right5 = sums.tolist()
    return {
        "top1_err": 100.0 * (1.0 - right1 / num_videos),
        "top5_err": 100.0 * (1.0 - right5 / num_videos),
        "loss": total_loss / num_videos,
        "num_videos": num_videos,
        "num_failed": len(failed),
    }


@torch.inference_mode()
def _probabilities(model: nn.Module, inputs: Tensor, num_rows: int, precision: str) -> np.ndarray:
    """The probabilities (B*V, K) float32 of all views, ``num_rows`` of them at a time."""
    parts = []
    for views in inputs.split(num_rows):
        missing = views.new_zeros(num_rows - len(views), *views.shape[1:])
        with autocast(inputs.device, precision):
            logits = model(torch.cat([views, missing]) if len(missing) else views)
        parts.append(logits[: len(views)].float().softmax(dim=1))
    return torch.cat(parts).cpu().numpy()


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
        f"and are not counted. First: {failed[0].path}: {failed[0].reason}"
    )
    if num_videos == 0:
        raise UserError(message)
    logger.warning(message)
