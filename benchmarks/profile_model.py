#!/usr/bin/env python3
"""Where the time of MViTv2-S goes: torchvision, ours at an older commit, and ours.

PyTorch's profiler on one thread, float32, one clip of 16 x 224 x 224, one pass after another that
is not counted. Time counts for the operation that spends it, not for those that called it. Each
column is a process of its own; the older commit is unpacked into a temporary folder.

    python benchmarks/profile_model.py --mode infer --before 0ba564e
    python benchmarks/profile_model.py --mode train --before 0ba564e

Writes benchmarks/results/profile_model_<mode>_<date>.json; its content is also the last line
printed.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import benchmarks

ROOT = Path(__file__).resolve().parents[1]

# The first row whose word is in the name of an operation is its class.
CLASSES = (
    ("our kernels", ("slowfast_mvit", "_MlpResidual", "_NormLinear")),
    ("attention kernels", ("scaled_dot_product",)),
    ("matrix products", ("aten::mm", "addmm", "bmm", "linear", "matmul", "einsum")),
    ("convolutions", ("conv",)),
    ("max pooling", ("max_pool",)),
    ("norms", ("layer_norm",)),
    ("softmax", ("softmax",)),
    ("GELU", ("gelu",)),
    ("optimizer", ("adam", "Optimizer", "zero_grad")),
    ("copies", ("copy", "clone", "contiguous", "cat", "pad", "fill", "zero", "index", "slice")),
    ("sums and products of elements", ("add", "mul", "div", "sub", "sum", "mean", "bernoulli")),
)
REST = "everything else"
INPUT_SIZE = (16, 224, 224)


def class_of(operation: str) -> str:
    """The class of ``CLASSES`` that an operation of PyTorch belongs to."""
    for name, words in CLASSES:
        if any(word in operation for word in words):
            return name
    return REST


def profile_here(contender: str, mode: str, package: Path) -> dict[str, float]:
    """Milliseconds of a pass by class, with ``slowfast_mvit`` from the folder given."""
    assert benchmarks.__file__, "loaded already, so that the folder cannot bring another"
    sys.path.insert(0, str(package))
    from benchmarks.contenders import Case, build_one, work_of

    torch.set_num_threads(1)
    case = Case("S", INPUT_SIZE, mode, "fp32")
    work = work_of(build_one(contender, case), case)
    work()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    times: dict[str, float] = {}
    for event in profiler.key_averages():
        name = class_of(event.key)
        times[name] = times.get(name, 0.0) + event.self_cpu_time_total / 1e3
    return {name: round(ms, 1) for name, ms in times.items()}


def profile_alone(contender: str, mode: str, package: Path) -> dict[str, float]:
    """``profile_here`` in a fresh process.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    words = ["--contender", contender, "--mode", mode, "--package", str(package)]
    command = [sys.executable, str(Path(__file__).resolve()), *words]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    times: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return times


def unpack(commit: str, folder: Path) -> None:
    """Write the package as it was at a commit.

    Raises:
        subprocess.CalledProcessError: there is no such commit, or no git.
    """
    command = ["git", "-C", str(ROOT), "archive", commit, "slowfast_mvit"]
    packed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mode", choices=("infer", "train"), required=True)
    parser.add_argument("--before", help="commit of the column before")
    parser.add_argument("--contender", help="profile this one only, in this process")
    parser.add_argument("--package", type=Path, default=ROOT, help="folder of slowfast_mvit")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args(words)
    if given.contender:
        print(json.dumps(profile_here(given.contender, given.mode, given.package)))
        return 0
    columns: dict[str, Any] = {"torchvision": profile_alone("torchvision", given.mode, ROOT)}
    options = ["--mode", given.mode]
    if given.before:
        options += ["--before", given.before]
        with tempfile.TemporaryDirectory() as folder:
            unpack(given.before, Path(folder))
            columns["ours before"] = profile_alone("ours", given.mode, Path(folder))
    columns["ours"] = profile_alone("ours", given.mode, ROOT)

    from benchmarks.record import keep_record

    torch.set_num_threads(1)
    numbers = {"before": given.before, "profiles": columns}
    keep_record("profile_model", numbers, given.results, options=options, case=given.mode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
