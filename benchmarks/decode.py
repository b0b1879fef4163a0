#!/usr/bin/env python3
"""What reading the frames of a clip costs: ours, the least that decoding can cost, and others.

All get the same files and the same random frames and take turns, one thread each.
CPU time counts.

    ours          data/video/readers.py's reader: skips frames that nobody asked for where it can
    pyslowfast    the whole window decoded and turned into RGB, once for each view
    torchcodec    VideoDecoder(...).get_frames_at(...)              (left out where not installed)
    decord        VideoReader(...).get_batch(...)                   (left out where not installed)
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

from benchmarks import floors
from benchmarks.peers import pyslowfast_way
from benchmarks.record import RESULTS, keep_record, version_of, version_of_ffmpeg
from benchmarks.timing import Way, in_process, take_turns
from benchmarks.videos import SEED, make_videos, prepare_videos
from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.data.views.sampling import eval_indices, train_indices
from slowfast_mvit.randomness import TEMPORAL, generator
from slowfast_mvit.structures import ClipSpec

KINETICS_16X4 = ClipSpec(num_frames=16, sampling_rate=4)
KINETICS_32X3 = ClipSpec(num_frames=32, sampling_rate=3)
SSV2_16 = ClipSpec(num_frames=16, sampling_rate=4, policy="segments")

CACHE = Path(tempfile.gettempdir()) / "slowfast_mvit_benchmark"


@dataclass(frozen=True)
class Case:
    """Something to read.

    Attributes:
        kind: of the files: "kinetics", "prepared" or "ssv2".
        clip: which frames make a clip.
        num_clips: test clips; 0 for one random training clip.
        num_crops: crops of each; PySlowFast reads the clip again for each.
    """

    kind: str
    clip: ClipSpec
    num_clips: int = 0
    num_crops: int = 1


CASES = {
    "train_16x4": Case("kinetics", KINETICS_16X4),
    "train_32x3": Case("kinetics", KINETICS_32X3),
    "test_5_clips_1_crop": Case("kinetics", KINETICS_16X4, num_clips=5),
    "test_5_clips_3_crops": Case("kinetics", KINETICS_16X4, num_clips=5, num_crops=3),
    "test_1_clip_3_crops": Case("kinetics", KINETICS_16X4, num_clips=1, num_crops=3),
    "prepared_train_16x4": Case("prepared", KINETICS_16X4),
    "prepared_train_32x3": Case("prepared", KINETICS_32X3),
    "prepared_test_5_clips_1_crop": Case("prepared", KINETICS_16X4, num_clips=5),
    "ssv2_train_16_segments": Case("ssv2", SSV2_16),
    "ssv2_test_1_clip_3_crops": Case("ssv2", SSV2_16, num_clips=1, num_crops=3),
}
QUICK_CASES = ("train_16x4", "prepared_train_16x4")  # those that --quick measures three times


@dataclass(frozen=True)
class Wanted:
    """The frames of one video that a case needs.

    Attributes:
        path: the file.
        clips: frame numbers of each clip.
        num_crops: crops of each clip.
    """

    path: Path
    clips: tuple[tuple[int, ...], ...]
    num_crops: int = 1

    @property
    def indices(self) -> list[int]:
        """All of them, each once, rising."""
        return sorted(set().union(*self.clips))


def wanted_frames(case: Case, path: Path, draw: int) -> Wanted:
    """What a case needs of a file; ``draw`` numbers the random clips."""
    with open_reader(path) as reader:
        if case.num_clips:
            clips = eval_indices(case.clip, reader.num_frames, reader.fps, case.num_clips)
        else:
            rng = generator(SEED, 0, draw, TEMPORAL)
            clips = [train_indices(case.clip, reader.num_frames, reader.fps, rng)]
    return Wanted(path, tuple(map(tuple, clips)), case.num_crops)


def read_ours(wanted: Wanted) -> object:
    """One opening, one pass."""
    with open_reader(wanted.path) as reader:
        return reader.frames(wanted.indices)


def read_as_pyslowfast(wanted: Wanted) -> object:
    """Each view opens the file and decodes its window."""
    return [
        pyslowfast_way.read_clip(wanted.path, clip)
        for clip in wanted.clips
        for _ in range(wanted.num_crops)
    ]


def ways_to_read(kind: str) -> dict[str, Way[Wanted]]:
    """What is installed and can read files of this kind, by name."""
    ways: dict[str, Way[Wanted]] = {"ours": in_process(read_ours)}
    if kind != "ssv2":  # PySlowFast reads pictures there, and fails on webm: it has no duration
        ways["pyslowfast"] = in_process(read_as_pyslowfast)
    for name, reads in _installed_peers().items():
        ways[name] = in_process(_all_at_once(reads))
    ways["floor_libav"] = in_process(lambda item: floors.libav_floor(item.path, item.indices))
    if floors.has_program():
        ways["floor_program"] = lambda item: floors.program_floor_ms(item.path, item.indices)
        ways["floor_program_decoding_only"] = lambda item: floors.program_floor_ms(
            item.path, item.indices, decoding_only=True
        )
    return ways


@functools.lru_cache
def has_torchcodec() -> bool:
    """Whether torchcodec can be loaded; it needs FFmpeg's libraries, too."""
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError) as error:
        print(f"torchcodec is left out: {str(error).splitlines()[0]}")
        return False
    return True


