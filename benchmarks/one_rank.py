#!/usr/bin/env python3
"""One of the processes whose speed benchmarks/end_to_end.py compares with that of a single one.

    torchrun --standalone --nproc-per-node 2 benchmarks/one_rank.py --steps 20

trains the demo's model as end_to_end.py does, on the batch of its case in each process, and prints
the clips a second of all processes together as one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.end_to_end import CASES, CPU, SEED, Enough, case_config, random_batch, settings_of
from slowfast_mvit import builders
from slowfast_mvit.engine.train import train
from slowfast_mvit.runtime.distributed import is_main, process_group, world_size
from slowfast_mvit.runtime.parallel import parallelise
from slowfast_mvit.structures import ClipBatch

NUM_WARM_UP = 3


class OneBatch:
    """The same batch again and again.

    Attributes:
        asked_s: when the loop asked for each, and for one more, by the clock.
    """

    def __init__(self, batch: ClipBatch, num_steps: int) -> None:
        self.batch = batch
        self.num_steps = num_steps
        self.asked_s: list[float] = []

    @property
    def num_videos(self) -> int:
        return len(self) * len(self.batch.video_ids)

    def __len__(self) -> int:
        return self.num_steps + 1  # the last of which is never handed out

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[ClipBatch]:
        for _ in range(self.num_steps):
            self.asked_s.append(time.perf_counter())
            yield self.batch
        self.asked_s.append(time.perf_counter())
        raise Enough


def clips_per_s(num_steps: int) -> float:
    """Clips a second of all processes together: from the median step of this one, by the clock."""
    case = CASES["demo"]
    config = case_config(case)
    torch.manual_seed(SEED)
    model = builders.build_model(config)
    module = parallelise(model, strategy="ddp", device=CPU)
    loader = OneBatch(random_batch(config, case.num_clips), NUM_WARM_UP + num_steps)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        train(
            model,
            builders.build_objective(config),
            module=module,
            optimizer=builders.build_optimizer(config, model),
            lr_at=builders.build_schedule(config),
            loader=loader,
            settings=settings_of(config, case.log_period),
            device=CPU,
            output_dir=folder,
            cfg_text=config.to_yaml(),
        )
    step_s = float(np.median(np.diff(loader.asked_s)[NUM_WARM_UP:]))
    return case.num_clips * world_size() / step_s


def main(words: Sequence[str] | None = None) -> int:
    """Train, and print the speed; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="steps that are measured")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    with process_group(CPU):
        speed = clips_per_s(given.steps)
        if is_main():
            print(json.dumps({"clips_per_s": round(speed, 2), "ranks": world_size()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
