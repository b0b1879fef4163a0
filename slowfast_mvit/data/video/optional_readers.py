"""The optional readers, torchcodec and decord: the file is probed, then another library decodes it.

Frames are addressed by the packet index that all readers share. Kinds of files that a library reads
wrongly are refused (``TORCHCODEC_REFUSALS``, ``DECORD_REFUSALS``).

torchcodec: ``pip install slowfast_mvit[torchcodec]``, and FFmpeg 4 to 8 with shared libraries. It
decodes HEVC in half the time of PyAV's wheel; for H.264 the PyAV reader is faster, since it skips
frames that are not needed. The time of each decoded frame is compared with the packet index, so a
wrong seek is an error and not a wrong frame. Optionally a GPU decodes.

decord: ``pip install slowfast_mvit[decord]``, or decord2, which has the same import name. It serves
for comparison with code that uses it. It is slower than the PyAV reader, gets a copy of the whole
file in memory, and silently gives wrong frames of some kinds of files. A resolution that changes in
mid-stream is scaled to the first, as the ffmpeg program does it. decord can hang inside its native
code, where nothing in this process can interrupt it; the loader ends a worker that is stuck
(``DATA_LOADER.TIMEOUT_S``).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from slowfast_mvit.data.video.packets import as_decode_errors, check_indices, reason
from slowfast_mvit.data.video.probe import (
    MIRRORED,
    PALETTED,
    REFRESHED,
    Refusal,
    VideoInfo,
    probe_video,
)
from slowfast_mvit.data.video.shards import open_plain_file
from slowfast_mvit.errors import ConfigError, DecodeError

USE_PYAV = "Set DATA.DECODING_BACKEND pyav"


@dataclass(eq=False)
class ProbedReader:
    """One opened video file. Use ``open_torchcodec`` or ``open_decord``.

    Args:
        info: the properties of the file.
        name: of the reader, for messages.
        library_errors: what the library raises.
        decode: frame numbers -> uint8 RGB (N, H, W, 3).

    Attributes:
        num_frames: frames that are shown.
        fps: frames per second on average.
        times_s: (num_frames,) float64, when each frame is shown, in seconds from the first.
    """

    info: VideoInfo
    name: str
    library_errors: tuple[type[Exception], ...]
    decode: Callable[[list[int]], Tensor]

    def __post_init__(self) -> None:
        self.num_frames = self.info.num_frames
        self.fps = self.info.fps
        self.times_s = self.info.times_s

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Return the frames at ``indices``, repeats allowed, as uint8 RGB (len(indices), H, W, 3).

        Raises:
            DecodeError: when the file ends or breaks before, or frames of another time or size than
                in the file are decoded.
            IndexError: when an index is not from 0 to ``num_frames`` - 1.
        """
        check_indices(self.info.path, indices, self.num_frames)
        with as_decode_errors(self.info.path, self.name, self.library_errors):
            frames = self.decode([int(index) for index in indices])
        height, width = frames.shape[1:3]
        if self.info.size_px not in ((width, height), (height, width)):
            raise DecodeError(
                f"the reader {self.name!r} gave frames of {width} x {height} pixels, the "
                f"file says {self.info.size_px[0]} x {self.info.size_px[1]}. Encode it again "
                "with data_prep/resize_videos.py",
                self.info.path,
            )
        return frames


# torchcodec

# What torchcodec 0.17 fails on or reads wrongly.
TORCHCODEC_REFUSALS: tuple[Refusal, ...] = (
    MIRRORED,
    PALETTED,
    REFRESHED,
    (
        "frames shown before the key frame that they follow (open GOP in H.264)",
        lambda info: info.codec == "h264" and info.index.has_open_groups(),
    ),
)

_SAME_TIME_S = 1e-5  # both are multiples of the stream's time base, in float64
_TORCHCODEC_ERRORS = (RuntimeError, ValueError, IndexError, OSError, MemoryError)


@contextlib.contextmanager
def open_torchcodec(path: Path) -> Iterator[ProbedReader]:
    """Open a video file with torchcodec, decoding on the CPU with one thread.

    Raises:
        DecodeError: when it is not a video, or one that torchcodec reads wrongly.
        ConfigError: when torchcodec is not installed or finds no FFmpeg.
    """
    yield from _open_torchcodec(path, "torchcodec", "cpu")


