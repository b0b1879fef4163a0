"""Being asked to stop: by a scheduler that wants the machine back, or by Ctrl-C.

A signal is only noted when it comes. The training loop asks between two steps whether one came, to
whichever process, saves, and ends; nothing is ever saved in the middle of a step.
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

# What asks a run to stop: a scheduler (Slurm, Kubernetes, torchrun), Slurm's early warning, Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """The stop requests of this run. Made by ``stop_requests``."""

    def __init__(self) -> None:
        self.asked = 0  # the number of the signal that came to this process
        self._group: distributed.ProcessGroup | None = None
        self._agreement: torch.Tensor | None = None
        self._under_way: distributed.Work | None = None
        if world_size() > 1:
            # Gloo, and so the CPU: asking must not wait for what a GPU is still computing.
            self._group = distributed.new_group(backend="gloo")  # type: ignore[assignment]

    def agreed(self) -> int:
        """The number of the signal that came to any process, or 0; the same on all of them.

        Every process must call this once after each step. With several, the answer is of the step
        before: it travels while the next step is computed, and nobody waits for it.
        """
        if self._group is None:
            return self.asked
        answer = 0
        if self._under_way is not None and self._agreement is not None:
            self._under_way.wait()
            answer = int(self._agreement)
        self._agreement = torch.tensor(self.asked)
        self._under_way = distributed.all_reduce(
            self._agreement, distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        return answer

    def finish(self) -> None:
        """Wait for the last answer, which nobody wants any more."""
        if self._under_way is not None:
            self._under_way.wait()
        self._under_way = None

    def raise_if_asked(self) -> None:
        """End here if this process has been asked to; for where nothing has to be saved.

        Raises:
            Stopped: a signal came.
        """
        if self.asked:
            raise Stopped(self.asked)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.asked == signal.SIGINT:
                raise KeyboardInterrupt
            if is_main():
                words = b"\nStopping after this step, and saving. Ctrl-C again to stop at once.\n"
                os.write(sys.stderr.fileno(), words)
        self.asked = number


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note signals that ask to stop while this runs; the second Ctrl-C is not waited for.

    Outside the main thread Python cannot note signals. There (Ray trains in such a thread) the run
    goes on until it is killed, and loses what it did since its last checkpoint.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
