#!/usr/bin/env python3
"""Peak memory and time of one contender of benchmarks/model.py, alone in a process of its own.

    python benchmarks/alone.py ours --mode train --precision fp32 --input-size 16 224 224

On a CPU memory is the most that the process ever held, minus what it held after the imports; so it
includes weights, gradients, the optimizer's state and the clip. Linux only (/proc). On CUDA it is
the most that PyTorch allocated. The first run is not timed. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import (
    CHECKPOINTING,
    NAMES,
    Case,
    build_one,
    name_of_checkpointing,
    work_of,
)
from benchmarks.operations import MODELS, MODES
from benchmarks.rates import DTYPES
from benchmarks.rounds import measured


def run_alone(name: str, case: Case, *, num_runs: int = 1) -> dict[str, float]:
    """What a fresh process says of a contender: ``peak_mb``, ``clock_s``, ``cpu_s``.

    Raises:
        subprocess.CalledProcessError: it failed, for want of memory perhaps.
    """
    words = [name, "--size", case.size, "--mode", case.mode, "--precision", case.precision]
    words += ["--batch", str(case.batch), "--device", str(case.device), "--runs", str(num_runs)]
    words += ["--input-size", *(str(length) for length in case.input_size)]
    words += ["--checkpointing", name_of_checkpointing(case)]
    told = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    measured_alone: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return measured_alone


def measure(name: str, case: Case, num_runs: int) -> dict[str, Any]:
    """In this process: the first run fills caches and makes the optimizer's state."""
    before_mb = held_mb("VmRSS")
    work = work_of(build_one(name, case), case)
    work()
    runs = [measured(work, case.device) for _ in range(num_runs)]
    if case.device.type == "cuda":
        peak_mb = torch.cuda.max_memory_allocated(case.device) / 1e6
    else:
        peak_mb = held_mb("VmHWM") - before_mb
    return {
        "peak_mb": round(peak_mb, 1),
        "clock_s": min(seconds.clock for seconds in runs),
        "cpu_s": min(seconds.cpu for seconds in runs),
    }


def held_mb(what: str) -> float:
    """Memory of this process in 1e6 bytes: "VmRSS" now, "VmHWM" at the most since it began."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {what}")


def main(words: Sequence[str] | None = None) -> int:
    """Run one contender; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--size", choices=MODELS, default="S")
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--input-size", type=int, nargs=3, required=True, metavar=("T", "H", "W"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpointing", choices=CHECKPOINTING, default="none")
    parser.add_argument("--runs", type=int, default=1, help="after the first; the best counts")
    given = parser.parse_args(words)
    case = Case(
        size=given.size,
        input_size=tuple(given.input_size),
        mode=given.mode,
        precision=given.precision,
        batch=given.batch,
        device=torch.device(given.device),
        checkpointing=CHECKPOINTING[given.checkpointing],
    )
    print(json.dumps(measure(given.name, case, given.runs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
