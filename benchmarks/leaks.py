#!/usr/bin/env python3
"""Leaks of memory, threads or descriptors in the readers: opens and reads 10,000 times.

Each reader runs in a process of its own, once with Python's garbage collector and once without,
as training loops that freeze it do. Every hundredth file is cut short, so that the way out of an
error is measured as well.

    python benchmarks/leaks.py                      # about 10 minutes
    python benchmarks/leaks.py --quick              # 1,500 times: about 2 minutes
    python benchmarks/leaks.py --readers pyav       # only these

Growth counts from the first tenth on, when every library has filled its pools; pools fill up for
some time after, so memory that does not grow in the second half is the sign. Writes
benchmarks/results/leaks_<date>.json; its content is also the last line printed.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.processes import in_fresh_process, memory_mb
from benchmarks.record import keep_record, script_parser
from slowfast_mvit.data.video.readers import AUTO_READERS, open_reader, working_reader
from slowfast_mvit.errors import ConfigError, DecodeError

NUM_OPENS = 10_000
NUM_OPENS_QUICK = 1_500


def write_files(folder: Path) -> tuple[Path, Path]:
    """A video of 30 frames of 128 x 96 pixels, and the same with its end cut off."""
    whole, broken = folder / "whole.mp4", folder / "broken.mp4"
    noise = np.random.Generator(np.random.Philox(key=[20, 0])).integers(0, 255, (96, 160, 3))
    with av.open(str(whole), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for number in range(30):
            image = noise[:, number : number + 128].astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    content = whole.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    return whole, broken


def measure(reader: str, files: tuple[Path, Path], num_opens: int, collect: bool) -> dict[str, Any]:
    """Return what the process holds after each tenth of the openings, and how much that grew."""
    if not collect:
        gc.disable()
    states: list[dict[str, float]] = []
    for number in range(num_opens):
        file = files[number % 100 == 99]
        try:
            with open_reader(file, reader) as video:
                video.frames([0, video.num_frames // 2, video.num_frames - 1])
        except DecodeError:
            if file == files[0]:
                raise
        if (number + 1) % (num_opens // 10) == 0:
            states.append(in_use())
    early, middle, late = states[0], states[4], states[9]
    return {
        **{f"{name}_growth": round(late[name] - early[name], 2) for name in late},
        "rss_mb_growth_of_second_half": round(late["rss_mb"] - middle["rss_mb"], 2),
        "rss_mb": [round(state["rss_mb"], 1) for state in states],
    }


def in_use() -> dict[str, float]:
    """Memory in MB, threads and descriptors of this process; Linux only."""
    return {
        "rss_mb": memory_mb("VmRSS"),
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def measure_all(readers: Sequence[str], num_opens: int) -> dict[str, Any]:
    """By reader, with and without the garbage collector; a fresh process for each."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder))
        for reader in readers:
            for collect in (True, False):
                figure = in_fresh_process(measure, reader, files, num_opens, collect)
                name = f"{reader}_{'with' if collect else 'without'}_gc"
                figures[name] = figure
                print(f"{name:26} {figure}", flush=True)
    return figures


def installed_readers() -> list[str]:
    """The readers that work on this machine."""
    readers = []
    for name in AUTO_READERS:
        try:
            readers.append(working_reader(name))
        except ConfigError as error:
            print(f"left out: {error}")
    return readers


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__doc__, quick=f"open {NUM_OPENS_QUICK:,} times")
    parser.add_argument("--opens", type=int, help=f"how often (default: {NUM_OPENS:,})")
    parser.add_argument("--readers", nargs="+", help="which readers (default: all that work here)")
    given = parser.parse_args(words)
    num_opens = given.opens or (NUM_OPENS_QUICK if given.quick else NUM_OPENS)
    figures = measure_all(given.readers or installed_readers(), num_opens)
    numbers = {"num_opens": num_opens, **figures}
    keep_record("leaks", numbers, given.results, options=["--quick"] if given.quick else [])
    return 0


if __name__ == "__main__":
    sys.exit(main())
