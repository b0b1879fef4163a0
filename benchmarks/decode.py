#!/usr/bin/env python3
"""CPU time of reading the frames of a clip: ours, others, and plain decoding as a lower bound.

All read the same random frames of the same files and alternate, on one thread each.

    ours          the default reader: skips frames that are not needed where it can
    pyslowfast    the whole window decoded and converted to RGB, once for each view
    torchcodec    VideoDecoder(...).get_frames_at(...)              (only where it is installed)
    floor_program the ffmpeg program, one thread, key frame to last wanted frame, to nothing, less
                  its start; "decoding_only" also without opening the file and its first frame
    floor_libav   the same with the libraries inside PyAV, opening the file included

The floors are the least that plain decoding can cost: from the key frame that the first wanted
frame depends on to the last wanted frame, to nothing: no conversion, no copy, nothing skipped.

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
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import torch

# The code in this folder, and not another version that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pyslowfast_way
from benchmarks.record import keep_record, script_parser, version_of, version_of_ffmpeg
from benchmarks.timing import Way, child_cpu_ms, cpu_ms_per_item, in_process
from benchmarks.videos import SEED, make_videos, prepare_videos
from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.data.views.sampling import eval_indices, train_indices
from slowfast_mvit.randomness import TEMPORAL, generator
from slowfast_mvit.structures import ClipSpec

CLIP = ClipSpec(num_frames=16, sampling_rate=4)

CACHE = Path(tempfile.gettempdir()) / "slowfast_mvit_benchmark"


class Case(NamedTuple):
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


class Wanted(NamedTuple):
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
        """All frame numbers, each once, rising."""
        return sorted(set().union(*self.clips))


Ways = Mapping[str, Way[Wanted]]


def wanted_frames(case: Case, path: Path, draw: int) -> Wanted:
    """Return the frames that a case needs of a file."""
    with open_reader(path) as reader:
        if case.num_clips:
            clips = eval_indices(CLIP, reader.num_frames, reader.fps, case.num_clips)
        else:
            rng = generator(SEED, 0, draw, TEMPORAL)
            clips = [train_indices(CLIP, reader.num_frames, reader.fps, rng)]
    return Wanted(path, tuple(map(tuple, clips)), draw)


def read_ours(wanted: Wanted) -> object:
    """Open the file once and read all frames in one pass."""
    with open_reader(wanted.path) as reader:
        return reader.frames(wanted.indices)


def read_as_pyslowfast(wanted: Wanted) -> object:
    """Open the file and decode the window for each clip."""
    return [pyslowfast_way.read_clip(wanted.path, clip) for clip in wanted.clips]


def read_with_torchcodec(wanted: Wanted) -> object:
    """Read as its documentation shows: exact seeking, one thread."""
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(str(wanted.path)).get_frames_at(indices=wanted.indices).data


class Span(NamedTuple):
    """A part of a video that decoding cannot avoid.

    Attributes:
        key_pts: of the key frame it starts at.
        key_s: the same in seconds from the first frame.
        num_frames: frames shown from the key frame to the last wanted one.
    """

    key_pts: int
    key_s: float
    num_frames: int


def span_of(path: Path, indices: Sequence[int]) -> Span:
    """Return the span for these frames (numbers in the order in which they are shown)."""
    shown, keys, time_base = _times(path)
    first, last = shown[min(indices)], max(indices)
    key_pts = max((pts for pts in keys if pts <= first), default=shown[0])
    key_s = float((key_pts - shown[0]) * time_base)
    return Span(key_pts, key_s, last - shown.index(key_pts) + 1)


@functools.lru_cache(maxsize=256)
def _times(path: Path) -> tuple[list[int], list[int], float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        shown = sorted(packet.pts for packet in packets)
        return shown, [p.pts for p in packets if p.is_keyframe], float(stream.time_base)


def has_program() -> bool:
    """Return whether the ffmpeg program is installed."""
    return shutil.which("ffmpeg") is not None


def program_floor_ms(path: Path, indices: Sequence[int], *, decoding_only: bool = False) -> float:
    """Return the CPU time of the ffmpeg program on the span of these frames, less its start.

    Args:
        path: the video.
        indices: the wanted frames.
        decoding_only: subtract what it needs for the first frame of the span instead, which is its
            start, opening the file, and the frames that a decoder takes in before it gives one.
    """
    span = span_of(path, indices)
    start = program_command(path, span.key_s, 1) if decoding_only else _START
    start_ms = child_cpu_ms(start)
    return child_cpu_ms(program_command(path, span.key_s, span.num_frames)) - start_ms


_FFMPEG = ("ffmpeg", "-nostdin", "-v", "error")
# The program's start, and one frame without decoding.
_START = (*_FFMPEG, "-f", "lavfi", "-i", "nullsrc=s=16x16", "-frames:v", "1", "-f", "null", "-")


def program_command(path: Path, key_s: float, num_frames: int, output: str = "null") -> list[str]:
    """Return ffmpeg's command to decode ``num_frames`` from the key frame at ``key_s`` on."""
    return [
        *(*_FFMPEG, "-threads", "1", "-filter_threads", "1"),
        # 1 ms more, since ffmpeg rounds; without "accurate" it starts at the key frame before.
        *("-noaccurate_seek", "-ss", f"{key_s + 0.001:.6f}", "-i", str(path)),
        *("-map", "0:v:0", "-frames:v", str(num_frames), "-fps_mode", "passthrough"),
        *("-f", output, "-"),
    ]


