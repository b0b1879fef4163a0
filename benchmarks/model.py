#!/usr/bin/env python3
"""Speed of the model against torchvision's and against a theoretical lower bound.

Ours, the same with every attention score written out (``plain``) and torchvision's ``mvit_v2_s``
get the same weights and clips, must give the same logits, and take turns in one process: a forward
pass without gradients, and a step of training (cross entropy, backward, AdamW; dropout and drop
path as published), in float32 and in bfloat16 by autocast, as the trainer does it. Medians over
rounds, by the clock on all threads; CPU time stands beside. Peak memory is that of a fresh process
for each (benchmarks/alone.py).

The floor of a pass is the larger of two times: its operations at the best rate of the model's own
matrix products, and its least bytes at the rate of a copy (benchmarks/operations.py says what is
counted). ``fraction_of_floor`` is the floor over what was measured: 1 is as fast as can be.

A CPU without instructions for bfloat16 computes it step by step; there the bfloat16 passes get a
small clip (``bf16_input_size``), and their floor is that of the faster of the two precisions.

    python benchmarks/model.py --quick         # at most 3 minutes on 2 cores; S, without plain
    python benchmarks/model.py                 # about 10 minutes
    python benchmarks/model.py --compile       # and torch.compile, which takes minutes itself
    python benchmarks/model.py --device cuda --precision bf16 --compile
    python benchmarks/model.py --device cuda --precision bf16 --model L --checkpointing blocks

On CUDA each contender gets its own batch: 1, 2, 4, ..., while that gives more clips a second;
compiled ones that of the same model not compiled. Memory is compared at the smaller of the batches.

Writes benchmarks/results/model_<model>_<device>_<date>.json (--quick: model_quick_<date>.json); its
content is also the last line printed, with ``infer_fp32_vs_torchvision`` and so on, ratios of clips
a second by the clock (above 1: ours is faster), and ``train_memory_vs_torchvision`` (below 1: ours
takes less).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.alone import run_alone
from benchmarks.contenders import COMPILED, EAGER, build_all, build_one, differences
from benchmarks.operations import MODELS, linear_shapes, need, published_input
from benchmarks.passes import CHECKPOINTING, MODES, Case, work_of
from benchmarks.rates import DTYPES, copy_bandwidth, has_bf16, product_rates
from benchmarks.record import keep_record, script_parser, version_of
from benchmarks.timing import Rounds, measured, median, seconds_per_round

# Where bfloat16 is emulated: a training step of torchvision takes seconds, not ten minutes.
SMALL_CLIP = (4, 96, 96)
MOST_CLIPS = 256  # tried on CUDA
LEAST_GAIN = 1.02  # in clips a second, or twice the batch is not worth it
CLIPS_OF_PRODUCTS = {"cpu": 1, "cuda": 4}  # rows of the matrix products whose rate counts
ROUNDS = {"infer": Rounds(40, 5, 15), "train": Rounds(90, 5, 15)}
QUICK_ROUNDS = {"infer": Rounds(10, 3, 9), "train": Rounds(24, 3, 9)}
STEPS_OF_MEMORY = 2  # after the first; the peak depends on what drop path drops


class Machine:
    """The rates of a device, and so the floors.

    Attributes:
        rates: by precision and shape of the linear layer, operations a second.
        bandwidth: bytes a second.
    """

    def __init__(self, size: str, device: torch.device) -> None:
        self.bandwidth = copy_bandwidth(device)
        self.rates = {}
        for precision in DTYPES:
            shapes = linear_shapes(size, input_size_of(size, precision, device))
            clips = CLIPS_OF_PRODUCTS[device.type]
            shapes = [(clips * rows, width, width_out) for rows, width, width_out in shapes]
            self.rates[precision] = product_rates(shapes, precision, device)

    def rate(self, precision: str) -> float:
        """The best for products in a precision; float32 units can compute bfloat16, too."""
        precisions = DTYPES if precision == "bf16" else (precision,)
        return max(max(self.rates[name].values()) for name in precisions)

    def floor_s(self, case: Case) -> float:
        """The least seconds for one pass over the batch of a case."""
        least = need(
            case.size, case.mode, case.precision, input_size=case.input_size, batch=case.batch
        )
        return least.floor_s(self.rate(case.precision), self.bandwidth)

    def summary(self) -> dict[str, Any]:
        products = {}
        for precision, rates in self.rates.items():
            best, worst = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
            products[precision] = {
                "best_gflop_per_s": round(rates[best] / 1e9, 1),
                "best_shape": best,
                "worst_gflop_per_s": round(rates[worst] / 1e9, 1),
                "worst_shape": worst,
            }
        return {"products": products, "copy_gb_per_s": round(self.bandwidth / 1e9, 1)}


def input_size_of(size: str, precision: str, device: torch.device) -> tuple[int, int, int]:
    """The pixels (T, H, W) that a precision is measured on."""
    return published_input(size) if precision == "fp32" or has_bf16(device) else SMALL_CLIP


def compare(
    models: Mapping[str, nn.Module],
    cases: Mapping[str, Case],
    machine: Machine,
    rounds: Rounds,
) -> dict[str, dict[str, Any]]:
    """Run contenders in turns.

    Args:
        models: by name.
        cases: what each of them runs; they differ in the batch only.
        machine: whose floors count.
        rounds: how many.

    Returns:
        For each its seconds for a batch, clips a second and what its floor is of its time.
    """
    works = {name: work_of(model, cases[name]) for name, model in models.items()}
    taken = seconds_per_round(works, rounds, next(iter(cases.values())).device)
    rows = {}
    for name, case in cases.items():
        clock_s, floor_s = median(taken[name], "clock"), machine.floor_s(case)
        rows[name] = {
            "batch": case.batch,
            "clock_s": round(clock_s, 5),
            "cpu_s": round(median(taken[name], "cpu"), 5),
            "clips_per_s": round(case.batch / clock_s, 4),
            "floor_s": round(floor_s, 6),
            "fraction_of_floor": round(floor_s / clock_s, 4),
            "num_rounds": len(taken[name]),
        }
    return rows


def tuned_batch(name: str, case: Case) -> int:
    """The power of two after which twice as many clips a batch are no faster each."""
    best, best_rate = 1, 0.0
    batch = 1
    while batch <= MOST_CLIPS:
        rate = _rate_with(name, replace(case, batch=batch))
        torch.cuda.empty_cache()
        if rate < LEAST_GAIN * best_rate:
            break
        best, best_rate = batch, rate
        batch *= 2
    return best


def _rate_with(name: str, case: Case) -> float:
    """Clips a second, roughly; 0 where the batch does not fit into memory."""
    try:
        work = work_of(build_one(name, case), case)
        work()
        return case.batch / min(measured(work, case.device).clock for _ in range(3))
    except torch.cuda.OutOfMemoryError:
        return 0.0


def batches(names: Sequence[str], case: Case, batch: int | None) -> dict[str, Case]:
    """The case of each contender: with the batch given, or else 1 on a CPU and tuned on CUDA."""
    if batch is None and case.device.type == "cuda":
        tuned = {name: tuned_batch(name, case) for name in names if name not in COMPILED}
        return {name: replace(case, batch=tuned[COMPILED.get(name, name)]) for name in names}
    return {name: replace(case, batch=batch or 1) for name in names}


def published_floors(machine: Machine, device: torch.device) -> dict[str, Any]:
    """For one clip of each published model: operations, least bytes and the floors."""
    floors: dict[str, Any] = {}
    for size in MODELS:
        for mode in MODES:
            row: dict[str, Any] = {}
            for precision in DTYPES:
                case = Case(size, published_input(size), mode, precision, device=device)
                least = need(size, mode, precision, input_size=case.input_size)
                row["gflop"] = round(least.operations / 1e9, 1)
                row[f"gb_{precision}"] = round(least.bytes / 1e9, 3)
                row[f"floor_{precision}_s"] = round(machine.floor_s(case), 5)
            floors[f"{size}_{mode}"] = row
    return floors


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for."""
    device = torch.device(given.device)
    names = ["ours", "torchvision"] if given.quick else list(EAGER)
    names += COMPILED if given.compile else []
    machine = Machine(given.model, device)
    print(f"the machine: {machine.summary()}", flush=True)
    rounds = QUICK_ROUNDS if given.quick else ROUNDS
    speed: dict[str, Any] = {}
    apart, memory = {}, {}
    for precision in given.precision:
        size = input_size_of(given.model, precision, device)
        case = Case(
            given.model,
            size,
            "infer",
            precision,
            device=device,
            checkpointing=given.checkpointing,
        )
        for mode in MODES:
            cases = batches(names, replace(case, mode=mode), given.batch)
            models = build_all(cases)
            if mode == "infer":
                apart[precision] = differences(models, cases)
                print(
                    f"{precision}: logits apart from torchvision's {apart[precision]}", flush=True
                )
            speed[f"{mode}_{precision}"] = compare(models, cases, machine, rounds[mode])
            for name, row in speed[f"{mode}_{precision}"].items():
                print(f"{mode:5s} {precision} {name:20s} {row}", flush=True)
        is_first = precision == given.precision[0]
        if size == published_input(given.model) and (is_first or not given.quick):
            memory[f"train_{precision}"] = peak_memory(names, cases)
            print(f"peak memory, train {precision}: {memory[f'train_{precision}']}", flush=True)
    return {
        **ratios(speed, memory),
        "model": given.model,
        "device": given.device,
        "input_size": list(published_input(given.model)),
        "bf16_in_hardware": has_bf16(device),
        "bf16_input_size": list(input_size_of(given.model, "bf16", device)),
        "checkpointing": given.checkpointing,
        "speed": speed,
        "peak_mb": memory,
        "logits_apart": apart,
        "rates": machine.summary(),
        "published": published_floors(machine, device),
        "on": what_it_runs_on(device),
    }


