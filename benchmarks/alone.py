"""Peak memory and time of one contender of benchmarks/model.py, in a fresh process."""

from __future__ import annotations

import torch

from benchmarks.contenders import build_one
from benchmarks.passes import Case, work_of
from benchmarks.processes import in_fresh_process, memory_mb
from benchmarks.timing import measured


def run_alone(name: str, case: Case, *, num_runs: int = 1) -> dict[str, float]:
    """Peak memory and the best time of a contender in a fresh process.

    On a CPU memory is the most that the process ever held, minus what it held after the imports; so
    it includes weights, gradients, the optimizer's state and the clip. Linux only (/proc). On CUDA
    it is the most that PyTorch allocated.

    Args:
        name: one of ``contenders.NAMES``.
        case: what it runs.
        num_runs: runs that count, after a first one.

    Returns:
        ``peak_mb`` in 1e6 bytes, ``clock_s`` and ``cpu_s``.

    Raises:
        RuntimeError: it failed, for lack of memory perhaps.
    """
    return in_fresh_process(measure, name, case, num_runs)


def measure(name: str, case: Case, num_runs: int) -> dict[str, float]:
    """In this process: the first run fills caches and makes the optimizer's state."""
    before_mb = memory_mb("VmRSS")
    work = work_of(build_one(name, case), case)
    work()
    runs = [measured(work, case.device) for _ in range(num_runs)]
    if case.device.type == "cuda":
        peak_mb = torch.cuda.max_memory_allocated(case.device) / 1e6
    else:
        peak_mb = memory_mb("VmHWM") - before_mb
    return {
        "peak_mb": round(peak_mb, 1),
        "clock_s": min(seconds.clock for seconds in runs),
        "cpu_s": min(seconds.cpu for seconds in runs),
    }
