"""Folders and annotation files for the tests of the scripts that write lists."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np

HEADER = "label,youtube_id,time_start,time_end,split\n"


def put(root: Path, *names: str, content: bytes = b"not empty") -> None:
    """Make files of this content, and their folders."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def rows(file: Path) -> list[dict[str, str]]:
    """The rows of missing.csv or extra.csv."""
    with open(file, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def reasons(out: Path) -> dict[str, str]:
    """The reason in missing.csv of each video, or of each file passed over."""
    return {
        row["path"] if row["reason"] in ("overridden", "second file") else row["video"]: row[
            "reason"
        ]
        for row in rows(out / "missing.csv")
    }


def listed(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def summary(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return content


def adds_up(out: Path) -> bool:
    """Return whether each annotated video is either listed or in missing.csv, in all splits."""
    of_files = ("overridden", "second file")
    return all(
        counts["annotated"]
        == counts["listed"]
        + sum(number for reason, number in counts["left_out"].items() if reason not in of_files)
        for counts in summary(out)["splits"].values()
    )


def all_bytes(out: Path, names: Iterable[str]) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in names}


def put_video(file: Path, num_frames: int = 8) -> Path:
    """Make a video of grey frames that can be decoded."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for level in range(num_frames):
            image = np.full((32, 32, 3), 16 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return file
