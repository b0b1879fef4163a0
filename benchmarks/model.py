#!/usr/bin/env python3
"""Speed of the model against torchvision's and against a theoretical lower bound.

Ours, the same with every attention score written out (``plain``) and torchvision's ``mvit_v2_s``
get the same weights and clips, must give the same logits, and alternate in one process: a forward
pass without gradients, and a step of training (cross entropy, backward, AdamW; dropout and drop
path as published), in float32 and in bfloat16 by autocast, as the trainer does it. Medians over
rounds, by the clock on all threads, with CPU time. Peak memory is that of a fresh process for each.

The floor of a pass is the larger of two times: its operations at the best rate of the model's own
matrix products, and its least bytes at the rate of a copy (benchmarks/lower_bounds.py says what
is counted). ``fraction_of_floor`` is the floor over what was measured: 1 is as fast as can be.

A CPU without instructions for bfloat16 computes it step by step; there the bfloat16 passes get a
small clip (``bf16_input_size``), and their floor is that of the faster of the two precisions.

    python benchmarks/model.py --quick         # at most 3 minutes on 2 cores; S, without plain
    python benchmarks/model.py                 # about 10 minutes
    python benchmarks/model.py --compile       # and torch.compile, which takes minutes itself
    python benchmarks/model.py --profile       # and PyTorch's profile of each pass
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
from pathlib import Path
from typing import Any

import torch
from torch import nn

# The code in this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import contenders, lower_bounds
from benchmarks.contenders import CHECKPOINTING, COMPILED, EAGER, MODES, work_of
from benchmarks.lower_bounds import DTYPES, MODELS, Case, Machine, has_bf16, input_size_of
from benchmarks.record import keep_record, script_parser, version_of
from benchmarks.timing import Rounds, measured, median, seconds_per_round

MOST_CLIPS = 256  # tried on CUDA
LEAST_GAIN = 1.02  # in clips a second, or twice the batch is not worth it
ROUNDS = {"infer": Rounds(40, 5, 15), "train": Rounds(90, 5, 15)}
QUICK_ROUNDS = {"infer": Rounds(10, 3, 9), "train": Rounds(24, 3, 9)}
STEPS_OF_MEMORY = 2  # after the first; the peak depends on what drop path drops


def compare(
    models: Mapping[str, nn.Module], cases: Mapping[str, Case], machine: Machine, rounds: Rounds
) -> dict[str, dict[str, Any]]:
    """Run contenders alternately.

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
        print(f"{case.mode:5s} {case.precision} {name:20s} {rows[name]}", flush=True)
    return rows


def print_profiles(models: Mapping[str, nn.Module], cases: Mapping[str, Case]) -> None:
    """Print PyTorch's profile of a pass of each contender, the longest operations first."""
    for name, model in models.items():
        with torch.profiler.profile() as profiler:
            work_of(model, cases[name])()
        print(f"{name}, {cases[name].mode} {cases[name].precision}")
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


def tuned_batch(name: str, case: Case) -> int:
    """Return the power of two after which twice as many clips a batch are no faster each."""
    best, best_rate, batch = 1, 0.0, 1
    while batch <= MOST_CLIPS:
        rate = _rate_with(name, case._replace(batch=batch))
        torch.cuda.empty_cache()
        if rate < LEAST_GAIN * best_rate:
            break
        best, best_rate, batch = batch, rate, 2 * batch
    return best


def _rate_with(name: str, case: Case) -> float:
    """Return clips a second, roughly; 0 where the batch does not fit into memory."""
    try:
        work = work_of(contenders.build_one(name, case), case)
        work()
        return case.batch / min(measured(work, case.device).clock for _ in range(3))
    except torch.cuda.OutOfMemoryError:
        return 0.0


def batches(names: Sequence[str], case: Case, batch: int | None) -> dict[str, Case]:
    """Return the case of each contender: with ``batch``, or else 1 on a CPU and tuned on CUDA."""
    if batch is None and case.device.type == "cuda":
        tuned = {name: tuned_batch(name, case) for name in names if name not in COMPILED}
        return {name: case._replace(batch=tuned[COMPILED.get(name, name)]) for name in names}
    return dict.fromkeys(names, case._replace(batch=batch or 1))


