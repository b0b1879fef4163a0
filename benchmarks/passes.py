"""A forward pass or a training step of a model on random clips, as the benchmarks time it.

Needs torch and no module of slowfast_mvit, so that ``profile_model.py`` can time older commits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CPU = torch.device("cpu")
SEED = 0
LEARNING_RATE = 1e-4
NUM_CLASSES = 400
MODES = ("infer", "train")
CHECKPOINTING: dict[str, bool | str] = {"none": False, "blocks": True, "selective": "selective"}


@dataclass(frozen=True)
class Case:
    """A case to run.

    Attributes:
        size: a key of ``operations.MODELS``.
        input_size: pixels (T, H, W).
        mode: "infer" or "train".
        precision: "fp32", or "bf16" by autocast, as in training.
        batch: clips.
        device: where.
        checkpointing: a key of ``CHECKPOINTING``: "blocks" keeps only what goes into each block,
            and computes the rest again in the backward pass; "selective" is the form of ours only.
    """

    size: str
    input_size: tuple[int, int, int]
    mode: str
    precision: str
    batch: int = 1
    device: torch.device = CPU
    checkpointing: str = "none"


def random_clips(case: Case) -> tuple[Tensor, Tensor]:
    """Noise (B, 3, T, H, W) and labels (B,), the same for all; the first clip for any batch."""
    numbers = [torch.Generator().manual_seed(SEED + number) for number in range(case.batch)]
    clips = [torch.randn(3, *case.input_size, generator=generator) for generator in numbers]
    labels = [torch.randint(NUM_CLASSES, (), generator=generator) for generator in numbers]
    return torch.stack(clips).to(case.device), torch.stack(labels).to(case.device)


def work_of(model: nn.Module, case: Case) -> Callable[[], object]:
    """One forward pass, or one training step, of a model on clips that are on the device.

    The masks of dropout and drop path are other ones in each step, but the same in every run: a
    model may leave out what a mask drops, and then takes another time for each.
    """
    pixels, labels = random_clips(case)
    if case.mode == "infer":
        return lambda: logits_of(model, pixels, case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    seeds = itertools.count()

    def step() -> None:
        torch.manual_seed(next(seeds))
        with _autocast(case):
            loss = F.cross_entropy(model(pixels), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def logits_of(model: nn.Module, pixels: Tensor, case: Case) -> Tensor:
    """Without gradients, in the precision of the case."""
    with torch.inference_mode(), _autocast(case):
        return model(pixels)  # type: ignore[no-any-return]


def _autocast(case: Case) -> torch.autocast:
    return torch.autocast(case.device.type, torch.bfloat16, enabled=case.precision == "bf16")
