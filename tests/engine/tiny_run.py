"""A training run small enough for a test, with every kind of randomness a real one has.

As a program, ``python tiny_run.py OUTPUT_DIR``, it stops after 2 of its 4 epochs, says so, and
waits to be killed.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from slowfast_mvit.engine.reporter import Reporter
from slowfast_mvit.engine.settings import TrainSettings
from slowfast_mvit.engine.state import Training, TrainingState
from slowfast_mvit.engine.train import train
from slowfast_mvit.optim.objectives import Recognition, cross_entropy
from slowfast_mvit.optim.params import build_optimizer, parameter_groups
from slowfast_mvit.optim.schedule import cosine
from slowfast_mvit.randomness import generator
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.runtime.precision import loss_scaler
from slowfast_mvit.structures import ClipBatch

CPU = torch.device("cpu")
NUM_CLASSES = 4


class DropPath(nn.Module):
    """Leaves a branch out for some of the samples."""

    p = 0.3

    def forward(self, branch):  # (N, D)
        if not self.training:
            return branch
        kept = torch.rand(len(branch), 1) >= self.p
        return branch * kept / (1 - self.p)


class TinyNet(nn.Module):
    def __init__(self, num_classes=NUM_CLASSES):
        super().__init__()
        self.stem = nn.Linear(3 * 2 * 4 * 4, 16)
        self.norm = nn.LayerNorm(16)
        self.block = nn.Linear(16, 16)
        self.drop_path = DropPath()
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(16, num_classes)

    def forward(self, pixels):  # (N, 3, 2, 4, 4)
        x = self.norm(self.stem(pixels.flatten(1)))
        x = x + self.drop_path(self.block(x).relu())
        return self.head(self.dropout(x))


def tiny_net(num_classes=NUM_CLASSES):
    torch.manual_seed(7)
    return TinyNet(num_classes)


def clip_batch(video_ids, *, seed=0, num_views=1, failures=()):
    rng = generator(seed, 0, 0, 0)
    num_videos = len(video_ids)
    pixels = rng.integers(0, 256, (num_videos, num_views, 3, 2, 4, 4), dtype="uint8")
    return ClipBatch(
        pixels=torch.from_numpy(pixels),
        labels=torch.from_numpy(rng.integers(0, NUM_CLASSES, num_videos)),
        video_ids=tuple(video_ids),
        views=torch.tensor([[view, 0] for view in range(num_views)]),
        failures=tuple(failures),
    )


class Batches:
    """The same batches in every epoch."""

    def __init__(self, batches):
        self.batches = batches
        self.num_videos = sum(len(batch.video_ids) for batch in batches)

    def __len__(self):
        return len(self.batches)

    def epoch(self, epoch, start_step=0):
        return iter(self.batches[start_step:])


def tiny_batches(num_steps=3):
    return Batches([clip_batch("abcdef", seed=step) for step in range(num_steps)])


def prepare_views(batch):
    return batch.pixels.flatten(0, 1).float() / 255


def prepare_noisy(batch, rng):
    inputs = prepare_views(batch)
    noise = torch.from_numpy(rng.standard_normal(inputs.shape)).float()
    return inputs + 0.1 * noise, batch.labels.repeat_interleave(batch.pixels.shape[1])


def tiny_train(
    model,
    output_dir,
    *,
    objective=None,
    method="adamw",
    optimizer=None,
    loader=None,
    lr_at=None,
    module=None,
    average=None,
    writers=(),
    extra=None,
    validate=None,
    resume_from=None,
    **changes,
):
    """Train ``model`` for 4 epochs; ``changes`` are settings."""
    groups = parameter_groups(model.named_parameters(), weight_decay=0.05, zero_wd_1d=True)
    optimizer = optimizer or build_optimizer(groups, method=method, lr=0.0)
    settings = {"max_epoch": 4, "seed": 3, "checkpoint_period": 1, "eval_period": 1} | changes
    scaler = loss_scaler(CPU, settings.get("precision", "fp32"))
    train(
        Training(
            TrainingState(model, module or model, optimizer, scaler, average),
            objective or Recognition(prepare_noisy, cross_entropy),
            lr_at or cosine(base_lr=0.01, end_lr=1e-6, max_epoch=4),
            loader or tiny_batches(),
            TrainSettings(**settings),
            CPU,
            Path(output_dir),
            Reporter(StatsLog(output_dir), writers),
            cfg_text="RNG_SEED: 3\n",
            extra=extra or {},
        ),
        validate=validate,
        resume_from=resume_from,
    )
    return model


def add_and_check(limit):
    """Count failures as the loop does on one rank when a line of the log is due."""
    limit.add_totals(limit.counts_of_rank())
    limit.require_below_limit()


def wait_after_two(epoch, should_stop):
    if epoch == 1:
        print("two epochs are done", flush=True)
        sys.stdin.read()
    return {"top1_err": 0.0, "top5_err": 0.0}


if __name__ == "__main__":
    tiny_train(tiny_net(), sys.argv[1], validate=wait_after_two)