def published_floors(machine: Machine, device: torch.device) -> dict[str, Any]:
    """Return, for one clip of each published model, operations, least bytes and the floors."""
    floors: dict[str, Any] = {}
    for size in MODELS:
        clip = lower_bounds.published_input(size)
        for mode in MODES:
            row = floors[f"{size}_{mode}"] = {}
            for precision in DTYPES:
                case = Case(size, clip, mode, precision, device=device)
                least = lower_bounds.need(case)
                row["gflop"] = round(least.operations / 1e9, 1)
                row[f"gb_{precision}"] = round(least.bytes / 1e9, 3)
                row[f"floor_{precision}_s"] = round(machine.floor_s(case), 5)
    return floors


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line asks for."""
    size, device = options.model, torch.device(options.device)
    names = ["ours", "torchvision"] if options.quick else list(EAGER)
    names += COMPILED if options.compile else []
    machine = Machine(size, device)
    print(f"the machine: {machine.summary()}", flush=True)
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    speed: dict[str, Any] = {}
    apart, memory = {}, {}
    published = lower_bounds.published_input(size)
    for precision in options.precision:
        clip = input_size_of(size, precision, device)
        for mode in MODES:
            case = Case(size, clip, mode, precision, 1, device, options.checkpointing)
            cases = batches(names, case, options.batch)
            models = contenders.build_all(cases)
            if mode == "infer":
                apart[precision] = contenders.differences(models, cases)
                print(f"{precision}: logits differ from torchvision's by {apart[precision]}")
            speed[f"{mode}_{precision}"] = compare(models, cases, machine, rounds[mode])
            if options.profile:
                print_profiles(models, cases)
        is_first = precision == options.precision[0]
        if clip == published and (is_first or not options.quick):
            memory[f"train_{precision}"] = peak_memory(names, cases)
            print(f"peak memory, train {precision}: {memory[f'train_{precision}']}", flush=True)
    on: dict[str, Any] = {"cpu_instructions": torch.backends.cpu.get_cpu_capability()}
    if device.type == "cuda":
        on = {"gpu": torch.cuda.get_device_name(device), "triton": version_of("triton")}
    return {
        **ratios(speed, memory),
        "model": size,
        "device": options.device,
        "input_size": list(published),
        "bf16_in_hardware": has_bf16(device),
        "bf16_input_size": list(input_size_of(size, "bf16", device)),
        "checkpointing": options.checkpointing,
        "speed": speed,
        "peak_mb": memory,
        "logits_apart": apart,
        "rates": machine.summary(),
        "published": published_floors(machine, device),
        "on": on,
    }


def peak_memory(names: Sequence[str], cases: Mapping[str, Case]) -> dict[str, float]:
    """Measure a training step of each eager contender, in 1e6 bytes, at the smallest batch."""
    batch = min(case.batch for case in cases.values())
    peaks = {}
    for name in (name for name in names if name not in COMPILED):
        case = cases[name]._replace(batch=batch)
        peaks[name] = contenders.run_alone(name, case, num_runs=STEPS_OF_MEMORY)["peak_mb"]
    return peaks


def ratios(speed: Mapping[str, Any], memory: Mapping[str, Any]) -> dict[str, float]:
    """Compare ours with torchvision's, both eager: clips a second, CPU time, and peak memory."""
    result = {}
    for key, rows in speed.items():
        ours, theirs = rows["ours"], rows["torchvision"]
        per_clip = (theirs["cpu_s"] / theirs["batch"]) / (ours["cpu_s"] / ours["batch"])
        result[f"{key}_vs_torchvision"] = round(ours["clips_per_s"] / theirs["clips_per_s"], 3)
        result[f"{key}_vs_torchvision_in_cpu_time"] = round(per_clip, 3)
    for peaks in list(memory.values())[:1]:
        result["train_memory_vs_torchvision"] = round(peaks["ours"] / peaks["torchvision"], 3)
    return result


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__file__, __doc__, quick="without plain, with fewer rounds")
    parser.add_argument("--model", choices=MODELS, default="S")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--batch", type=int, help="clips; else 1 on a CPU, tuned on CUDA")
    parser.add_argument("--compile", action="store_true", help="compiled contenders, too")
    parser.add_argument("--profile", action="store_true", help="print PyTorch's profiles, too")
    parser.add_argument(
        "--checkpointing", choices=CHECKPOINTING, default="none", help="torchvision: whole blocks"
    )
    options = parser.parse_args(words)
    case = "quick" if options.quick else f"{options.model}_{torch.device(options.device).type}"
    keep_record(parser, options, measure(options), case=case)
    return 0


if __name__ == "__main__":
    sys.exit(main())
