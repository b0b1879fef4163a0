"""The data-stall timer: the time that training waits for data, and a hint how to reduce it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from slowfast_mvit.runtime.metric_writers import share_waiting

logger = logging.getLogger(__name__)

# The share of the time above which a hint is logged, and how often.
NOTABLE_SHARE = 0.1
HINT_PERIOD_S = 1800.0
SLOW_WINDOWS = 2  # in a row


class DataStallTimer:
    """A clock that runs while training waits for a batch.

    On a GPU the host runs ahead of the device, and may wait without loss while the device still has
    work. So the gap on the device counts too, between the end of one batch's work and the start of
    the next one's: a wait is the shorter of the two. CUDA events measure the gap; they are read
    only when ``take`` is called.

    Args:
        device: on which the steps are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._waited_s = 0.0
        self._gaps: list[tuple[float, torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> None:
        """Start the clock."""
        self._since_s = time.monotonic()
        if self._on_gpu:
            self._work_ends = _mark()

    def stop(self) -> None:
        """Stop the clock."""
        waited_s = time.monotonic() - self._since_s
        if self._on_gpu:
            self._gaps.append((waited_s, self._work_ends, _mark()))
        else:
            self._waited_s += waited_s

    def take(self) -> float:
        """Return the seconds waited since the last call; waits until the device has finished."""
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
    """A metric writer that logs a hint now and then when training waits for data."""

    def __init__(self, *, num_workers: int, num_cores: int, can_fuse: bool) -> None:
        """
        Args:
            num_workers: processes that read videos, of all ranks on this node.
            num_cores: available to them.
            can_fuse: augmentation is on, and not by ``AUG.AA_METHOD fused``.
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
        self._logged_s = -math.inf

    def write(self, record: Mapping[str, Any]) -> None:
        """Check a record. One slow window is no reason for a hint: workers start, epochs begin."""
        if record["_type"] != "train_iter_":
            return
        share = share_waiting(record) or 0.0
        is_slow = share > NOTABLE_SHARE or self._num_slow < 0
        self._num_slow = self._num_slow + 1 if is_slow else 0
        now_s = time.monotonic()
        if self._num_slow < SLOW_WINDOWS or now_s - self._logged_s < HINT_PERIOD_S:
            return
        self._logged_s = now_s
        logger.warning(
            "training waits for data %.0f %% of the time: %s. Remedies, in this order: %s",
            100 * share,
            self._cause,
            self._advice,
        )

    def close(self) -> None:
        """Nothing to write."""
