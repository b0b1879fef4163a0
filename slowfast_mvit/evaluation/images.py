"""Images inside the page itself, as ``data:`` addresses."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

THUMBNAIL_PX = 160


def thumbnail(frame: np.ndarray) -> str:
    """Encode a frame (H, W, 3) uint8 RGB as a JPEG of at most 160 pixels a side."""
    image = Image.fromarray(frame)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR)
    return _address(image, "jpeg", quality=80, subsampling="4:4:4")


def lossless(pixels: np.ndarray) -> str:
    """Encode an image (H, W, 3) uint8 RGB as a PNG."""
    return _address(Image.fromarray(pixels), "png", optimize=True)


def _address(image: Image.Image, kind: str, **options: Any) -> str:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