@contextlib.contextmanager
def open_torchcodec_cuda(path: Path) -> Iterator[ProbedReader]:
    """Open a video file with torchcodec and the decoder of the GPU; frames are copied to the CPU.

    The GPU converts to RGB in its own way: frames differ from those of the other readers by a
    level or two. Worker processes must not be forked (``DATA_LOADER.START_METHOD spawn``).

    Raises:
        DecodeError, ConfigError: as above; also when there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise ConfigError(
            f"the reader 'torchcodec_cuda' needs a CUDA device and there is none here. {USE_PYAV}"
        )
    yield from _open_torchcodec(path, "torchcodec_cuda", "cuda")


def _open_torchcodec(path: Path, name: str, device: str) -> Iterator[ProbedReader]:
    decoder_class = _torchcodec_class()
    info = probe_video(path, name, TORCHCODEC_REFUSALS)

    def decode(indices: list[int]) -> Tensor:
        batch = decoder.get_frames_at(indices)
        expected_s = info.start_s + info.times_s[indices]
        wrong = np.abs(batch.pts_seconds.cpu().numpy() - expected_s) > _SAME_TIME_S
        if wrong.any():
            first = int(wrong.argmax())
            raise DecodeError(
                f"the reader {name!r} gave the frame at {float(batch.pts_seconds[first]):.3f} s "
                f"for frame {indices[first]}, which is shown at {expected_s[first]:.3f} s. "
                f"{USE_PYAV}",
                path,
            )
        pixels: Tensor = batch.data.cpu()
        return pixels

    with open_plain_file(path) as file:
        with as_decode_errors(path, name, _TORCHCODEC_ERRORS):
            decoder = decoder_class(
                file,
                stream_index=info.stream_index,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                device=device,
                seek_mode="exact",
            )
        if len(decoder) != info.num_frames:
            raise DecodeError(
                f"the reader {name!r} counts {len(decoder)} frames where the packets show "
                f"{info.num_frames}. {USE_PYAV}",
                path,
            )
        yield ProbedReader(info, name, _TORCHCODEC_ERRORS, decode)


def _torchcodec_class() -> Any:
    """Import the decoder when it is first used: loading it looks for FFmpeg's libraries."""
    try:
        return importlib.import_module("torchcodec.decoders").VideoDecoder
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"the reader 'torchcodec' cannot be loaded ({reason(error)}). Install it "
            "(pip install slowfast_mvit[torchcodec]) in the version that fits this PyTorch "
            f"({torch.__version__}), and FFmpeg 4 to 8 with shared libraries (apt install ffmpeg, "
            "or conda install ffmpeg), or set DATA.DECODING_BACKEND pyav"
        ) from error


# decord

MAX_BYTES = 2 << 30  # decord copies the file into memory

# What decord 0.6 reads wrongly, detected by comparison with the ffmpeg program;
# tests/data/test_decode_contract.py has the files.
DECORD_REFUSALS: tuple[Refusal, ...] = (
    (
        "frames that are not shown (an edit list, or a beginning in mid-group)",
        lambda info: info.index.hides_frames(),
    ),
    (
        "frames shown before the key frame that they follow (open GOP)",
        lambda info: info.index.has_open_groups(),
    ),
    ("the format WMV", lambda info: info.format == "asf"),
    ("the format FLV", lambda info: info.format == "flv"),
    MIRRORED,
    PALETTED,
    REFRESHED,
    ("several video streams", lambda info: info.num_video_streams > 1),
)


@contextlib.contextmanager
def open_decord(path: Path) -> Iterator[ProbedReader]:
    """Open a video file with decord, decoding with one thread.

    Raises:
        DecodeError: when it is not a video, one that decord reads wrongly, or larger than 2 GiB.
        ConfigError: when decord is not installed.
    """
    decord = _decord()
    info = probe_video(path, "decord", DECORD_REFUSALS)
    errors = (decord.DECORDError, RuntimeError, ValueError, IndexError, OSError)
    with open_plain_file(path) as file:
        num_bytes = file.seek(0, 2)
        if num_bytes > MAX_BYTES:
            raise DecodeError(
                f"{num_bytes:,} bytes are more than the {MAX_BYTES:,} that the reader "
                f"'decord' may copy into memory. {USE_PYAV}",
                path,
            )
        file.seek(0)
        with as_decode_errors(path, "decord", errors), _in_memory(file) as source:
            video = decord.VideoReader(source, num_threads=1)
            starts_s = np.asarray(video.get_frame_timestamp(range(len(video))))[:, 0]
            key_frames = sorted(video.get_key_indices())
    times_s = starts_s - starts_s[:1]
    if len(times_s) != info.num_frames or not np.allclose(times_s, info.times_s, atol=2e-3):
        raise DecodeError(
            f"the reader 'decord' lists {len(times_s)} frames, at other times than the "
            f"{info.num_frames} that the packets show. {USE_PYAV}",
            path,
        )
    if key_frames != info.index.key_frames():
        raise DecodeError(
            f"the reader 'decord' would start decoding at other than key frames. {USE_PYAV}", path
        )
    yield ProbedReader(
        info, "decord", errors, lambda indices: torch.from_numpy(video.get_batch(indices).asnumpy())
    )


@contextlib.contextmanager
def _in_memory(file: BinaryIO) -> Iterator[str | BinaryIO]:
    """Copy a file to memory and return the name of the copy, which decord opens.

    decord copies a file object into memory, too, but in a cycle of references: without Python's
    garbage collector each opened video would stay there. Only Linux has files in memory.
    """
    if not hasattr(os, "memfd_create"):
        yield file
        return
    with os.fdopen(os.memfd_create("decord"), "wb") as copy:
        shutil.copyfileobj(file, copy)
        copy.flush()
        yield f"/proc/self/fd/{copy.fileno()}"


def _decord() -> Any:
    try:
        import decord

        decord.logging.set_level(decord.logging.QUIET)  # our errors repeat what it would print
    except (ImportError, OSError, AttributeError) as error:  # the last: another module of this name
        raise ConfigError(
            f"the reader 'decord' cannot be loaded ({reason(error)}). Install it "
            "(pip install slowfast_mvit[decord], or decord2), or set DATA.DECODING_BACKEND pyav"
        ) from error
    return decord
