"""Result files of the benchmarks: JSON with the figures, the command and the machine."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import slowfast_mvit
from slowfast_mvit.runtime.machine import cpu_model
from slowfast_mvit.runtime.machine import version_of as version_of

RESULTS = Path(__file__).resolve().parent / "results"


def script_parser(
    file: str, description: str | None, *, quick: str = ""
) -> argparse.ArgumentParser:
    """Return a parser with the options that the scripts share.

    Args:
        file: path of the script.
        description: docstring of the script.
        quick: help of ``--quick``; no such option where it is empty.
    """
    parser = argparse.ArgumentParser(
        f"benchmarks/{Path(file).name}", description=(description or "").splitlines()[0]
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    if quick:
        parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def keep_record(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    numbers: Mapping[str, Any],
    *,
    case: str = "",
) -> None:
    """Write ``<script>_<date>.json`` with the figures and the machine, and print it in one line.

    Needs torch alone, as the models do, so that a bare GPU node can run a benchmark.

    Args:
        parser: the result of ``script_parser``.
        options: the command line.
        numbers: the figures.
        case: part of the file's name, ``<script>_<case>_<date>.json``, where one script has
            several results a day.
    """
    name = Path(parser.prog).stem
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    record = {"benchmark": name, "date": today, "command": command(parser, options), **numbers}
    record["machine"] = machine()
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / ("_".join(word for word in (name, case, today) if word) + ".json")
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))


def command(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """Return the command with the options that differ from the defaults, without paths."""
    words = ["python", parser.prog]
    for name, value in vars(options).items():
        if value != parser.get_default(name) and not isinstance(value, Path):
            values = value if isinstance(value, list) else [value]
            words += [f"--{name}", *(str(one) for one in values if one is not True)]
    return " ".join(words)


def newest_result(folder: Path, pattern: str) -> dict[str, Any]:
    """Read the newest result file of a folder whose name matches a pattern.

    Raises:
        FileNotFoundError: there is none.
    """
    results = sorted(folder.glob(pattern))
    if not results:
        raise FileNotFoundError(f"{folder}: no {pattern}; run that benchmark first")
    record: dict[str, Any] = json.loads(results[-1].read_text())
    return record


def machine() -> dict[str, Any]:
    """Return the hardware and the versions that a result belongs to."""
    return {
        "cpu": cpu_model(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version_of(name) for name in ("torchvision", "av", "numpy")},
        "slowfast_mvit": slowfast_mvit.__version__,
    }


def version_of_ffmpeg() -> str | None:
    """Return the version of the ffmpeg program; None where there is none."""
    if shutil.which("ffmpeg") is None:
        return None
    version = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True)
    return version.stdout.split()[2]
