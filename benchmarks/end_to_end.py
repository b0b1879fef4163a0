#!/usr/bin/env python3
"""Overhead of the training loop: its clips a second over those of the bare model step.

    bare step   forward, loss, backward, clipping, optimizer step, on float clips in memory
    loop        ``engine.train.train`` on uint8 batches in memory: normalisation, erasing and
                mixup on the device, learning rate, seeds, counting, log lines and the bare step

Both have the same model, optimizer and batch size, and alternate in one process on one thread:
the loader of the loop does a bare step before it yields a batch. So everything that the loop does
until it asks for the next one counts as the loop's.

    s_16x4      MViTv2-S, 16 x 224 x 224, its published recipe; 2 clips, since one cannot be mixed.
                A line of the log after every step, more often than in a run
    demo        configs/Demo/motion.yaml with the recipe's erasing and mixup, 16 clips of 8 x 48 x
                48; a line after every 10 steps

    python benchmarks/end_to_end.py                # about 8 minutes on 2 cores
    python benchmarks/end_to_end.py --quick        # at most 3 minutes

Writes benchmarks/results/end_to_end_<date>.json; its content is also the last line printed, with
``loop_over_bare_step``, the smaller of the ratios of the two models, in CPU time.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# The code in this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import keep_record, script_parser
from benchmarks.timing import Seconds
from slowfast_mvit import builders
from slowfast_mvit.config import Config, load_config
from slowfast_mvit.engine.reporter import Reporter
from slowfast_mvit.engine.settings import TrainSettings
from slowfast_mvit.engine.state import Training, TrainingState
from slowfast_mvit.engine.train import train
from slowfast_mvit.optim.objectives import Loss, Recognition
from slowfast_mvit.randomness import BATCH, generator
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.runtime.precision import loss_scaler
from slowfast_mvit.structures import ClipBatch

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
SEED = 0


class Case(NamedTuple):
    """A model to train, and how long.

    Attributes:
        config: a file under ``configs``.
        changes: keys and values on top of it.
        num_clips: clips of a step.
        log_period: steps from one line of the log to the next.
        num_rounds: how often ``log_period`` steps are measured; the median counts.
        num_quick_rounds: the same of ``--quick``.
    """

    config: str
    changes: tuple[str, ...]
    num_clips: int
    log_period: int
    num_rounds: int
    num_quick_rounds: int


WITH_RECIPE = ("AUG.ENABLE", "True", "MIXUP.ENABLE", "True")
CASES = {
    "s_16x4": Case("Kinetics/MVITv2_S_16x4.yaml", (), 2, 1, 7, 2),
    "demo": Case("Demo/motion.yaml", WITH_RECIPE, 16, 10, 15, 6),
}


class Ready(NamedTuple):
    """The objects of a bare step.

    Attributes:
        model: in training mode.
        optimizer: over its parameters.
        loss: of logits and targets.
        clip_norm: the L2 norm that all gradients together are cut to.
        inputs: (N, 3, T, S, S) float32, as ``Recognition.prepare`` made them.
        targets: (N, K) float32 shares.
    """

    model: nn.Module
    optimizer: Optimizer
    loss: Loss
    clip_norm: float
    inputs: Tensor
    targets: Tensor


def bare_step(ready: Ready) -> None:
    """Run one step of training with nothing around it."""
    ready.loss(ready.model(ready.inputs), ready.targets).backward()
    torch.nn.utils.clip_grad_norm_(ready.model.parameters(), ready.clip_norm)
    ready.optimizer.step()
    ready.optimizer.zero_grad()


class Enough(Exception):
    """All steps are measured; the end of an epoch is not."""


class AlternatingLoader:
    """Yields one batch again and again, with a bare step before each. Times both.

    Attributes:
        bare, loop: of each step so far.
    """

    def __init__(self, batch: ClipBatch, ready: Ready, num_steps: int) -> None:
        self.batch = batch
        self.ready = ready
        self.num_steps = num_steps
        self.bare: list[Seconds] = []
        self.loop: list[Seconds] = []

    @property
    def num_videos(self) -> int:
        return len(self) * len(self.batch.video_ids)

    def __len__(self) -> int:
        return self.num_steps + 1  # the last of which is never yielded

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[ClipBatch]:
        for _ in range(self.num_steps):
            start = Seconds.now()
            bare_step(self.ready)
            between = Seconds.now()
            yield self.batch
            self.bare.append(between.since(start))
            self.loop.append(Seconds.now().since(between))
        raise Enough


def measure(case: Case, num_rounds: int) -> dict[str, float]:
    """Return CPU seconds of a step, bare and in the loop, and their ratio."""
    config = case_config(case)
    torch.manual_seed(SEED)
    model = builders.build_model(config).train()
    objective = builders.build_objective(config)
    optimizer = builders.build_optimizer(config, model)
    batch = random_batch(config, case.num_clips)
    ready = make_ready(config, model, optimizer, objective, batch)
    bare_step(ready)  # fills caches; not counted
    loader = AlternatingLoader(batch, ready, case.log_period * num_rounds)
    settings = TrainSettings(
        max_epoch=1,
        seed=SEED,
        log_period=case.log_period,
        clip_value=config.solver.clip_grad_val,
        clip_norm=config.solver.clip_grad_l2norm,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        state = TrainingState(model, model, optimizer, loss_scaler(CPU, "fp32"))
        parts = (state, objective, builders.build_schedule(config), loader, settings, CPU)
        train(Training(*parts, Path(folder), Reporter(StatsLog(folder)), config.to_yaml()))
    return summarise(loader, case)


def case_config(case: Case) -> Config:
    return load_config(ROOT / "configs" / case.config, list(case.changes))


def random_batch(config: Config, num_clips: int) -> ClipBatch:
    """Return noise in the shape of training clips, each the only view of its video."""
    rng = generator(SEED, 0, 0, BATCH)
    side_px = config.data.train_crop_size
    shape = (num_clips, 1, 3, config.data.num_frames, side_px, side_px)
    return ClipBatch(
        pixels=torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)),
        labels=torch.from_numpy(rng.integers(0, config.model.num_classes, num_clips)),
        video_ids=tuple(f"video_{number}" for number in range(num_clips)),
        views=torch.zeros(1, 2, dtype=torch.int64),
    )


def make_ready(
    config: Config, model: nn.Module, optimizer: Optimizer, objective: Recognition, batch: ClipBatch
) -> Ready:
    """Return the batch as the objective would prepare it, mixed, and the rest of a bare step."""
    inputs, targets = objective.prepare(batch, generator(SEED, 0, 0, BATCH))
    clip_norm = config.solver.clip_grad_l2norm
    assert clip_norm is not None, "the loop would not clip"
    return Ready(model, optimizer, objective.loss, clip_norm, inputs, targets)


def summarise(loader: AlternatingLoader, case: Case) -> dict[str, float]:
    """Return medians over rounds of ``log_period`` steps."""
    # (CPU time or clock, round)
    bare_s, loop_s = (
        np.array(steps).reshape(-1, case.log_period, 2).sum(axis=1).T
        for steps in (loader.bare, loader.loop)
    )
    ratio, ratio_by_the_clock = np.median(bare_s / loop_s, axis=1)
    bare, loop = np.median(bare_s[0]), np.median(loop_s[0])
    num_clips = case.num_clips * case.log_period
    figures = {
        "loop_over_bare_step": (ratio, 4),
        "bare_cpu_ms_per_step": (1e3 * bare / case.log_period, 1),
        "loop_cpu_ms_per_step": (1e3 * loop / case.log_period, 1),
        "bare_clips_per_cpu_s": (num_clips / bare, 3),
        "loop_clips_per_cpu_s": (num_clips / loop, 3),
        "loop_over_bare_step_by_the_clock_noisy": (ratio_by_the_clock, 4),
    }
    return {name: round(float(value), digits) for name, (value, digits) in figures.items()}


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__file__, __doc__, quick="fewer rounds")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    rows = {}
    for name, case in CASES.items():
        rows[name] = measure(case, case.num_quick_rounds if options.quick else case.num_rounds)
        print(f"{name:10s} {rows[name]}", flush=True)
    least = min(row["loop_over_bare_step"] for row in rows.values())
    keep_record(parser, options, {"loop_over_bare_step": least, **rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
