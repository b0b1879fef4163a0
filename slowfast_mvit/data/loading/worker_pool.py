"""Worker processes that go on reading whatever a video does to one of them.

When a worker dies (a crash in a decoder, the kernel short of memory) or is stuck, the video it was
busy with is tried again, alone, in a process of its own. If that ends the same way, the video is
unreadable like any other, and is not opened again in this run; if not, the worker was unlucky.
Either way a new worker reads the same batches again, so that they stay what they were.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from math import prod
from multiprocessing.context import SpawnContext
from multiprocessing.util import Finalize
from pathlib import Path
from typing import cast

from slowfast_mvit.data.loading.items import ItemKey, VideoItems, batch_shape
from slowfast_mvit.data.loading.worker import (
    REFUSALS,
    BatchKeys,
    Job,
    Task,
    Worker,
    WorkerBug,
    WorkerLost,
)
from slowfast_mvit.errors import DecodeError, UserError, pick
from slowfast_mvit.structures import ClipBatch

logger = logging.getLogger(__name__)

PREFETCH = 2  # batches that a worker reads ahead
MAX_LOST_IN_A_ROW = 5  # workers that died or were stuck, without a batch between

# A fork server forks as fast as a fork, but from a process that never decoded nor held a thread.
START_METHODS = {name: name for name in ("forkserver", "fork", "spawn")}
PRELOADED = [
    "slowfast_mvit.data.loading.train_items",
    "slowfast_mvit.data.loading.eval_items",
    __name__,
]


class WorkerPool:
    """Reads the batches of an epoch in several processes, in their order.

    Args:
        dataset: of the videos.
        keys: the items of each batch.
        num_workers: how many processes, at least 1. They start with the first epoch.
        start_method: one of ``START_METHODS``; "" for a fork server where that can be.
        timeout_s: how long a single video may take.

    Raises:
        ConfigError: when there is no such start method.
    """

    def __init__(
        self,
        dataset: VideoItems,
        keys: BatchKeys,
        *,
        num_workers: int,
        start_method: str,
        timeout_s: float,
    ) -> None:
        method = pick(START_METHODS, start_method or default_start_method(), "start method")
        # The contexts of all methods have the same methods.
        self._context = cast(SpawnContext, multiprocessing.get_context(method))
        if method == "forkserver":
            self._context.set_forkserver_preload(PRELOADED)
        refused = self._context.RawArray(ctypes.c_byte, max(len(dataset.videos), 1))
        largest = keys(0, 0) if len(keys) else []
        num_bytes = max(prod(batch_shape(dataset, largest)), 1)
        self._job = Job(dataset, keys, num_bytes, refused)
        self._num_workers = min(num_workers, max(len(keys), 1))  # no more than there is work for
        self._timeout_s = timeout_s
        self._workers = list[Worker]()
        self._asked = list[deque[Task]]()  # of each worker, and not answered
        self._lost_in_a_row = 0
        self._reading: object = None  # whose answers are awaited
        # At exit, multiprocessing first does this and then waits for what still runs.
        Finalize(self, _stop, args=(self._workers,), exitpriority=10)

    def batches(self, epoch: int, steps: Sequence[int]) -> Iterator[ClipBatch]:
        """The batches of these steps of an epoch.

        Raises:
            UserError: what no worker could go on from.
            RuntimeError: a bug in a worker, with its traceback; or another epoch was begun since.
        """
        self._leave_epoch()
        this = self._reading = object()
        while len(self._workers) < self._num_workers:
            self._workers.append(Worker(self._job, self._context))
            self._asked.append(deque())
        try:
            ahead = PREFETCH * self._num_workers
            for step in steps[:ahead]:
                self._ask(Task(epoch, step))
            for place, step in enumerate(steps):
                if self._reading is not this:
                    raise RuntimeError(f"epoch {epoch} was left when another one was begun")
                batch = self._receive(step % self._num_workers)
                for later in steps[place + ahead : place + ahead + 1]:
                    self._ask(Task(epoch, later))
                yield batch
        finally:
            if self._reading is this:
                self._leave_epoch()

    def _leave_epoch(self) -> None:
        """Stop what is still being read: nobody wants it."""
        if any(self._asked):
            self.stop()

    def stop(self) -> None:
        """End all workers; the next epoch starts new ones."""
        _stop(self._workers)
        self._asked.clear()

    def _ask(self, task: Task) -> None:
        number = task.step % self._num_workers
        self._asked[number].append(task)
        self._workers[number].submit(task)

    def _receive(self, number: int) -> ClipBatch:
        """The answer to the oldest task of a worker, which is started again as often as need be."""
        while True:
            try:
                outcome = self._workers[number].result(self._timeout_s)
                break
            except WorkerLost as loss:
                self._explain(loss)
                self._restart(number)
        if isinstance(outcome, UserError):
            raise outcome
        if isinstance(outcome, WorkerBug):
            raise RuntimeError(f"in a worker that reads videos:\n{outcome.traceback}")
        assert outcome is not None
        self._asked[number].popleft()
        self._lost_in_a_row = 0
        return outcome

    def _restart(self, number: int) -> None:
        self._workers[number] = Worker(self._job, self._context)
        for task in self._asked[number]:
            self._workers[number].submit(task)

    def _explain(self, loss: WorkerLost) -> None:
        """Find out whether a video is to blame; then it is not opened again.

        Raises:
            DecodeError: too many workers were lost for videos to be the cause.
        """
        if not loss.had_started:
            raise DecodeError(
                f"a worker that reads videos {loss} while it started. What it wrote before tells "
                'why; a script of your own may lack `if __name__ == "__main__":`. '
                "DATA_LOADER.NUM_WORKERS 0 reads without workers"
            ) from loss
        while_reading = f" while it read {self._path(loss.key)}" if loss.key is not None else ""
        logger.info("a worker that reads videos %s%s", loss, while_reading)
        self._lost_in_a_row += 1
        if self._lost_in_a_row > MAX_LOST_IN_A_ROW:
            raise DecodeError(
                f"{self._lost_in_a_row} workers that read videos died or were stuck, and no batch "
                f"came between: the last one {loss}{while_reading}. If memory ran out, lower "
                "DATA_LOADER.NUM_WORKERS or the batch size; if it is the reader, choose another "
                "DATA.DECODING_BACKEND"
            ) from loss
        again = self._try_alone(loss.key) if loss.key is not None else None
        if loss.key is not None and again is not None and again.key == loss.key:
            self._job.refused[loss.key.index] = again.mark
            logger.warning("%s: %s", self._path(loss.key), REFUSALS[again.mark])

    def _try_alone(self, key: ItemKey) -> WorkerLost | None:
        """Read one video in a process of its own; tells how that was lost, if it was."""
        worker = Worker(self._job, self._context)
        try:
            worker.submit(key)
            worker.result(self._timeout_s)
        except WorkerLost as again:
            return again
        worker.stop()
        return None

    def _path(self, key: ItemKey) -> str:
        return self._job.dataset.videos[key.index].path


def default_start_method() -> str:
    """A fork server, but for a program from standard input: its workers could not import that."""
    program = getattr(sys.modules["__main__"], "__file__", None)
    return "fork" if program is not None and not Path(program).exists() else "forkserver"


def _stop(workers: list[Worker]) -> None:
    for worker in workers:
        worker.stop()
    workers.clear()
