"""What the benchmarks leave behind: a JSON file with the figures and where they come from."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import slowfast_mvit
from slowfast_mvit.storage import write_text_atomically

RESULTS = Path(__file__).resolve().parent / "results"


def keep_record(
    benchmark: str, numbers: Mapping[str, Any], folder: Path, *, options: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``<benchmark>_<date>.json`` with the figures and the machine, and print it in one line.

    Args:
        benchmark: name of the script, without its suffix.
        numbers: the figures.
        folder: of the result file.
        options: words of the command line that matter for the figures.
    """
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    command = " ".join(["python", f"benchmarks/{benchmark}.py", *options])
    record = {"benchmark": benchmark, "date": today, "command": command, **numbers}
    record["machine"] = machine()
    write_text_atomically(folder / f"{benchmark}_{today}.json", json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))
    return record


def machine() -> dict[str, Any]:
    """The hardware and the versions that a result belongs to."""
    return {
        "cpu": _cpu_model(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version_of(name) for name in ("av", "numpy")},
        "slowfast_mvit": slowfast_mvit.__version__,
    }


def version_of(package: str) -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def version_of_ffmpeg() -> str | None:
    """The version of the ffmpeg program; None where there is none."""
    try:
        told = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.split()[2]


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
