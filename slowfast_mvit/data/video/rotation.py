"""The rotation and mirroring of frames to show them upright, from the display matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer

from slowfast_mvit.errors import DecodeError


@dataclass(frozen=True)
class Orientation:
    """First rows and columns are exchanged, then the axes are reversed.

    Attributes:
        is_transposed: whether a row of the file is a column of the frame as shown.
        reverses_x: whether left and right change places.
        reverses_y: whether top and bottom do.
    """

    is_transposed: bool = False
    reverses_x: bool = False
    reverses_y: bool = False

    def is_mirrored(self) -> bool:
        """Return whether no rotation alone makes the frame upright."""
        return self.is_transposed ^ self.reverses_x ^ self.reverses_y

    def upright(self, image: np.ndarray) -> np.ndarray:
        """Return an image (H, W, 3) as it is shown; a view of the one in the file."""
        if self.is_transposed:
            image = image.swapaxes(0, 1)
        return image[:: -1 if self.reverses_y else 1, :: -1 if self.reverses_x else 1]


AS_STORED = Orientation()


def orientation_of(path: Path, frame: av.VideoFrame) -> Orientation:
    """Return the orientation in the display matrix (ISO 14496-12, 8.3.2), read as ffmpeg does.

    A pixel (x, y) of the file is shown at (a x + c y, b x + d y). Scales are ignored.

    Raises:
        DecodeError: when the rotation is not a multiple of 90 degrees.
    """
    container: Any = SideDataContainer
    matrix = container(frame).get("DISPLAYMATRIX")  # frame.side_data would be a cycle: a leak
    if matrix is None:
        return AS_STORED
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix)[:36], dtype=np.int32).tolist()
    if not (a or c) or not (b or d):  # not invertible: ignored
        return AS_STORED
    angle = round(math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c))))
    if angle % 90:
        raise DecodeError(
            f"a rotation of {angle} degrees, not a multiple of 90 degrees. "
            "Encode it again with ffmpeg, which rotates the frames",
            path,
        )
    if angle % 180:
        return Orientation(True, reverses_x=c < 0, reverses_y=b < 0)
    return Orientation(False, reverses_x=a < 0, reverses_y=d < 0)
