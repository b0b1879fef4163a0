"""Training a small MViT on one process or several, for the tests of both ways of spreading it."""

import copy

import torch
import torch.nn.functional as F
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import AdamW

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.models.mvit import MViT
from slowfast_mvit.optim.averaging import moving_average
from slowfast_mvit.optim.params import parameter_groups
from slowfast_mvit.runtime.compiling import compile_model
from slowfast_mvit.runtime.distributed import rank, world_size
from slowfast_mvit.runtime.parallel import (
    gradients_stay_local,
    parallelise,
    total_norm,
    whole,
    whole_optimizer_state,
    whole_state,
)

CPU = torch.device("cpu")
# As in the recipe's warm-up. AdamW makes steps of this size even of rounding noise, and nothing
# else moves what has no gradient in exact arithmetic (norm_k.bias: one offset for all keys).
LR = 1e-4
NUM_CLASSES = 5


def small_mvit(seed: int = 0, *, depth: int = 2, **options) -> MViT:
    """Blocks of 8 and 16 channels, three at most; no random parts."""
    torch.manual_seed(seed)
    return mvit_from_lists(
        input_size=(4, 32, 32),
        num_classes=NUM_CLASSES,
        embed_dim=8,
        depth=depth,
        dim_mul=[[1, 2.0]][: depth - 1],
        head_mul=[[1, 2.0]][: depth - 1],
        pool_q_stride=[[0, 1, 1, 1], [1, 1, 2, 2], [2, 1, 1, 1]][:depth],
        pool_kv_stride_adaptive=[1, 4, 4],
        pool_kvq_kernel=[3, 3, 3],
        **options,
    )


def global_batch(step: int, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips (size, 3, 4, 32, 32) and labels (size,), the same on every rank."""
    numbers = torch.Generator().manual_seed(100 + step)
    clips = torch.randn(size, 3, 4, 32, 32, generator=numbers)
    return clips, torch.randint(NUM_CLASSES, (size,), generator=numbers)


class SmallRun:
    """The parts of a run: the model, its parallel form, the optimizer, a moving average.

    With the strategy "alone" a process takes whole batches, whatever the others do.
    """

    def __init__(
        self,
        strategy: str,
        *,
        seed: int = 0,
        precision: str = "fp32",
        frozen: tuple[str, ...] = (),
        compile_backend: str | None = None,
        **options,
    ) -> None:
        self.is_alone = strategy == "alone"
        self.precision = precision
        self.model = small_mvit(seed, **options)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
        self.average = moving_average(self.model, 0.9)
        if compile_backend is not None:
            compile_model(self.model, backend=compile_backend)
        spread = {"strategy": strategy, "device": CPU, "precision": precision}
        self.module = self.model
        if not self.is_alone:
            find_unused = options.get("detach_head", False)
            self.module = parallelise(self.model, **spread, find_unused=find_unused)
        if strategy == "fsdp":
            parallelise(self.average.module, **spread)
        self.optimizer = AdamW(
            parameter_groups(self.model.named_parameters(), weight_decay=0.05, zero_wd_1d=True),
            lr=LR,
        )

    def backward(self, step: int, accum: int = 1) -> None:
        """The gradients of a global batch, each rank working on its own part of it."""
        num_ranks, this_rank = (1, 0) if self.is_alone else (world_size(), rank())
        clips, labels = (part.chunk(num_ranks * accum) for part in global_batch(step))
        for number in range(accum):
            index = number * num_ranks + this_rank
            if number < accum - 1:
                with gradients_stay_local(self.module):
                    self._loss(clips[index], labels[index], accum).backward()
            else:
                self._loss(clips[index], labels[index], accum).backward()

    def step(self, step: int, accum: int = 1) -> None:
        self.backward(step, accum)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        clip_grads_with_norm_(parameters, 1.0, total_norm(parameters))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.model)

    def gradients(self) -> dict[str, torch.Tensor]:
        """Whole gradients by name, where there are some."""
        return {
            name: whole(p.grad).detach().clone()
            for name, p in self.model.named_parameters()
            if p.grad is not None
        }

    def states(self) -> dict[str, dict]:
        """The content of a checkpoint, in the main process."""
        return copy.deepcopy(
            {
                "model": whole_state(self.module),
                "optimizer": whole_optimizer_state(self.optimizer),
                "ema": whole_state(self.average.module),
            }
        )

    def _loss(self, clips, labels, accum):
        is_rounded = self.precision == "bf16"
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_rounded):
            return F.cross_entropy(self.module(clips), labels) / accum


def largest_difference(actual: dict, expected: dict) -> float:
    """Over all tensors of two dicts with the same names."""
    assert list(actual) == list(expected)
    return max((actual[name] - expected[name]).abs().max().item() for name in expected)


def equal(actual, expected) -> bool:
    """To the bit, names in the same order."""
    if isinstance(expected, torch.Tensor):
        return actual.dtype == expected.dtype and torch.equal(actual, expected)
    if isinstance(expected, dict):
        return list(actual) == list(expected) and all(
            equal(actual[name], value) for name, value in expected.items()
        )
    return actual == expected
