"""Training objectives. The loop calls one and does not depend on the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slowfast_mvit.structures import ClipBatch

Loss = Callable[[Tensor, Tensor], Tensor]
Prepare = Callable[[ClipBatch, np.random.Generator], tuple[Tensor, Tensor]]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over samples of ``sum_c -t_c log softmax(logits)_c``.

    Args:
        logits: (N, K), of any floating type; computed in float32 at least.
        targets: (N,) class indices, or (N, K) shares of each class (smoothed or mixed labels),
            which are taken as they are and not brought to sum 1.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(wide), targets)


# One function serves both of PySlowFast's names: torch's accepts both indices and shares.
LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "soft_cross_entropy": cross_entropy}


@dataclass(frozen=True)
class Outcome:
    """The outcome of an objective for one batch.

    Attributes:
        loss: a number to minimise, with its graph.
        logits: (N, K), without graph.
        targets: (N,) class indices or (N, K) shares, as the loss took them.
    """

    loss: Tensor
    logits: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Recognition:
    """One label for a clip.

    Attributes:
        prepare: makes inputs (B*V, 3, T, S, S) float and targets of a batch on its device; may mix
            and erase, drawing from the generator.
        loss: a function of ``LOSSES``.
    """

    prepare: Prepare
    loss: Loss

    def __call__(self, model: nn.Module, batch: ClipBatch, rng: np.random.Generator) -> Outcome:
        inputs, targets = self.prepare(batch, rng)
        logits = model(inputs)
        return Outcome(self.loss(logits, targets), logits.detach(), targets)


def one_label_each(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels on which the top-k accuracy of mixed samples is counted.

    A sample mixed of two classes counts as its larger class, and a model that names either one is
    right: the logit of the smaller class is added to that of the larger and set to 0.

    Args:
        logits: (N, K).
        targets: (N,) class indices, then nothing changes; or (N, K) shares.

    Source: PySlowFast merges the two so. It does so on unmixed samples too, whose second class is
    then an arbitrary one of equal shares; here they are left as they are.
    """
    if targets.ndim == 1:
        return logits, targets
    shares, classes = targets.topk(min(2, targets.shape[1]), dim=1)
    first, second = classes[:, :1], classes[:, -1:]
    mixed = shares[:, -1:] > targets.amin(dim=1, keepdim=True)
    sums = logits.gather(1, first) + logits.gather(1, second)
    merged = logits.scatter(1, first, sums).scatter(1, second, torch.zeros_like(sums))
    return torch.where(mixed, merged, logits), classes[:, 0]
