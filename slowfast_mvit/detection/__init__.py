"""Detectors on a backbone of ``slowfast_mvit.models``.

layers.py   convolutions with a norm        fpn.py   the feature pyramid
"""

from slowfast_mvit.detection.fpn import FPN

__all__ = ["FPN"]