def _installed_peers() -> dict[str, Callable[[Path, Sequence[int]], object]]:
    """Readers that are not everywhere: torchcodec needs FFmpeg, decord is not built any more."""
    peers: dict[str, Callable[[Path, Sequence[int]], object]] = {}
    if has_torchcodec():
        from benchmarks.peers import torchcodec_way

        peers["torchcodec"] = torchcodec_way.read_frames
    try:
        from benchmarks.peers import decord_way

        peers["decord"] = decord_way.read_frames
    except (ImportError, OSError) as error:
        print(f"decord is left out: {str(error).splitlines()[0]}")
    return peers


def _all_at_once(
    reads: Callable[[Path, Sequence[int]], object],
) -> Callable[[Wanted], object]:
    return lambda wanted: reads(wanted.path, wanted.indices)


def measure(
    cases: Mapping[str, Case],
    videos: Mapping[str, Sequence[Path]],
    *,
    num_draws: int,
    num_rounds: Mapping[str, int],
) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each way in each case.

    Args:
        cases: what to read, by name.
        videos: the files of each kind.
        num_draws: random clips of each file.
        num_rounds: how often all ways take their turn, by case.
    """
    taken_ms = {}
    for name, case in cases.items():
        draws = num_draws if case.num_clips == 0 else 1
        items = [
            wanted_frames(case, path, len(videos[case.kind]) * draw + number)
            for draw in range(draws)
            for number, path in enumerate(videos[case.kind])
        ]
        taken_ms[name] = take_turns(ways_to_read(case.kind), items, num_rounds=num_rounds[name])
        figures = "  ".join(f"{way} {ms:.1f}" for way, ms in taken_ms[name].items())
        print(f"{name:30s} CPU ms: {figures}", flush=True)
    return taken_ms


def summarise(
    taken_ms: Mapping[str, Mapping[str, float]], cases: Mapping[str, Case]
) -> dict[str, Any]:
    """The figures of a result file."""
    train_ms = taken_ms["train_16x4"]
    floor = "floor_program" if "floor_program" in train_ms else "floor_libav"
    what = {
        "floor_program": "the ffmpeg program, less its start",
        "floor_libav": "libav inside PyAV, opening the file included",
    }
    clips_per_s = {
        name: {
            way: round(1e3 * max(cases[name].num_clips, 1) / ms, 1) for way, ms in ways_ms.items()
        }
        for name, ways_ms in taken_ms.items()
    }
    return {
        "read_16x4_over_floor": round(train_ms["ours"] / train_ms[floor], 3),
        "floor": what[floor],
        **{
            f"read_16x4_over_{way}": round(train_ms["ours"] / ms, 3)
            for way, ms in train_ms.items()
            if way != "ours"
        },
        "cpu_ms_per_video": {
            name: {way: round(ms, 2) for way, ms in ways_ms.items()}
            for name, ways_ms in taken_ms.items()
        },
        "clips_per_s_per_core": clips_per_s,
    }


def make_files(
    folder: Path, num_videos: int, num_ssv2: int, seconds: float = 0.0
) -> dict[str, list[Path]]:
    """The files of each kind, made where ``folder`` lacks them."""
    print(f"files: {folder}")
    kinetics = make_videos(folder, "kinetics", num_videos)
    return {
        "kinetics": kinetics,
        "prepared": prepare_videos(kinetics),
        "ssv2": make_videos(folder, "ssv2", num_ssv2),
    }


def options(description: str, words: Sequence[str] | None) -> argparse.Namespace:
    """The command line of this script and of loader.py."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases, clips and rounds")
    parser.add_argument("--data", type=Path, default=CACHE, help="folder of the files, kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    parser.add_argument("--videos", type=int, default=8, help="Kinetics-like files to read")
    return parser.parse_args(words)


def words_that_matter(given: argparse.Namespace) -> list[str]:
    """The part of the command line that changes what is measured, not where files lie."""
    return [*(["--quick"] if given.quick else []), "--videos", str(given.videos)]


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    given = options(__doc__ or "", words)
    torch.set_num_threads(1)
    videos = make_files(given.data, given.videos, min(given.videos, 4))
    taken_ms = measure(
        CASES,
        videos,
        num_draws=1 if given.quick else 3,
        num_rounds={name: 3 if name in QUICK_CASES else 1 for name in CASES}
        if given.quick
        else dict.fromkeys(CASES, 5),
    )
    keep_record(
        "decode",
        {
            **summarise(taken_ms, CASES),
            "num_files": {kind: len(files) for kind, files in videos.items()},
            "versions": {
                "ffmpeg": version_of_ffmpeg(),
                **{name: version_of(name) for name in ("torchcodec", "decord")},
            },
        },
        given.results,
        options=words_that_matter(given),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
