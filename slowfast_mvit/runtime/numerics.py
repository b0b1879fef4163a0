"""The numerics of this process: what decides the last bits of results, besides config and data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("numpy", "av", "torchcodec", "decord")  # draws and decoders
VARIABLES = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "NVIDIA_TF32_OVERRIDE")


def numerics_of(device: torch.device) -> dict[str, str]:
    """Return versions, processor and flags by name, as text.

    Args:
        device: of the model. Videos are decoded on the CPU, so that counts too.
    """
    gpu = "none"
    if device.type == "cuda":
        gpu = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
        gpu += f", cuDNN {torch.backends.cudnn.version()}"
    flags = {
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 products": torch.get_float32_matmul_precision(),
        "TF32 in cuDNN": torch.backends.cudnn.allow_tf32,
        "cuDNN benchmark": torch.backends.cudnn.benchmark,
        "reduced sums in fp16": torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
        "reduced sums in bf16": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
    }
    return {
        "torch": str(torch.__version__),
        **{name: _version(name) for name in PACKAGES},
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "CPU threads": str(torch.get_num_threads()),
        "GPU": gpu,
        **{name: str(value) for name, value in flags.items()},
        **{name: os.environ.get(name, "not set") for name in VARIABLES},
    }


def changes_of(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a line for each value that has changed; values of one side alone are not compared."""
    return [
        f"{name}: {before[name]} -> {now[name]}"
        for name in now
        if name in before and before[name] != now[name]
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
