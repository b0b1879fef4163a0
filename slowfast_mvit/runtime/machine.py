"""The hardware and the versions that a result belongs to. Needs torch alone."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import torch

from slowfast_mvit import __version__


def describe_machine(device: torch.device) -> str:
    """Return a device with its system, such as "NVIDIA H200, 16 cores, Linux x86_64"."""
    is_cpu = device.type == "cpu"
    name = cpu_model() if is_cpu else torch.cuda.get_device_name(device)
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def describe_versions() -> str:
    """Return the versions of the package, of Python, and of what decodes and computes."""
    others = [f"{name} {version}" for name in ("numpy", "av") if (version := version_of(name))]
    own = [f"slowfast_mvit {__version__}", f"torch {torch.__version__}"]
    return ", ".join([*own, *others, f"Python {platform.python_version()}"])


def cpu_model() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.*)$", info.read_text() if info.exists() else "", re.M)
    return name[1].strip() if name else platform.processor()


def version_of(package: str) -> str | None:
    """Return the installed version; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
