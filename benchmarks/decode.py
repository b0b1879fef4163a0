#!/usr/bin/env python3
"""CPU time of reading the frames of a clip: ours, others, and plain decoding as a lower bound.

All read the same random frames of the same files and alternate, on one thread each.

    ours          the default reader: skips frames that are not needed where it can
    pyslowfast    the whole window decoded and converted to RGB, once for each view
    torchcodec    VideoDecoder(...).get_frames_at(...)              (left out where not installed)
    floor_program the ffmpeg program, one thread, key frame to last wanted frame, to nothing, less
                  its start; "decoding_only" also without opening the file and its first frame
    floor_libav   the same with the libraries inside PyAV

    python benchmarks/decode.py                # about 10 minutes
    python benchmarks/decode.py --quick        # at most 3 minutes on 2 cores

Writes benchmarks/results/decode_<date>.json; its content is also the last line printed.
``read_16x4_over_floor`` is ours over the floor that ``floor`` names: below 1, less than decoding
all frames costs.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# The code beside this file, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import floors, pyslowfast_way
from benchmarks.record import keep_record, script_parser, version_of, version_of_ffmpeg
from benchmarks.timing import Way, cpu_ms_per_item, in_process
from benchmarks.videos import SEED, make_videos, prepare_videos
from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.data.views.sampling import eval_indices, train_indices
from slowfast_mvit.randomness import TEMPORAL, generator
from slowfast_mvit.structures import ClipSpec

CLIP = ClipSpec(num_frames=16, sampling_rate=4)

CACHE = Path(tempfile.gettempdir()) / "slowfast_mvit_benchmark"


@dataclass(frozen=True)
class Case:
    """A case of reading.

    Attributes:
        kind: of the files: "kinetics" or "prepared".
        num_clips: test clips; 0 for one random training clip.
    """

    kind: str
    num_clips: int = 0


CASES = {
    "train_16x4": Case("kinetics"),
    "test_5_clips_1_crop": Case("kinetics", num_clips=5),
    "prepared_train_16x4": Case("prepared"),
    "prepared_test_5_clips_1_crop": Case("prepared", num_clips=5),
}


@dataclass(frozen=True)
class Wanted:
    """The frames of one video that a case needs.

    Attributes:
        path: the file.
        clips: frame numbers of each clip.
        draw: number of the item, which decides what is drawn for it.
    """

    path: Path
    clips: tuple[tuple[int, ...], ...]
    draw: int

    @property
    def indices(self) -> list[int]:
        """All of them, each once, rising."""
        return sorted(set().union(*self.clips))


def wanted_frames(case: Case, path: Path, draw: int) -> Wanted:
    """The frames that a case needs of a file."""
    with open_reader(path) as reader:
        if case.num_clips:
            clips = eval_indices(CLIP, reader.num_frames, reader.fps, case.num_clips)
        else:
            rng = generator(SEED, 0, draw, TEMPORAL)
            clips = [train_indices(CLIP, reader.num_frames, reader.fps, rng)]
    return Wanted(path, tuple(map(tuple, clips)), draw)


def read_ours(wanted: Wanted) -> object:
    """One opening, one pass."""
    with open_reader(wanted.path) as reader:
        return reader.frames(wanted.indices)


def read_as_pyslowfast(wanted: Wanted) -> object:
    """Each clip opens the file and decodes its window."""
    return [pyslowfast_way.read_clip(wanted.path, clip) for clip in wanted.clips]


def read_with_torchcodec(wanted: Wanted) -> object:
    """As its documentation shows: exact seeking, one thread."""
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(str(wanted.path)).get_frames_at(indices=wanted.indices).data


def ways_to_read(case: Case, files: Sequence[Path]) -> dict[str, Way[Wanted]]:
    """Each way that is installed, by name."""
    ways: dict[str, Way[Wanted]] = {
        "ours": in_process(read_ours),
        "pyslowfast": in_process(read_as_pyslowfast),
    }
    if has_torchcodec():
        ways["torchcodec"] = in_process(read_with_torchcodec)
    ways["floor_libav"] = in_process(lambda item: floors.libav_floor(item.path, item.indices))
    if floors.has_program():
        ways["floor_program"] = lambda item: floors.program_floor_ms(item.path, item.indices)
        ways["floor_program_decoding_only"] = lambda item: floors.program_floor_ms(
            item.path, item.indices, decoding_only=True
        )
    return ways


@functools.lru_cache
def has_torchcodec() -> bool:
    """Return whether torchcodec can be loaded; it needs FFmpeg's libraries, too."""
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError) as error:
        print(f"torchcodec is left out: {str(error).splitlines()[0]}")
        return False
    return True


