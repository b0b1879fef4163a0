#!/usr/bin/env python3
"""Profile of MViTv2-S: torchvision, ours at an older commit, and ours.

PyTorch's profiler on one thread, float32, one clip of 16 x 224 x 224, one pass after another that
is not counted. Time counts for the operation that spends it, not for those that called it. Each
column is a fresh process; the package of the older commit is unpacked into a temporary folder, and
its public ``create_model`` is used.

    python benchmarks/profile_model.py --mode infer --before 0ba564e
    python benchmarks/profile_model.py --mode train --before 0ba564e

Writes benchmarks/results/profile_model_<mode>_<date>.json; its content is also the last line
printed.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity
from torchvision.models.video import mvit_v2_s

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.passes import MODES, Case, work_of
from benchmarks.processes import in_fresh_process
from benchmarks.record import keep_record, script_parser

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


def class_of(operation: str) -> str:
    """The class of ``CLASSES`` that an operation of PyTorch belongs to."""
    for name, words in CLASSES:
        if any(word in operation for word in words):
            return name
    return REST


def profile(contender: str, mode: str, package: Path) -> dict[str, float]:
    """Milliseconds of a pass by class, with ``slowfast_mvit`` from the folder given."""
    sys.path.insert(0, str(package))
    import slowfast_mvit

    torch.set_num_threads(1)
    torch.manual_seed(0)
    is_ours = contender == "ours"
    model = slowfast_mvit.create_model("mvitv2_s_16x4") if is_ours else mvit_v2_s()
    work = work_of(model.train(mode == "train"), Case("S", (16, 224, 224), mode, "fp32"))
    work()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    times: dict[str, float] = {}
    for event in profiler.key_averages():
        name = class_of(event.key)
        times[name] = times.get(name, 0.0) + event.self_cpu_time_total / 1e3
    return {name: round(ms, 1) for name, ms in times.items()}


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
    parser = script_parser(__doc__)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--before", help="commit of the column before")
    given = parser.parse_args(words)
    columns = {"torchvision": in_fresh_process(profile, "torchvision", given.mode, ROOT)}
    options = ["--mode", given.mode]
    if given.before:
        options += ["--before", given.before]
        with tempfile.TemporaryDirectory() as folder:
            unpack(given.before, Path(folder))
            columns["ours before"] = in_fresh_process(profile, "ours", given.mode, Path(folder))
    columns["ours"] = in_fresh_process(profile, "ours", given.mode, ROOT)
    torch.set_num_threads(1)
    numbers = {"before": given.before, "profiles": columns}
    keep_record("profile_model", numbers, given.results, options=options, case=given.mode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
