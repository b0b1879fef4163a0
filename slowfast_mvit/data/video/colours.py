"""Colour matrices that FFmpeg does not convert to RGB."""

from __future__ import annotations

import functools
import logging

import av

_log = logging.getLogger(__name__)

_UNSPECIFIED = 2
# Numbers of ISO/IEC 23091-2, table 4: RGB, BT.709, unspecified, FCC, BT.601 (twice), SMPTE 240M and
# BT.2020. FFmpeg refuses the others (YCgCo, ICtCp, ...) since version 8, and ignored them before.
_CONVERTED = (0, 1, _UNSPECIFIED, 4, 5, 6, 7, 9)


def ignore_unknown_matrix(frame: av.VideoFrame) -> None:
    """Remove the tag of a matrix that FFmpeg does not convert; the colours are those of BT.601."""
    if frame.colorspace not in _CONVERTED:
        _warn_once(frame.colorspace)
        frame.colorspace = _UNSPECIFIED


@functools.cache
def _warn_once(matrix: int) -> None:
    text = "FFmpeg does not convert the colour matrix %d of a video to RGB; it is read as BT.601"
    _log.warning(text, matrix)
