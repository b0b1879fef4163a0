"""The data-stall timer: time that training waits for data, and a hint at what to do about it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from slowfast_mvit.runtime.metric_writers import share_waiting

logger = logging.getLogger(__name__)

# Above this share of the time something should be done about it, and how often that is said.
NOTABLE_SHARE = 0.1
HINT_PERIOD_S = 1800.0
SLOW_WINDOWS = 2  # in a row


class DataStallTimer:
    """A clock that runs while training wants a batch and has none.

    On a GPU the host runs ahead of the device, and waits without harm while the device still has
    work. So there the gap on the device counts too, between the end of one batch's work and the
    beginning of the next one's: a wait is as long as the shorter of the two. Marks in the stream
    of the device tell the gap when they are read; nothing waits for them before.

    Args:
        device: on which the steps are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._waited_s = 0.0
        self._gaps: list[tuple[float, torch.cuda.Event, torch.cuda.Event]] = []

    def wanted(self) -> None:
        """Start the clock."""
        self._since_s = time.monotonic()
        if self._on_gpu:
            self._work_ends = _mark()

    def arrived(self) -> None:
        """Stop the clock."""
        waited_s = time.monotonic() - self._since_s
        if self._on_gpu:
            self._gaps.append((waited_s, self._work_ends, _mark()))
        else:
            self._waited_s += waited_s

    def take(self) -> float:
        """Seconds waited since the last call; waits until the device has done all its work."""
        if self._gaps:
            self._gaps[-1][2].synchronize()
        for host_s, work_ended, work_began in self._gaps:
            self._waited_s += min(host_s, work_ended.elapsed_time(work_began) / 1000)
        waited_s, self._waited_s = self._waited_s, 0.0
        self._gaps = []
        return waited_s


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class DataStallHint:
    """Says once in a while what to do when training waits for data; takes records as curves do."""

    def __init__(self, *, num_workers: int, num_cores: int, can_fuse: bool) -> None:
        """
        Args:
            num_workers: processes that read videos, of all ranks on this node.
            num_cores: that they may use.
            can_fuse: augmentation works in another way than ``AUG.AA_METHOD fused``.
        """
        self._cause = (
            f"{num_workers} workers on {num_cores} cores read too slowly"
            if num_workers
            else f"DATA_LOADER.NUM_WORKERS is 0, so nothing is read ahead ({num_cores} cores)"
        )
        advice = []
        if num_workers < num_cores:
            advice.append("raise DATA_LOADER.NUM_WORKERS")
        advice.append("make the videos small once, with data_prep/resize_videos.py")
        if can_fuse:
            advice.append("set AUG.AA_METHOD fused")
        if num_workers >= num_cores:
            advice.append("take nodes with more cores for each GPU")
        self._advice = "; ".join(advice)
        self._num_slow = -1  # windows in a row; the first of a process does not count
        self._told_s = -math.inf

    def write(self, record: Mapping[str, Any]) -> None:
        """Look at a record. One slow window is no reason: workers start, epochs begin."""
        if record["_type"] != "train_iter_":
            return
        share = share_waiting(record) or 0.0
        is_slow = share > NOTABLE_SHARE or self._num_slow < 0
        self._num_slow = self._num_slow + 1 if is_slow else 0
        now_s = time.monotonic()
        if self._num_slow < SLOW_WINDOWS or now_s - self._told_s < HINT_PERIOD_S:
            return
        self._told_s = now_s
        logger.warning(
            "training waits for data %.0f %% of the time: %s. To do, in this order: %s",
            100 * share,
            self._cause,
            self._advice,
        )

    def close(self) -> None:
        """Nothing to write."""
