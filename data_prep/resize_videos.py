#!/usr/bin/env python3
"""Write small copies of videos that decode quickly, each of them checked.

    python data_prep/resize_videos.py /data/k400 --to /data/k400_256 --out resize.jsonl
    python data_prep/resize_videos.py /data/k400 --to /data/k400_256 --out resize.jsonl \\
        --list /data/k400/train.csv --list /data/k400/val.csv

A copy has a short side of 256 pixels (or --size), H.264 with a key frame every 30 frames, the
frame rate of its source (a varying one stays so), square pixels, no rotation to apply, no sound.
Smaller videos keep their size unless --enlarge is given. The tree of folders is kept; names end in
.mp4. With --list only listed videos are copied, and the lists are written again into --to with
the new paths; those that failed are left out of them and counted.

A copy is written under a temporary name, decoded strictly, compared with the number of frames of
its source, and only then given its name. Sources that are damaged or cut short are not copied.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, fields
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback

import av

from data_prep import check_videos, command_line, jobs, sources
from data_prep.encode import ENCODER, Encoding, Times, encode
from data_prep.jobs import JobInput, Work
from data_prep.journal import Record
from data_prep.strict import StrictVideo, open_strictly
from slowfast_mvit.data.video.packets import WRONG_RATE
from slowfast_mvit.data.video.shards import open_plain_file
from slowfast_mvit.errors import DecodeError, UserError, in_one_message
from slowfast_mvit.storage import atomic_path

_SHOWN_PROBLEMS = 20


def resize(job: JobInput, *, to: str, encoding: dict[str, Any]) -> Record:
    """Write the copy of one video.

    Args:
        job: the video; its name below the folder of all videos decides that of the copy.
        to: the folder of the copies.
        encoding: the fields of ``Encoding``.

    Returns:
        "resized": the copy's path below ``to``; "resized_bytes"; and what ``check_videos.check``
        found in the copy.
    """
    out = Path(to, copy_of(job.name))
    if out.parent.resolve() / out.name == job.path.parent.resolve() / job.path.name:
        raise DecodeError("the copy would replace its source: a folder of --to is a link")
    out.unlink(missing_ok=True)  # of an older source
    with atomic_path(out) as temporary:
        num_frames = _write(job, temporary, Encoding(**encoding))
        record = check_videos.check(JobInput(copy_of(job.name), temporary))
        if record["status"] != "ok" or record["frames"] != num_frames:
            found = record["reason"] or f"{record['frames']} of {num_frames} frames"
            raise DecodeError(f"the copy was not written correctly: {found}")
    return {**record, "resized": copy_of(job.name), "resized_bytes": out.stat().st_size}


def _write(job: JobInput, temporary: Path, encoding: Encoding) -> int:
    """Decode the source strictly and encode it; returns the number of frames.

    Raises:
        DecodeError: when the source is not whole.
    """
    path = Path(job.name)
    with open_plain_file(job.path) as file:
        with open_strictly(path, file) as video:
            times = _times(video)
        with open_strictly(path, file) as video:
            frames = video.frames()
            encode(frames, times, temporary, encoding=encoding, source=path, stream=video.stream)
            verdict = video.verdict()
    if verdict["status"] == "failed":
        raise DecodeError(verdict["reason"], path)
    return video.num_frames


def _times(video: StrictVideo) -> Times:
    """Presentation times of the frames, from the packets alone where these have them."""
    stream = video.stream
    rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
    if video.index is None:
        for _ in video.frames():
            pass
        fps = Fraction(video.fps).limit_denominator(1001)
        rates = [rate for rate in rates if rate and abs(rate - fps) <= WRONG_RATE * fps] or [fps]
    return Times(video.shown_pts(), stream.time_base, rates)


def copy_of(name: str) -> str:
    """``a/b.webm`` -> ``a/b.mp4``."""
    return str(PurePosixPath(name).with_suffix(".mp4"))


def stamp_of(job: JobInput, to: Path) -> dict[str, Any]:
    """A record is valid as long as the source and its copy do not change."""
    try:
        resized_bytes = (to / copy_of(job.name)).stat().st_size
    except OSError:
        resized_bytes = None
    return {**jobs.file_stamp(job), "resized_bytes": resized_bytes}


def refuse_collisions(inputs: Sequence[JobInput]) -> None:
    """Refuse two videos whose copies would have one name.

    Raises:
        UserError: names all of them.
    """
    sources_of: dict[str, list[str]] = defaultdict(list)
    for job in inputs:
        sources_of[copy_of(job.name)].append(job.name)
    problems = [
        f"{' and '.join(names)} would both become {copy}"
        for copy, names in sources_of.items()
        if len(names) > 1
    ]
    if problems:
        advice = "Rename one of each, or give lists with only one of them"
        raise UserError(in_one_message("videos", [*problems[:_SHOWN_PROBLEMS], advice]))


def main(words: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    options = command_line.parse(_parser(), __file__, words)
    if ENCODER not in av.codecs_available:
        raise UserError(f"this PyAV cannot write H.264: it has no {ENCODER}. Install PyAV's wheel")
    videos, to = options.videos.resolve(), options.to.resolve()
    if to == videos or videos in to.parents:
        raise UserError(f"--to {options.to}: is in {options.videos}. Give a folder outside of it")
    inputs, rows = sources.inputs_below(options.videos, options.lists, to=options.to)
    refuse_collisions(inputs)
    encoding = Encoding(**{field.name: getattr(options, field.name) for field in fields(Encoding)})

    def write_lists(records: Sequence[Record]) -> None:
        copies = {r["path"]: r["resized"] for r in records if r["status"] == "ok"}
        sources.write_lists(rows, copies, options.to, options.lists)

    work = Work(
        "resize_videos",
        resize,
        settings={"to": str(options.to), "encoding": asdict(encoding)},
        stamp=lambda job: stamp_of(job, options.to),
        outputs=lambda job: [options.to / copy_of(job.name)],
    )
    return command_line.run_command(options, inputs, work, write_lists)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser_of(__doc__)
    add = parser.add_argument
    add("videos", type=Path, help="the folder of the videos")
    add("--to", type=Path, required=True, help="the folder for the copies")
    add("--list", dest="lists", type=Path, action="append", default=[], help="a list to rewrite")
    text = "pixels of the short side (%(default)s)"
    add("--short-side", dest="short_side_px", type=int, default=256, metavar="PX", help=text)
    text = "one size for all, such as 340x256"
    add("--size", dest="size_px", type=_size, default=(), metavar="WxH", help=text)
    add("--enlarge", action="store_true", help="scale smaller videos up")
    add("--crf", type=float, default=23.0, help="x264's quality, lower is better (%(default)s)")
    add("--keyint", type=int, default=30, help="frames between key frames (%(default)s)")
    add("--preset", default="medium", help="x264's preset (%(default)s)")
    add("--no-fastdecode", dest="fastdecode", action="store_false", help="without this tuning")
    command_line.add_arguments(parser)
    return parser


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 340x256")
    return int(width), int(height)


if __name__ == "__main__":
    sys.exit(command_line.exit_status(main))
