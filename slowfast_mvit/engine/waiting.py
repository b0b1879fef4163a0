"""How long training waits for data: measured where it costs something, and what to do about it."""

from __future__ import annotations

import logging
import time

import torch

logger = logging.getLogger(__name__)

# Above this share of the time somebody should do something about it.
NOTABLE_SHARE = 0.1
HINT_PERIOD_S = 1800.0


class DataWait:
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
