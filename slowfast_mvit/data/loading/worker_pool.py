"""Worker processes that continue to read after a video has crashed or blocked one of them.

When a worker dies (a crash in a decoder, the kernel short of memory) or is stuck, its video is
tried again, alone, in a new process. If that fails the same way, the video counts as unreadable,
and is not opened again in this run; if not, the video was not the cause. Either way a new worker
reads the same batches again, so that batches do not change.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class WorkerSettings:
    """The worker processes of a loader.

    Attributes:
        num_workers: processes that read; 0 to read in the main process.
        pin_memory: copy batches to page-locked memory where there is a CUDA device.
        start_method: one of ``START_METHODS``; "" for a fork server where possible. With "fork", do
            not decode in the main process before the workers are started.
        timeout_s: time limit for one video, after which a worker counts as stuck.
    """

    num_workers: int = 0
    pin_memory: bool = False
    start_method: str = ""
    timeout_s: float = 300.0


class WorkerPool:
    """The processes that read the batches of an epoch; they start with the first epoch.

    Args:
        dataset: of the videos.
        keys: the items of each batch.
        settings: of the workers, at least 1.

    Raises:
        ConfigError: when there is no such start method.
    """

    def __init__(self, dataset: VideoItems, keys: BatchKeys, settings: WorkerSettings) -> None:
        method = settings.start_method or default_start_method()
        pick(START_METHODS, method, "start method")
        # The contexts of all methods have the same methods.
        self._context = cast(SpawnContext, multiprocessing.get_context(method))
        if method == "forkserver":
            self._context.set_forkserver_preload([__name__, "slowfast_mvit.data.views.train_views"])
        refused = self._context.RawArray(ctypes.c_byte, max(len(dataset.videos), 1))
        largest = keys(0, 0) if len(keys) else []
        num_bytes = max(prod(batch_shape(dataset, largest)), 1)
        self._job = Job(dataset, keys, num_bytes, refused)
        self._num_workers = min(settings.num_workers, max(len(keys), 1))  # at most one a batch
        self._timeout_s = settings.timeout_s
        self._workers = list[Worker]()
        self._pending = list[deque[Task]]()  # of each worker
        self._num_lost_in_a_row = 0
        self._current: object = None  # identifies the epoch that is being read
        # At exit, multiprocessing first calls this and then waits for running processes.
        Finalize(self, _stop, args=(self._workers,), exitpriority=10)

    def batches(self, epoch: int, steps: Sequence[int]) -> Iterator[ClipBatch]:
        """Return the batches of these steps of an epoch.

        Raises:
            UserError: an error after which no worker can continue.
            RuntimeError: a bug in a worker, with its traceback; or another epoch was started.
        """
        self._leave_epoch()
        this = self._current = object()
        while len(self._workers) < self._num_workers:
            self._workers.append(Worker(self._job, self._context))
            self._pending.append(deque())
        try:
            ahead = PREFETCH * self._num_workers
            for step in steps[:ahead]:
                self._submit(Task(epoch, step))
            for place, step in enumerate(steps):
                if self._current is not this:
                    raise RuntimeError(f"epoch {epoch} ended when another one was started")
                batch = self._result(step % self._num_workers)
                for later in steps[place + ahead : place + ahead + 1]:
                    self._submit(Task(epoch, later))
                yield batch
        finally:
            if self._current is this:
                self._leave_epoch()

    def _leave_epoch(self) -> None:
        """Stop the workers if results are pending, which are not needed any more."""
        if any(self._pending):
            self.stop()

    def stop(self) -> None:
        """End all workers; the next epoch starts new ones."""
        _stop(self._workers)
        self._pending.clear()

    def _submit(self, task: Task) -> None:
        number = task.step % self._num_workers
        self._pending[number].append(task)
        self._workers[number].submit(task)

    def _result(self, number: int) -> ClipBatch:
        """Return the result of the oldest task of a worker, which is restarted when it is lost."""
        while True:
            try:
                outcome = self._workers[number].result(self._timeout_s)
                break
            except WorkerLost as loss:
                self._diagnose(loss)
                self._workers[number] = Worker(self._job, self._context)
                for task in self._pending[number]:
                    self._workers[number].submit(task)
        if isinstance(outcome, UserError):
            raise outcome
        if isinstance(outcome, WorkerBug):
            raise RuntimeError(f"in a worker that reads videos:\n{outcome.traceback}")
        assert outcome is not None
        self._pending[number].popleft()
        self._num_lost_in_a_row = 0
        return outcome

    def _diagnose(self, loss: WorkerLost) -> None:
        """Find out whether a video is the cause; then it is not opened again.

        Raises:
            DecodeError: too many workers were lost for videos to be the cause.
        """
        if not loss.had_started:
            raise DecodeError(
                f"a worker that reads videos {loss} while it started. See its output above; "
                'a script of your own may lack `if __name__ == "__main__":`. '
                "DATA_LOADER.NUM_WORKERS 0 reads without workers"
            ) from loss
        while_reading = f" while it read {self._path(loss.key)}" if loss.key is not None else ""
        logger.info("a worker that reads videos %s%s", loss, while_reading)
        self._num_lost_in_a_row += 1
        if self._num_lost_in_a_row > MAX_LOST_IN_A_ROW:
            raise DecodeError(
                f"{self._num_lost_in_a_row} workers that read videos died or were stuck without a "
                f"batch in between: the last one {loss}{while_reading}. If memory ran out, lower "
                "DATA_LOADER.NUM_WORKERS or the batch size; if it is the reader, choose another "
                "DATA.DECODING_BACKEND"
            ) from loss
        again = self._try_alone(loss.key) if loss.key is not None else None
        if loss.key is not None and again is not None and again.key == loss.key:
            self._job.refused[loss.key.index] = again.mark
            logger.warning("%s: %s", self._path(loss.key), REFUSALS[again.mark])

    def _try_alone(self, key: ItemKey) -> WorkerLost | None:
        """Read one video in a new process; return the loss of that process, if it was lost."""
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
    """Return a fork server, or fork for a program from standard input, which cannot be imported."""
    program = getattr(sys.modules["__main__"], "__file__", None)
    return "fork" if program is not None and not Path(program).exists() else "forkserver"


def _stop(workers: list[Worker]) -> None:
    for worker in workers:
        worker.stop()
    workers.clear()
