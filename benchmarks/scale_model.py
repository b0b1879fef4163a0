#!/usr/bin/env python3
"""How fast a Kinetics run should be on 8 to 1,024 GPUs. Worked out, not measured: nobody ran it.

From the time of a step on one GPU, the bytes of the parameters and the speed of the links follow
the time of a step under DDP and FSDP2, the videos that each node must read, and the hours of the
run. The batch of a GPU is that of the recipe, whatever their number.

    step on one GPU   --step-ms, measured by you; else *assumed*: FLOPs / (--peak-tflops x
                      --utilisation), 2 FLOPs x multiply-adds x 3 for forward and backward (x 4
                      with activation checkpointing)
    all-reduce        2 (n-1)/n x bytes / bandwidth, by the GPUs of a node over --nvlink-gb-s first,
                      then by the nodes over --network-gbps; hops 2 (n-1) in a ring, or
                      2 ceil(log2 n) in a tree between the nodes, where that is less, as NCCL picks
    all-gather        (n-1)/n x bytes / bandwidth of the slowest link in one ring of n GPUs, n-1
                      hops, one of them from each node to the next; reduce-scatter the same
    DDP               all-reduce of float32 gradients in pieces of 25 MiB
    FSDP2             parameters gathered twice (forward, backward), those of linear layers in
                      bfloat16, the others in float32; float32 gradients scattered; in two pieces
                      for each block
    hidden            a share --overlap of the computation that goes on meanwhile; the first or last
                      piece never is

Left out: slow nodes and waiting for the slowest, other traffic, the optimizer's share of a GPU
that FSDP2 makes smaller, validation, checkpoints, starts.

    python benchmarks/scale_model.py                          # the published recipe of S
    python benchmarks/scale_model.py --model B --step-ms 85   # measured on your GPU

Prints Markdown, which docs/clusters.md shows, and what was measured: the step on a CPU core, from
the newest result of end_to_end.py. Then one JSON object as its last line, which it also writes to
benchmarks/results/scale_model_<date>.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.communication import STRATEGIES, Links, Work
from benchmarks.record import RESULTS, keep_record
from slowfast_mvit.config import load_config
from slowfast_mvit.models.variants import VARIANTS, create_model

KINETICS = Path(__file__).resolve().parents[1] / "configs" / "Kinetics"
NUM_GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Model:
    """A recipe under ``configs/Kinetics``.

    Attributes:
        config: its file.
        variant: key of ``models.variants.VARIANTS``.
        decoding: the case of benchmarks/loader.py with its clips; None where none was measured.
    """

    config: str
    variant: str
    decoding: str | None


MODELS = {
    "S": Model("MVITv2_S_16x4.yaml", "mvitv2_s_16x4", "train_16x4"),
    "B": Model("MVITv2_B_32x3.yaml", "mvitv2_b_32x3", "train_32x3"),
    "L": Model("MVITv2_L_40x3.yaml", "mvitv2_l_40x3", None),
}


def step_flops(gflops: float, num_clips: int, passes: int) -> float:
    """Floating-point operations of a step; ``gflops`` are 1e9 multiply-adds of a forward pass."""
    return 2 * 1e9 * gflops * passes * num_clips


@dataclass(frozen=True)
class Run:
    """The videos of a run.

    Attributes:
        num_videos: of the training list.
        epochs: passes over it.
        views: clips made of each video of a batch (AUG.NUM_SAMPLE).
        clips_per_gpu: clips of each GPU in a step.
        file_mb: size of a video file, in 1e6 bytes.
        core_ms: CPU milliseconds for the clips of one video, by way of making them.
    """

    num_videos: int
    epochs: int
    views: int
    clips_per_gpu: int
    file_mb: float
    core_ms: Mapping[str, float]


def plan(work: Work, run: Run, links: Links, num_gpus: int) -> dict[str, Any]:
    """One row of the table."""
    videos = num_gpus * run.clips_per_gpu / run.views
    row: dict[str, Any] = {"gpus": num_gpus, "nodes": links.nodes(num_gpus)}
    row["videos_per_step"] = videos
    for name, step_s_of in STRATEGIES.items():
        step_s = step_s_of(work, links, num_gpus)
        row[name] = {
            "step_ms": 1e3 * step_s,
            "efficiency": work.step_s / step_s,
            "hours": run.epochs * math.ceil(run.num_videos / videos) * step_s / 3600,
        }
    # DDP is the faster of the two for models that fit on one GPU, so its rate must be met.
    rate = videos / row["nodes"] / (row["ddp"]["step_ms"] / 1e3)
    row["videos_per_s_per_node"] = rate
    row["mb_per_s_per_node"] = rate * run.file_mb
    row["cores_per_node"] = {way: rate * ms / 1e3 for way, ms in run.core_ms.items()}
    return row


def markdown(rows: Sequence[Mapping[str, Any]], ways: Sequence[str]) -> str:
    """The rows as a table."""
    heads = ["GPUs", "videos a step", "DDP: step", "efficiency", "hours"]
    heads += ["FSDP2: step", "efficiency", "hours", "read by a node"]
    heads += [f"cores of a node, {way}" for way in ways]
    lines = [heads, ["---:"] * len(heads)]
    for row in rows:
        cells = [f"{row['gpus']:,}", f"{row['videos_per_step']:,.0f}"]
        for name in STRATEGIES:
            figures = row[name]
            cells += [f"{figures['step_ms']:,.1f} ms", f"{100 * figures['efficiency']:.0f} %"]
            cells += [f"{figures['hours']:,.1f}"]
        cells += [
            f"{row['videos_per_s_per_node']:,.0f} videos/s, {row['mb_per_s_per_node']:,.0f} MB/s"
        ]
        cells += [f"{row['cores_per_node'][way]:,.0f}" for way in ways]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# What is known of a model and of the machine


def make_work(given: argparse.Namespace) -> tuple[Work, str]:
    """A GPU's part of a step, and in words where its time comes from."""
    model, config = MODELS[given.model], load_config(KINETICS / MODELS[given.model].config)
    variant = VARIANTS[model.variant]
    passes = 4 if config.model.act_checkpoint is True else 3
    flops = step_flops(variant.gflops, given.clips_per_gpu, passes)
    if given.step_ms is not None:
        step_s, source = given.step_ms / 1e3, "as given with --step-ms"
    else:
        step_s = flops / (1e12 * given.peak_tflops * given.utilisation)
        source = (
            f"**assumed, not measured**: {flops / 1e12:.2f} TFLOP at {given.utilisation:.0%} of "
            f"{given.peak_tflops:g} TFLOP/s"
        )
    with torch.device("meta"):
        blocks = create_model(model.variant).blocks
    num_linear = sum(
        parameter.numel()
        for layer in blocks.modules()
        if isinstance(layer, nn.Linear)
        for parameter in layer.parameters()
    )
    work = Work(step_s, passes, variant.num_params, num_linear, len(blocks), given.overlap)
    return work, source