def peak_memory(names: Sequence[str], cases: Mapping[str, Case]) -> dict[str, float]:
    """Of a training step of each contender that is not compiled, in 1e6 bytes, at one batch."""
    batch = min(case.batch for case in cases.values())
    return {
        name: run_alone(name, replace(cases[name], batch=batch), num_runs=STEPS_OF_MEMORY)[
            "peak_mb"
        ]
        for name in names
        if name not in COMPILED
    }


def ratios(speed: Mapping[str, Any], memory: Mapping[str, Any]) -> dict[str, float]:
    """Ours against torchvision's, not compiled: clips a second, CPU time, and peak memory."""
    told = {}
    for key, rows in speed.items():
        ours, theirs = rows["ours"], rows["torchvision"]
        told[f"{key}_vs_torchvision"] = round(ours["clips_per_s"] / theirs["clips_per_s"], 3)
        per_clip = (theirs["cpu_s"] / theirs["batch"]) / (ours["cpu_s"] / ours["batch"])
        told[f"{key}_vs_torchvision_in_cpu_time"] = round(per_clip, 3)
    if memory:
        peaks = next(iter(memory.values()))
        told["train_memory_vs_torchvision"] = round(peaks["ours"] / peaks["torchvision"], 3)
    return told


def what_it_runs_on(device: torch.device) -> dict[str, Any]:
    """Return what ``record.machine`` does not say."""
    if device.type == "cuda":
        return {"gpu": torch.cuda.get_device_name(device), "triton": version_of("triton")}
    return {"cpu_instructions": torch.backends.cpu.get_cpu_capability()}


def options_of(given: argparse.Namespace) -> list[str]:
    """The words of the command line that matter for the figures."""
    words = ["--quick"] if given.quick else []
    words += ["--model", given.model] if given.model != "S" else []
    words += ["--device", given.device] if given.device != "cpu" else []
    words += ["--precision", *given.precision] if given.precision != list(DTYPES) else []
    words += ["--batch", str(given.batch)] if given.batch else []
    words += ["--compile"] if given.compile else []
    words += ["--checkpointing", given.checkpointing] if given.checkpointing != "none" else []
    return words


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__doc__, quick="without plain, with fewer rounds")
    parser.add_argument("--model", choices=MODELS, default="S")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--batch", type=int, help="clips; else 1 on a CPU, tuned on CUDA")
    parser.add_argument("--compile", action="store_true", help="compiled contenders, too")
    parser.add_argument(
        "--checkpointing", choices=CHECKPOINTING, default="none", help="torchvision: whole blocks"
    )
    given = parser.parse_args(words)
    case = "quick" if given.quick else f"{given.model}_{torch.device(given.device).type}"
    keep_record("model", measure(given), given.results, options=options_of(given), case=case)
    return 0


if __name__ == "__main__":
    sys.exit(main())