def measure(
    ways_of: Callable[[Case, Sequence[Path]], Mapping[str, Way[Wanted]]],
    videos: Mapping[str, Sequence[Path]],
    *,
    num_draws: int,
    num_rounds: int,
) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each way in each case.

    Args:
        ways_of: the ways of a case and its files.
        videos: the files of each kind.
        num_draws: random clips of each file.
        num_rounds: rounds in which all ways alternate.
    """
    cpu_ms = {}
    for name, case in CASES.items():
        files = videos[case.kind]
        paths = list(files) * (1 if case.num_clips else num_draws)
        items = [wanted_frames(case, path, number) for number, path in enumerate(paths)]
        cpu_ms[name] = cpu_ms_per_item(ways_of(case, files), items, num_rounds=num_rounds)
        figures = "  ".join(f"{way} {ms:.1f}" for way, ms in cpu_ms[name].items())
        print(f"{name:30s} CPU ms: {figures}", flush=True)
    return cpu_ms


def per_video(
    cpu_ms: Mapping[str, Mapping[str, float]], views_of_a_clip: int
) -> dict[str, dict[str, dict[str, float]]]:
    """The milliseconds as a result file has them, and the clips a second that they are.

    Args:
        cpu_ms: by case and way.
        views_of_a_clip: in training.
    """
    num_clips = {name: CASES[name].num_clips or views_of_a_clip for name in cpu_ms}
    return {
        "cpu_ms_per_video": {
            name: {way: round(ms, 2) for way, ms in ways_ms.items()}
            for name, ways_ms in cpu_ms.items()
        },
        "clips_per_s_per_core": {
            name: {way: round(1e3 * num_clips[name] / ms, 1) for way, ms in ways_ms.items()}
            for name, ways_ms in cpu_ms.items()
        },
    }


def summarise(cpu_ms: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The figures of a result file."""
    train_ms = cpu_ms["train_16x4"]
    floor = "floor_program" if "floor_program" in train_ms else "floor_libav"
    descriptions = {
        "floor_program": "the ffmpeg program, less its start",
        "floor_libav": "libav inside PyAV, opening the file included",
    }
    return {
        "read_16x4_over_floor": round(train_ms["ours"] / train_ms[floor], 3),
        "floor": descriptions[floor],
        **{
            f"read_16x4_over_{way}": round(train_ms["ours"] / ms, 3)
            for way, ms in train_ms.items()
            if way != "ours"
        },
        **per_video(cpu_ms, views_of_a_clip=1),
    }


def make_files(folder: Path, num_videos: int) -> dict[str, list[Path]]:
    """The files of each kind, made where ``folder`` lacks them."""
    print(f"files: {folder}")
    kinetics = make_videos(folder, num_videos)
    return {"kinetics": kinetics, "prepared": prepare_videos(kinetics)}


def options(description: str | None, words: Sequence[str] | None) -> argparse.Namespace:
    """The command line of this script and of loader.py."""
    parser = script_parser(description, quick="fewer clips and rounds")
    parser.add_argument("--data", type=Path, default=CACHE, help="folder of the files, kept")
    parser.add_argument("--videos", type=int, default=8, help="Kinetics-like files to read")
    return parser.parse_args(words)


def recorded_options(given: argparse.Namespace) -> list[str]:
    """The part of the command line that changes what is measured, not where the files are."""
    return [*(["--quick"] if given.quick else []), "--videos", str(given.videos)]


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    given = options(__doc__, words)
    torch.set_num_threads(1)
    videos = make_files(given.data, given.videos)
    cpu_ms = measure(
        ways_to_read,
        videos,
        num_draws=1 if given.quick else 3,
        num_rounds=3 if given.quick else 5,
    )
    keep_record(
        "decode",
        {
            **summarise(cpu_ms),
            "num_files": {kind: len(files) for kind, files in videos.items()},
            "versions": {"ffmpeg": version_of_ffmpeg(), "torchcodec": version_of("torchcodec")},
        },
        given.results,
        options=recorded_options(given),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