def decode_costs(result: Path, decoding: str | None) -> dict[str, float]:
    """CPU milliseconds of a video's clips: PySlowFast's order on files as they come, and the
    quickest way we have, on prepared files.
    """
    if decoding is None:
        return {}
    measured = json.loads(result.read_text())["cpu_ms_per_video"]
    return {
        "exact, files as they come": measured[decoding]["exact"],
        "fused, prepared files": measured[f"prepared_{decoding}"]["fused"],
    }


def cpu_step(folder: Path) -> dict[str, Any] | None:
    """Seconds of one core for a clip of MViTv2-S, of the newest result of end_to_end.py."""
    results = sorted(folder.glob("end_to_end_*.json"))
    if not results:
        return None
    clips_per_s = json.loads(results[-1].read_text())["s_16x4"]["bare_clips_per_cpu_s"]
    return {"s_per_clip": round(1 / clips_per_s, 1), "result": results[-1].name}


def assumptions(given: argparse.Namespace, work: Work, source: str, run: Run) -> str:
    """What the table rests on, one item a line."""
    lines = [
        f"MViTv2-{given.model}, {work.num_params:,} parameters, {run.clips_per_gpu} clips a GPU "
        f"in a step, {run.views} of a video, {run.num_videos:,} videos, {run.epochs} epochs",
        f"a step on one GPU: {1e3 * work.step_s:.1f} ms, {source}",
        f"links: {given.gpus_per_node} GPUs a node, {given.nvlink_gb_s:g} GB/s a GPU and "
        f"{given.nvlink_us:g} µs a hop inside, {given.network_gbps:g} Gbit/s a node and "
        f"{given.network_us:g} µs a hop between nodes, each way",
        f"{given.overlap:.0%} of the computation hides communication; the first or last piece is "
        "always seen; nobody is slow, nothing else uses the links",
        f"a file of {run.file_mb:g} MB is read whole, as fast as DDP needs it",
    ]
    if run.core_ms:
        costs = "; ".join(f"{ms:.1f} ms {way}" for way, ms in run.core_ms.items())
        lines.append(f"CPU for the views of a video, measured ({given.decode_costs.name}): {costs}")
    return "\n".join(f"- {line}" for line in lines)


