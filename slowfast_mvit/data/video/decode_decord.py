"""The decord reader, for those who compare with code that uses it.

Optional: ``pip install slowfast_mvit[decord]``, or decord2, which has the same import name. It is
slower than the PyAV reader, gets a copy of the whole file in memory, and gives wrong frames of some
kinds of file without a word; those are recognised by their packets and refused (``REFUSALS``). A
resolution that changes in mid-stream it scales to the first, as the ffmpeg program does.

decord can hang inside its native code, where nothing in this process can interrupt it; the
loader ends a worker that is stuck (``DATA_LOADER.TIMEOUT_S``).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from slowfast_mvit.data.video import packets
from slowfast_mvit.data.video.opening import check_indices, open_plain_file
from slowfast_mvit.data.video.probe import (
    MIRRORED,
    REFRESHED,
    Refusal,
    VideoInfo,
    check_size,
    probe_video,
    refuse,
)
from slowfast_mvit.errors import ConfigError, DecodeError

MAX_BYTES = 2 << 30  # decord copies the file into memory

# What decord 0.6 reads wrongly: how it is recognised, and what to say.
# Found by comparison with the ffmpeg program; tests/data/test_decode_contract.py has the files.
REFUSALS: tuple[Refusal, ...] = (
    (lambda info: info.index is None, "packets that do not say when they are shown"),
    (
        lambda info: info.index is not None and info.index.hides_frames(),
        "frames that are not shown (an edit list, or a beginning in mid-group)",
    ),
    (
        lambda info: info.index is not None and info.index.has_open_groups(),
        "frames shown before the key frame that they follow (open GOP)",
    ),
    (lambda info: info.format == "asf", "the format WMV"),
    (lambda info: info.format == "flv", "the format FLV"),
    MIRRORED,
    REFRESHED,
    (lambda info: info.num_video_streams > 1, "several video streams"),
)


@contextlib.contextmanager
def open_decord(path: Path) -> Iterator[DecordReader]:
    """Open a video file with decord, decoding with one thread.

    Raises:
        DecodeError: when it is not a video, one that decord reads wrongly, or larger than 2 GiB.
        ConfigError: when decord is not installed.
    """
    decord = _decord()
    info = probe_video(path)
    refuse(info, REFUSALS, "decord")
    library_errors = (decord.DECORDError, RuntimeError, ValueError, IndexError, OSError)
    with open_plain_file(path) as file:
        num_bytes = file.seek(0, 2)
        if num_bytes > MAX_BYTES:
            raise DecodeError(
                f"{num_bytes:,} bytes are more than the {MAX_BYTES:,} that the reader "
                "'decord' may copy into memory. Set DATA.DECODING_BACKEND pyav",
                path,
            )
        file.seek(0)
        with (
            packets.as_decode_errors(path, "decord", library_errors),
            _source(file) as source,
        ):
            video = decord.VideoReader(source, num_threads=1)
            starts_s = np.asarray(video.get_frame_timestamp(range(len(video))))[:, 0]
            key_frames = sorted(video.get_key_indices())
    shown_s = starts_s - starts_s[:1]
    if len(shown_s) != info.num_frames or not np.allclose(shown_s, info.times_s, atol=2e-3):
        raise DecodeError(
            f"the reader 'decord' lists {len(shown_s)} frames, at other times than the "
            f"{info.num_frames} that the packets show. Set DATA.DECODING_BACKEND pyav",
            path,
        )
    if info.index is not None and key_frames != info.index.key_frames():
        raise DecodeError(
            "the reader 'decord' would start decoding at frames that are no key frames. "
            "Set DATA.DECODING_BACKEND pyav",
            path,
        )
    yield DecordReader(info, video, library_errors)


class DecordReader:
    """One opened video file. Use ``open_decord``.

    Attributes:
        num_frames: frames that are shown.
        fps: frames per second on average.
        times_s: (num_frames,) float64, when each frame is shown, in seconds from the first.
    """

    def __init__(
        self, info: VideoInfo, video: Any, library_errors: tuple[type[Exception], ...]
    ) -> None:
        self.num_frames = info.num_frames
        self.fps = info.fps
        self.times_s = info.times_s
        self._facts = info
        self._video = video
        self._library_errors = library_errors

    def frames(self, indices: Sequence[int]) -> Tensor:
        """The frames at ``indices``, repeats allowed, as uint8 RGB (len(indices), H, W, 3).

        Raises:
            DecodeError: when the file ends or breaks before.
            IndexError: when an index is not from 0 to ``num_frames`` - 1.
        """
        check_indices(self._facts.path, indices, self.num_frames)
        with packets.as_decode_errors(self._facts.path, "decord", self._library_errors):
            frames = torch.from_numpy(
                self._video.get_batch([int(index) for index in indices]).asnumpy()
            )
        check_size(self._facts, frames, "decord")
        return frames


@contextlib.contextmanager
def _source(file: BinaryIO) -> Iterator[str | BinaryIO]:
    """Return what to give to decord: the name of a copy in memory.

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

        decord.logging.set_level(decord.logging.QUIET)  # what it would print is in our errors
    except (ImportError, OSError, AttributeError) as error:  # the last: another thing of its name
        raise ConfigError(
            f"the reader 'decord' cannot be loaded ({packets.reason(error)}). Install it "
            "(pip install slowfast_mvit[decord], or decord2), or set DATA.DECODING_BACKEND pyav"
        ) from error
    return decord
