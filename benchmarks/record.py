"""Result files of the benchmarks: JSON with the figures, the command and the machine."""

from __future__ import annotations

import argparse
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

RESULTS = Path(__file__).resolve().parent / "results"


def script_parser(description: str | None, *, quick: str = "") -> argparse.ArgumentParser:
    """The options that the scripts share.

    Args:
        description: docstring of the script.
        quick: help of ``--quick``; no such option where it is empty.
    """
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    if quick:
        parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def keep_record(
    benchmark: str,
    numbers: Mapping[str, Any],
    folder: Path,
    *,
    options: Sequence[str] = (),
    case: str = "",
) -> dict[str, Any]:
    """Write ``<benchmark>_<date>.json`` with the figures and the machine, and print it in one line.

    Needs torch alone, as the models do, so that a bare GPU node can run a benchmark.

    Args:
        benchmark: name of the script, without its suffix.
        numbers: the figures.
        folder: of the result file.
        options: words of the command line that matter for the figures.
        case: comes into the file's name, ``<benchmark>_<case>_<date>.json``, where one script has
            several results a day.
    """
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    command = " ".join(["python", f"benchmarks/{benchmark}.py", *options])
    record = {"benchmark": benchmark, "date": today, "command": command, **numbers}
    record["machine"] = machine()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ("_".join(word for word in (benchmark, case, today) if word) + ".json")
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))
    return record


def newest_result(folder: Path, pattern: str) -> dict[str, Any]:
    """The newest result file of a folder with such a name.

    Raises:
        FileNotFoundError: there is none.
    """
    results = sorted(folder.glob(pattern))
    if not results:
        raise FileNotFoundError(f"{folder}: no {pattern}; run that benchmark first")
    record: dict[str, Any] = json.loads(results[-1].read_text())
    return record


def machine() -> dict[str, Any]:
    """The hardware and the versions that a result belongs to."""
    import slowfast_mvit  # here: profile_model.py chooses another version of it first

    return {
        "cpu": _cpu_model(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version_of(name) for name in ("torchvision", "av", "numpy")},
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
