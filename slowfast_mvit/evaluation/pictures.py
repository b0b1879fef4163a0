"""Pictures inside the page itself, as ``data:`` addresses.

FFmpeg writes them, through PyAV, which reads the videos too.
"""

from __future__ import annotations

import base64
from fractions import Fraction
from typing import cast

import av
import numpy as np
import torch
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace
from torch.nn import functional

THUMBNAIL_PX = 160
JPEG_QUALITY = "3"  # FFmpeg's scale: 2 is best, 31 worst


def thumbnail(frame: np.ndarray) -> str:
    """The address of a frame (H, W, 3) uint8 RGB, as a JPEG of at most 160 pixels a side."""
    small = av.VideoFrame.from_ndarray(_shrunk(frame), format="rgb24")
    # JPEG files hold the full range of ITU-R BT.601 colours; a video would use a part of it.
    small = small.reformat(
        format="yuvj444p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.JPEG
    )
    options = {"qmin": JPEG_QUALITY, "qmax": JPEG_QUALITY}
    return _address("image/jpeg", _encoded(small, "mjpeg", options))


def exact_picture(pixels: np.ndarray) -> str:
    """The address of a picture (H, W, 3) uint8 RGB, as a PNG: every pixel kept."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return _address("image/png", _encoded(frame, "png", {}))


def _shrunk(frame: np.ndarray) -> np.ndarray:
    scale = THUMBNAIL_PX / max(frame.shape[:2])
    if scale >= 1:
        return np.ascontiguousarray(frame)
    size = [max(1, round(side * scale)) for side in frame.shape[:2]]
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    pixels = functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    pixels = pixels[0].permute(1, 2, 0).round().clamp(0, 255)
    return pixels.to(torch.uint8).contiguous().numpy()


def _encoded(frame: av.VideoFrame, codec: str, options: dict[str, str]) -> bytes:
    encoder = cast(VideoCodecContext, av.CodecContext.create(codec, "w"))
    encoder.width, encoder.height = frame.width, frame.height
    encoder.pix_fmt = frame.format.name
    encoder.time_base = Fraction(1, 1)
    encoder.options = options
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