def options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", choices=MODELS, default="S", help="size; the recipe is that of configs/Kinetics")
    add("--step-ms", type=float, help="a step on one GPU, measured; default: assumed from FLOPs")
    add("--peak-tflops", type=float, default=312, help="of the GPU in bfloat16 (A100's data sheet)")
    add("--utilisation", type=float, default=0.25, help="share of that peak, an assumption")
    add("--clips-per-gpu", type=int, help="clips of a GPU in a step; default: the recipe's")
    add("--gpus-per-node", type=int, default=8)
    add("--nvlink-gb-s", type=float, default=300, help="of a GPU, each way (A100's data sheet)")
    add("--network-gbps", type=float, default=400, help="of a node, each way")
    add("--nvlink-us", type=float, default=3, help="one hop inside a node, an assumption")
    add("--network-us", type=float, default=10, help="one hop between nodes, an assumption")
    add("--overlap", type=float, default=0.8, help="share of the computation that hides traffic")
    add("--videos", type=int, default=240_000, help="training list; copies of K400 differ")
    add("--epochs", type=int, help="default: the recipe's")
    add("--file-mb", type=float, default=0.7, help="a video, 10 s with a short side of 256")
    add("--decode-costs", type=Path, help="a result file of loader.py; default: the newest")
    add("--results", type=Path, default=RESULTS, help="folder of the result file")
    given = parser.parse_args(words)
    given.decode_costs = given.decode_costs or max(RESULTS.glob("loader_*.json"))
    return given


def words_that_matter(given: argparse.Namespace) -> list[str]:
    """The command line with every number that the plan rests on."""
    left_out = ("results", "decode_costs")
    values = {name: value for name, value in vars(given).items() if name not in left_out}
    return [
        word
        for name, value in values.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Print the plan; returns the exit status."""
    given = options(words)
    config = load_config(KINETICS / MODELS[given.model].config)
    if given.clips_per_gpu is None:
        clips = config.train.batch_size * config.aug.num_sample
        given.clips_per_gpu = clips // config.num_gpus
    work, source = make_work(given)
    run = Run(
        num_videos=given.videos,
        epochs=given.epochs or config.solver.max_epoch,
        views=config.aug.num_sample,
        clips_per_gpu=given.clips_per_gpu,
        file_mb=given.file_mb,
        core_ms=decode_costs(given.decode_costs, MODELS[given.model].decoding),
    )
    links = Links(
        given.gpus_per_node,
        given.nvlink_gb_s,
        given.network_gbps,
        given.nvlink_us,
        given.network_us,
    )
    rows = [plan(work, run, links, num_gpus) for num_gpus in NUM_GPUS]
    on_cpu = cpu_step(RESULTS)
    print(assumptions(given, work, source, run), markdown(rows, list(run.core_ms)), sep="\n\n")
    if on_cpu is not None:
        print(
            f"\nMeasured: a training step of MViTv2-S takes {on_cpu['s_per_clip']} s a clip on one "
            f"CPU core, in float32 ({on_cpu['result']})"
        )
    keep_record(
        "scale_model",
        {
            "step_is_assumed": given.step_ms is None,
            "measured_on_one_cpu_core": on_cpu,
            "work": asdict(work),
            "links": asdict(links),
            "run": asdict(run),
            "rows": rows,
        },
        given.results,
        options=words_that_matter(given),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
