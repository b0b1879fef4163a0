#!/usr/bin/env python3
"""Overhead of the training loop: its clips a second over those of the bare model step.

    bare step   forward, loss, backward, clipping, optimizer step, on float clips that lie ready
    loop        ``engine.train.train`` on uint8 batches that lie ready: normalisation, erasing and
                mixup on the device, learning rate, seeds, counting, log lines and the bare step

Both have the same model, optimizer and batch size, and take turns in one process on one thread:
the loader that the loop asks for batches does a bare step before it hands one over. So everything
the loop does until it asks again counts as the loop's.

    s_16x4      MViTv2-S, 16 x 224 x 224, its published recipe; 2 clips, for one cannot be mixed. A
                line of the log after every step, which is more than a run has
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# The code beside this file, and not another version that may be installed.
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


@dataclass(frozen=True)
class Case:
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


@dataclass(frozen=True)
class Ready:
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
    """One step of training with nothing around it."""
    ready.loss(ready.model(ready.inputs), ready.targets).backward()
    torch.nn.utils.clip_grad_norm_(ready.model.parameters(), ready.clip_norm)
    ready.optimizer.step()
    ready.optimizer.zero_grad()


class Enough(Exception):
    """All steps are measured; what ends an epoch is not."""


class InTurns:
    """One batch again and again; before each, a bare step. Times both.

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
        return self.num_steps + 1  # the last of which is never handed out

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
    """CPU seconds of a step, bare and in the loop, and what one is of the other."""
    config = case_config(case)
    torch.manual_seed(SEED)
    model = builders.build_model(config).train()
    objective = builders.build_objective(config)
    optimizer = builders.build_optimizer(config, model)
    batch = random_batch(config, case.num_clips)
    ready = make_ready(config, model, optimizer, objective, batch)
    bare_step(ready)  # fills caches; not counted
    loader = InTurns(batch, ready, case.log_period * num_rounds)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        train(
            Training(
                TrainingState(model, model, optimizer, loss_scaler(CPU, "fp32")),
                objective,
                builders.build_schedule(config),
                loader,
                settings_of(config, case.log_period),
                CPU,
                Path(folder),
                Reporter(StatsLog(folder)),
                cfg_text=config.to_yaml(),
            )
        )
    return summarise(loader, case)


def case_config(case: Case) -> Config:
    return load_config(ROOT / "configs" / case.config, list(case.changes))


def random_batch(config: Config, num_clips: int) -> ClipBatch:
    """Noise in the shape of training clips, each the only view of its video."""
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
    """The batch as the objective would have it, mixed, and what else a bare step needs."""
    inputs, targets = objective.prepare(batch, generator(SEED, 0, 0, BATCH))
    clip_norm = config.solver.clip_grad_l2norm
    assert clip_norm is not None, "the loop would not clip"
    return Ready(model, optimizer, objective.loss, clip_norm, inputs, targets)


def settings_of(config: Config, log_period: int) -> TrainSettings:
    """One epoch of what the config says."""
    return TrainSettings(
        max_epoch=1,
        seed=SEED,
        log_period=log_period,
        precision="fp32",
        clip_value=config.solver.clip_grad_val,
        clip_norm=config.solver.clip_grad_l2norm,
    )


def summarise(loader: InTurns, case: Case) -> dict[str, float]:
    """Medians over rounds of ``log_period`` steps."""

    def rounds(steps: Sequence[Seconds], clock: str) -> np.ndarray:
        seconds = [getattr(step, clock) for step in steps]
        return np.array(seconds).reshape(-1, case.log_period).sum(axis=1)

    bare_s, loop_s = rounds(loader.bare, "cpu"), rounds(loader.loop, "cpu")
    by_the_clock = rounds(loader.bare, "clock") / rounds(loader.loop, "clock")
    bare, loop = float(np.median(bare_s)), float(np.median(loop_s))
    num_clips = case.num_clips * case.log_period
    return {
        "loop_over_bare_step": round(float(np.median(bare_s / loop_s)), 4),
        "bare_cpu_ms_per_step": round(1e3 * bare / case.log_period, 1),
        "loop_cpu_ms_per_step": round(1e3 * loop / case.log_period, 1),
        "bare_clips_per_cpu_s": round(num_clips / bare, 3),
        "loop_clips_per_cpu_s": round(num_clips / loop, 3),
        "loop_over_bare_step_by_the_clock_noisy": round(float(np.median(by_the_clock)), 4),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    given = script_parser(__doc__, quick="fewer rounds").parse_args(words)
    torch.set_num_threads(1)
    measured = {}
    for name, case in CASES.items():
        measured[name] = measure(case, case.num_quick_rounds if given.quick else case.num_rounds)
        print(f"{name:10s} {measured[name]}", flush=True)
    keep_record(
        "end_to_end",
        {
            "loop_over_bare_step": min(row["loop_over_bare_step"] for row in measured.values()),
            **measured,
        },
        given.results,
        options=["--quick"] if given.quick else [],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
