"""Stop requests: signals of a scheduler that preempts the run, or Ctrl-C.

The handler only records the signal. The training loop checks between two steps whether any process
got one, saves, and ends; nothing is ever saved in the middle of a step.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import torch
from torch import distributed

from slowfast_mvit.errors import Stopped
from slowfast_mvit.runtime.distributed import is_main, world_size
from slowfast_mvit.runtime.watchdog import collective_timeout, waiting_for_ranks

# Of a scheduler (Slurm, Kubernetes, torchrun), of Slurm's early warning, of Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """The stop requests of a run. Created by ``stop_requests``."""

    def __init__(self) -> None:
        self.requested = 0  # the number of the signal that this process got
        self._group: distributed.ProcessGroup | None = None
        self._agreement: torch.Tensor | None = None
        self._exchange: distributed.Work | None = None
        if world_size() > 1:
            # Gloo, and so the CPU: the check must not wait for the GPU.
            with waiting_for_ranks():
                self._group = distributed.new_group(  # type: ignore[assignment]
                    backend="gloo", timeout=collective_timeout()
                )

    def agreed(self) -> int:
        """Return the number of the signal that any process got, or 0; the same on all of them.

        Every process must call this once after each step. With several, the result is of the step
        before: the exchange overlaps with the next step, and no process waits for it.
        """
        if self._group is None:
            return self.requested
        result = 0
        if self._exchange is not None and self._agreement is not None:
            with waiting_for_ranks():
                self._exchange.wait()
            result = int(self._agreement)
        self._agreement = torch.tensor(self.requested)
        self._exchange = distributed.all_reduce(
            self._agreement, distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        return result

    def raise_if_requested(self) -> None:
        """Stop at once if this process got a signal; for code that has nothing to save.

        Raises:
            Stopped: it got one.
        """
        if self.requested:
            raise Stopped(self.requested)

    def _record(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.requested == signal.SIGINT:
                raise KeyboardInterrupt
            if is_main():
                message = b"\nStopping after this step, and saving. Ctrl-C again to stop at once.\n"
                os.write(sys.stderr.fileno(), message)
        self.requested = number


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Record stop signals inside; the second Ctrl-C stops at once.

    Outside the main thread Python cannot handle signals. There (Ray trains in such a thread) the
    run continues until it is killed, and loses the steps since its last checkpoint.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._record) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