def libav_floor(path: Path, indices: Sequence[int]) -> int:
    """Decode the span of these frames with PyAV; returns the number of frames shown in it."""
    span = span_of(path, indices)
    num_shown = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        container.seek(span.key_pts, stream=stream, backward=True)
        for frame in container.decode(stream):
            num_shown += frame.pts is not None and frame.pts >= span.key_pts
            if num_shown == span.num_frames:
                break
    return num_shown


def ways_to_read(case: Case, files: Sequence[Path]) -> Ways:
    """Return each way that is installed, by name."""
    works: dict[str, Callable[[Wanted], object]] = {
        "ours": read_ours,
        "pyslowfast": read_as_pyslowfast,
        **({"torchcodec": read_with_torchcodec} if has_torchcodec() else {}),
        "floor_libav": lambda item: libav_floor(item.path, item.indices),
    }
    ways = {name: in_process(work) for name, work in works.items()}
    if has_program():
        ways["floor_program"] = lambda item: program_floor_ms(item.path, item.indices)
        ways["floor_program_decoding_only"] = lambda item: program_floor_ms(
            item.path, item.indices, decoding_only=True
        )
    return ways


@functools.cache
def has_torchcodec() -> bool:
    """Return whether torchcodec can be loaded; it needs FFmpeg's libraries, too."""
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError) as error:
        print(f"torchcodec is not measured: {str(error).splitlines()[0]}")
        return False
    return True


def summarise(cpu_ms: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the ratios of a result file."""
    train_ms = cpu_ms["train_16x4"]
    ratios = {way: round(train_ms["ours"] / ms, 3) for way, ms in train_ms.items() if way != "ours"}
    floor, description = "floor_libav", "libav inside PyAV, opening the file included"
    if "floor_program" in ratios:
        floor, description = "floor_program", "the ffmpeg program, less its start"
    return {
        "read_16x4_over_floor": ratios[floor],
        "floor": description,
        **{f"read_16x4_over_{way}": ratio for way, ratio in ratios.items()},
    }


def run(
    parser: argparse.ArgumentParser,
    words: Sequence[str] | None,
    ways_of: Callable[[Case, Sequence[Path]], Ways],
    summary_of: Callable[[Mapping[str, Mapping[str, float]]], dict[str, Any]],
    *,
    views_of_a_clip: int,
    versions: Mapping[str, str | None],
) -> int:
    """Run this benchmark or that of loader.py; returns the exit status.

    Args:
        parser: the result of ``script_parser``.
        words: the command line.
        ways_of: the ways of a case and its files.
        summary_of: ratios of a result file, of the milliseconds by case and way.
        views_of_a_clip: in training.
        versions: of what it is compared with.
    """
    parser.add_argument("--data", type=Path, default=CACHE, help="folder of the files, kept")
    parser.add_argument("--videos", type=int, default=8, help="Kinetics-like files to read")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    print(f"files: {options.data}")
    kinetics = make_videos(options.data, options.videos)
    videos = {"kinetics": kinetics, "prepared": prepare_videos(kinetics)}
    num_draws, num_rounds = (1, 3) if options.quick else (3, 5)
    cpu_ms, clips_per_s = {}, {}
    for name, case in CASES.items():
        paths = videos[case.kind] * (1 if case.num_clips else num_draws)
        items = [wanted_frames(case, path, number) for number, path in enumerate(paths)]
        ways_ms = cpu_ms_per_item(ways_of(case, videos[case.kind]), items, num_rounds=num_rounds)
        num_clips = case.num_clips or views_of_a_clip
        cpu_ms[name] = ways_ms
        clips_per_s[name] = {way: round(1e3 * num_clips / ms, 1) for way, ms in ways_ms.items()}
        print(f"{name:30s} CPU ms: {_rounded(ways_ms)}", flush=True)
    numbers = {
        **summary_of(cpu_ms),
        "cpu_ms_per_video": {name: _rounded(ways_ms) for name, ways_ms in cpu_ms.items()},
        "clips_per_s_per_core": clips_per_s,
        "num_files": {kind: len(files) for kind, files in videos.items()},
        "versions": versions,
    }
    keep_record(parser, options, numbers)
    return 0


def _rounded(ways_ms: Mapping[str, float]) -> dict[str, float]:
    return {way: round(ms, 2) for way, ms in ways_ms.items()}


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(__file__, __doc__, quick="fewer clips and rounds")
    versions = {"ffmpeg": version_of_ffmpeg(), "torchcodec": version_of("torchcodec")}
    return run(parser, words, ways_to_read, summarise, views_of_a_clip=1, versions=versions)


if __name__ == "__main__":
    sys.exit(main())
