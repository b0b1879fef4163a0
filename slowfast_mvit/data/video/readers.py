"""Readers: an opened video, a folder of frames or an image, as frames addressed by their number.

Frame i is the i-th frame that ffmpeg shows: hidden frames (edit lists, leading frames of a cut) do
not count, and rotation is applied. ``open_reader`` picks the reader by the kind of the path. Files
are untrusted, so only plain local files in known formats are opened.

To add a reader, add a row to ``READERS``; the contract test runs over every row. PyAV is the
default: the fastest for H.264 and the only one that reads every kind of file.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from slowfast_mvit.annotations.files import IMAGE_SUFFIXES
from slowfast_mvit.annotations.frame_lists import frames_of_pattern
from slowfast_mvit.data.video.optional_readers import (
    open_decord,
    open_torchcodec,
    open_torchcodec_cuda,
)
from slowfast_mvit.data.video.packets import check_indices
from slowfast_mvit.data.video.pyav_reader import PyavReader, open_pyav
from slowfast_mvit.data.video.shards import open_plain_file
from slowfast_mvit.errors import ConfigError, DecodeError, in_one_message, pick
from slowfast_mvit.structures import VideoReader

# Frames that were cut out of a video: PySlowFast's lists for Something-Something v2 use this rate.
FRAME_FOLDER_FPS = 30.0

MAX_IMAGE_PIXELS = 80_000_000

# Without this PIL would try every format, and run a program for PostScript.
_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_ANIMATED_FORMATS = ("PNG", "WEBP")  # a JPEG may contain several images, of which one is shown


@contextlib.contextmanager
def open_auto(path: Path) -> Iterator[VideoReader]:
    """Open a video file with the first reader that works on this machine (``working_reader``)."""
    with READERS[working_reader("auto")](path) as reader:
        yield reader


READERS: dict[str, Callable[[Path], AbstractContextManager[VideoReader]]] = {
    "auto": open_auto,
    "pyav": open_pyav,
    "torchcodec": open_torchcodec,
    "torchcodec_cuda": open_torchcodec_cuda,
    "decord": open_decord,
}

# In this order: from the one that reads every file to the one that refuses most.
AUTO_READERS = ("pyav", "torchcodec", "decord")

# Three frames of 64 x 64 pixels, H.264, each of one grey level.
_PROBE = Path(__file__).with_name("probe.mp4")
_PROBE_LEVELS = (40, 128, 220)


@functools.cache
def working_reader(backend: str) -> str:
    """Return the reader to use for ``DATA.DECODING_BACKEND``, after it decoded a small file.

    Args:
        backend: a row of ``READERS``, or ``package.module:name``, which is not probed. "auto" takes
            the first of ``AUTO_READERS`` that works, and logs which.

    Raises:
        ConfigError: when there is none such, its library is missing or cannot decode.
    """
    if backend != "auto":
        pick(READERS, backend, "reader")
        if backend in READERS:
            _probe(backend)
        return backend
    problems = []
    for name in AUTO_READERS:
        try:
            _probe(name)
        except ConfigError as error:
            problems.append(str(error))
        else:
            logging.getLogger(__name__).info("DATA.DECODING_BACKEND auto: reading with %s", name)
            return name
    raise ConfigError(in_one_message("no reader works on this machine", problems))


def _probe(backend: str) -> None:
    """Raise a ConfigError unless the reader decodes a small file as it should."""
    try:
        with READERS[backend](_PROBE) as reader:
            levels = reader.frames([2, 0, 1]).float().mean((1, 2, 3))
    except DecodeError as error:
        raise ConfigError(f"the reader {backend!r} does not work here: {error}") from error
    expected = torch.tensor(_PROBE_LEVELS)[[2, 0, 1]]
    if not torch.allclose(levels, expected.float(), atol=3):
        raise ConfigError(
            f"the reader {backend!r} does not work here: frames of the grey levels "
            f"{expected.tolist()} are decoded as {levels.round().int().tolist()}"
        )


@contextlib.contextmanager
def open_reader(path: str | Path, backend: str = "pyav") -> Iterator[VideoReader]:
    """Open a video file, an image, or a folder or pattern of images.

    Args:
        path: a video file, an image, a folder of images (in the order of the numbers in their
            names), or a pattern that ``frame_lists.frame_pattern`` wrote.
        backend: a row of ``READERS``; read for video files only.

    Yields:
        The reader. It is closed with the ``with`` statement.

    Raises:
        DecodeError: when it cannot be opened, here; or read, in ``frames``.
        ConfigError: when there is no such backend.
    """
    open_video = pick(READERS, backend, "reader")
    path = Path(path)
    if os.path.isdir(path):  # unlike Path.is_dir never an OSError: opening reports the problem
        yield FrameFolderReader.of_folder(path)
    elif (frames := frames_of_pattern(str(path))) is not None and not os.path.exists(path):
        yield FrameFolderReader([Path(frame) for frame in frames], path)
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        yield ImageReader(path)
    else:
        with open_video(path) as reader:
            yield reader


def stream_frames(reader: VideoReader, indices: Sequence[int]) -> Iterator[Tensor]:
    """Yield the frames at rising ``indices`` one by one, each (H, W, 3) uint8.

    Raises:
        DecodeError: one of them cannot be read.
    """
    if isinstance(reader, PyavReader):
        yield from reader.stream(indices)
    else:
        yield from (reader.frames([index])[0] for index in indices)


class FrameFolderReader:
    """A folder of frames stored as images; shown at 30 frames a second.

    Args:
        files: the images in the order in which they are shown.
        path: their folder or pattern, for messages.
    """

    fps = FRAME_FOLDER_FPS

    def __init__(self, files: Sequence[Path], path: Path) -> None:
        if not files:
            raise DecodeError("the folder contains no images", path)
        self._files = files
        self._path = path
        self.num_frames = len(files)
        self.times_s = np.arange(self.num_frames) / self.fps

    @classmethod
    def of_folder(cls, folder: Path) -> FrameFolderReader:
        """Read all images of a folder that are not hidden, ``img_2.jpg`` before ``img_10.jpg``."""
        try:
            images = [
                file
                for file in folder.iterdir()
                if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
            ]
        except OSError as error:
            raise DecodeError(f"cannot be opened ({error.strerror})", folder) from error
        return cls(sorted(images, key=_natural_order), folder)

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Return the frames at ``indices`` as uint8 RGB (len(indices), H, W, 3)."""
        check_indices(self._path, indices, self.num_frames)
        read = {index: read_image(self._files[index]) for index in sorted(set(indices))}
        sizes = {tuple(image.shape) for image in read.values()}
        if len(sizes) > 1:
            raise DecodeError(f"frames of different sizes (H, W, 3): {sorted(sizes)}", self._path)
        return torch.stack([read[index] for index in indices])


