"""The torchcodec reader: FFmpeg as it is installed on the machine, optionally a GPU's decoder.

Optional: ``pip install slowfast_mvit[torchcodec]``, and FFmpeg 4 to 8 with shared libraries. It
decodes HEVC in half the time of PyAV's wheel; for H.264 the PyAV reader is quicker, since it skips
the frames that nobody asked for.

Frames are addressed by the index that all readers share, and the time of each frame that comes
back is compared with it, so a seek that went wrong is an error and not a wrong frame.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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

# What torchcodec 0.17 fails on or reads wrongly: how it is recognised, and what to say.
REFUSALS: tuple[Refusal, ...] = (
    (
        lambda info: info.index is None,
        "packets that do not say when they are shown (MPEG streams, AVI with B frames)",
    ),
    MIRRORED,
    REFRESHED,
    (
        lambda info: (
            info.codec == "h264" and info.index is not None and info.index.has_open_groups()
        ),
        "frames shown before the key frame that they follow (open GOP in H.264)",
    ),
)

_SAME_TIME_S = 1e-5  # both are multiples of the stream's time base, in float64

_LIBRARY_ERRORS = (RuntimeError, ValueError, IndexError, OSError, MemoryError)


@contextlib.contextmanager
def open_torchcodec(path: Path) -> Iterator[TorchcodecReader]:
    """Open a video file with torchcodec, decoding on the CPU with one thread.

    Raises:
        DecodeError: when it is not a video, or one that torchcodec reads wrongly.
        ConfigError: when torchcodec is not installed or finds no FFmpeg.
    """
    yield from _open(path, "torchcodec", "cpu")


@contextlib.contextmanager
def open_torchcodec_cuda(path: Path) -> Iterator[TorchcodecReader]:
    """The same with the decoder of the GPU; the frames are copied back to the CPU.

    The GPU converts to RGB in its own way: pictures differ from those of the other readers by a
    level or two. Worker processes must not be forked (``DATA_LOADER.START_METHOD spawn``).

    Raises:
        DecodeError, ConfigError: as above; also when there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise ConfigError(
            "the reader 'torchcodec_cuda' needs a CUDA device and there is none here. "
            "Set DATA.DECODING_BACKEND pyav"
        )
    yield from _open(path, "torchcodec_cuda", "cuda")


def _open(path: Path, name: str, device: str) -> Iterator[TorchcodecReader]:
    decoder_class = _video_decoder_class()
    info = probe_video(path)
    refuse(info, REFUSALS, name)
    with open_plain_file(path) as file:
        with packets.as_decode_errors(path, name, _LIBRARY_ERRORS):
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
                f"{info.num_frames}. Set DATA.DECODING_BACKEND pyav",
                path,
            )
        yield TorchcodecReader(info, decoder, name)


class TorchcodecReader:
    """One opened video file. Use ``open_torchcodec``, which closes it.

    Attributes:
        num_frames: frames that are shown.
        fps: frames per second on average.
        times_s: (num_frames,) float64, when each frame is shown, in seconds from the first.
    """

    def __init__(self, info: VideoInfo, decoder: Any, name: str) -> None:
        self.num_frames = info.num_frames
        self.fps = info.fps
        self.times_s = info.times_s
        self._facts = info
        self._decoder = decoder
        self._name = name

    def frames(self, indices: Sequence[int]) -> Tensor:
        """The frames at ``indices``, repeats allowed, as uint8 RGB (len(indices), H, W, 3).

        Raises:
            DecodeError: when the file ends or breaks before, or another frame came back.
            IndexError: when an index is not from 0 to ``num_frames`` - 1.
        """
        check_indices(self._facts.path, indices, self.num_frames)
        with packets.as_decode_errors(self._facts.path, self._name, _LIBRARY_ERRORS):
            batch = self._decoder.get_frames_at([int(index) for index in indices])
        wanted_s = self._facts.start_s + self.times_s[list(indices)]
        wrong = np.abs(batch.pts_seconds.cpu().numpy() - wanted_s) > _SAME_TIME_S
        if wrong.any():
            first = int(wrong.argmax())
            raise DecodeError(
                f"the reader {self._name!r} gave the frame at "
                f"{float(batch.pts_seconds[first]):.3f} s for frame {indices[first]}, which is "
                f"shown at {wanted_s[first]:.3f} s. Set DATA.DECODING_BACKEND pyav",
                self._facts.path,
            )
        pixels: Tensor = batch.data.cpu()
        check_size(self._facts, pixels, self._name)
        return pixels


def _video_decoder_class() -> Any:
    """Imported when first used: loading it looks for FFmpeg's libraries."""
    try:
        return importlib.import_module("torchcodec.decoders").VideoDecoder
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"the reader 'torchcodec' cannot be loaded ({packets.reason(error)}). Install it "
            "(pip install slowfast_mvit[torchcodec]) in the version that fits this PyTorch "
            f"({torch.__version__}), and FFmpeg 4 to 8 with shared libraries (apt install ffmpeg, "
            "or conda install ffmpeg), or set DATA.DECODING_BACKEND pyav"
        ) from error