class ImageReader:
    """One image, as a video of one frame."""

    num_frames = 1
    fps = 1.0

    def __init__(self, path: Path) -> None:
        self._path = path
        self._image = read_image(path)
        self.times_s = np.zeros(1)

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Return the image, repeated, as uint8 RGB (len(indices), H, W, 3)."""
        check_indices(self._path, indices, self.num_frames)
        return self._image.expand(len(indices), -1, -1, -1).clone()


def read_image(path: Path) -> Tensor:
    """Read an image, rotated upright, as uint8 RGB (H, W, 3).

    Raises:
        DecodeError: when it is missing, broken, animated or larger than 80 million pixels.
    """
    try:
        with open_plain_file(path) as file, Image.open(file, formats=_IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_IMAGE_PIXELS:
                raise DecodeError(f"{width} x {height} pixels are more than are accepted", path)
            num_images = getattr(image, "n_frames", 1)
            if image.format in _ANIMATED_FORMATS and num_images > 1:
                raise DecodeError(
                    f"an animated image of {num_images} frames. Animations are read from videos "
                    "only: convert it to MP4 or WebM",
                    path,
                )
            return torch.from_numpy(_as_rgb(ImageOps.exif_transpose(image)))
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        if isinstance(error, DecodeError):
            raise
        reason = str(error)
        if isinstance(error, UnidentifiedImageError):  # whose text names Python's file object
            reason = f"none of {', '.join(_IMAGE_FORMATS)}"
        raise DecodeError(f"not a readable image ({reason})", path) from error


def _as_rgb(image: Image.Image) -> np.ndarray:
    """Convert to (H, W, 3) uint8; of 16 bits of grey the upper 8, as PIL does for colours."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.array(image.convert("RGB"))


def _natural_order(file: Path) -> list[tuple[int, str]]:
    """Return a key that sorts the numbers in a name by value: 2 before 10."""
    parts = re.split(r"(\d+)", file.name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]
