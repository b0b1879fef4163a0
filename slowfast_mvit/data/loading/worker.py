"""One process that reads videos, seen from both of its ends.

    main process                                 worker
    Worker.submit(Task)         -- socket -->       serve: reads the videos of the batch
    Worker.result()          <-- socket --       Result, and the descriptor of its pixels
    Worker.place()           <-- marks ---       the video it is busy with, for when it dies

``torch.utils.data.DataLoader`` would end the run with its first worker, at any moment of the
training step, and cannot tell which video that worker was reading.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import traceback
from dataclasses import dataclass, fields, replace
from math import prod
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from slowfast_mvit.data.loading.items import Begin, ItemKey, VideoItems, batch_shape, read_batch
from slowfast_mvit.data.loading.shared_pixels import ReadBuffers, WrittenBuffers
from slowfast_mvit.errors import DecodeError, UserError
from slowfast_mvit.structures import ClipBatch

START_LIMIT_S = 600.0  # importing from a busy network file system can take minutes
ORPHAN_CHECK_S = 5.0

# A terminal or a scheduler sends these to all processes of a run. They are for the main process to
# deal with, which may want more batches before it ends.
LEFT_TO_MAIN = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# What a worker marks: how many videos it has begun, and the one it is busy with.
NUM_BEGUN, EPOCH, POSITION, INDEX = range(4)
NO_VIDEO = -1

# Why a video is never opened again in this run, by its mark in ``Job.refused``.
DIED, STUCK = 1, 2
REFUSALS = {
    DIED: "brings down the process that reads it; tried twice, not opened again in this run",
    STUCK: "gives nothing within DATA_LOADER.TIMEOUT_S; tried twice, not opened again in this run",
}


class BatchKeys(Protocol):
    """The items of each batch; sent to the workers once, which then get (epoch, step) only."""

    def __len__(self) -> int:
        """Steps in an epoch."""

    def __call__(self, epoch: int, step: int) -> list[ItemKey]:
        """The items of one batch."""


@dataclass(frozen=True)
class Job:
    """The settings that all workers of a pool share.

    Attributes:
        dataset: of the videos.
        keys: the items of each batch.
        num_bytes: of the pixels of the largest batch.
        refused: a byte for each video of the list, in memory that all share: 0, or the reason why
            it is not opened, see ``REFUSALS``.
    """

    dataset: VideoItems
    keys: BatchKeys
    num_bytes: int
    refused: ctypes.Array[ctypes.c_byte]


@dataclass(frozen=True)
class Task:
    """A batch to read.

    Attributes:
        epoch: 0-based.
        step: of the epoch.
        buffer: number of the buffer to write it into; None for a new one.
    """

    epoch: int
    step: int
    buffer: int | None = None


@dataclass(frozen=True)
class Result:
    """A batch that was read, its pixels apart.

    Attributes:
        buffer: number of the buffer that holds the pixels.
        is_new: whether the descriptor of that buffer follows.
        shape: of the pixels, (B, V, 3, T, S, S) for all B videos asked for.
        filled: how much of B and of V was written.
        fields: what else a ``ClipBatch`` has, tensors as arrays.
    """

    buffer: int
    is_new: bool
    shape: tuple[int, ...]
    filled: tuple[int, ...]
    fields: dict[str, Any]

    def batch(self, buffer: Tensor) -> ClipBatch:
        """The batch, its pixels in the buffer."""
        num_videos, num_places = self.filled
        pixels = as_pixels(buffer, self.shape)[:num_videos, :num_places]
        values = {name: _from_array(value) for name, value in self.fields.items()}
        return ClipBatch(pixels=pixels, **values)


def fields_without_pixels(batch: ClipBatch) -> dict[str, Any]:
    """Return what ``Result.fields`` holds of a batch."""
    values = {item.name: getattr(batch, item.name) for item in fields(batch)}
    del values["pixels"]
    return {name: _to_array(value) for name, value in values.items()}


def as_pixels(buffer: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The first bytes of a buffer, in a shape."""
    return buffer[: prod(shape)].view(shape)


def _to_array(value: Any) -> Any:
    """A tensor would travel through shared memory, which costs more than copying a small one."""
    return value.numpy() if isinstance(value, Tensor) else value


def _from_array(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


@dataclass(frozen=True)
class WorkerBug:
    """An exception in a worker that is no user's: a bug, with its traceback."""

    traceback: str


Outcome = Result | UserError | WorkerBug | None


class WorkerLost(Exception):
    """A worker died or is stuck.

    Attributes:
        mark: ``DIED`` or ``STUCK``.
        key: the video it was busy with, or None.
        had_started: whether it ever came so far as to wait for work.
    """

    def __init__(self, how: str, mark: int, key: ItemKey | None, had_started: bool) -> None:
        super().__init__(how)
        self.mark = mark
        self.key = key
        self.had_started = had_started


class Worker:
    """A running worker process; the main process's end of it."""

    def __init__(self, job: Job, context: SpawnContext) -> None:
        self._job = job
        self._marks = context.RawArray(ctypes.c_int64, 4)
        self._marks[INDEX] = NO_VIDEO
        self._link, theirs = context.Pipe()
        # Blocked here, they are blocked in what is started: the worker, and the processes that
        # multiprocessing starts beside it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_MAIN)
        try:
            resource_tracker.ensure_running()  # else ``start`` does this, and unblocks them
            signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_MAIN)
            self._process = context.Process(
                target=serve, args=(theirs, self._marks, job), name="reader", daemon=True
            )
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._started = False
        self._buffers = ReadBuffers(job.num_bytes)

    def submit(self, work: Task | ItemKey) -> None:
        """Give it a batch to read, or a single video to try."""
        if isinstance(work, Task):
            work = replace(work, buffer=self._buffers.release())
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # ``answer`` will tell
            self._link.send(work)

    def result(self, timeout_s: float) -> ClipBatch | UserError | WorkerBug | None:
        """The outcome of the oldest work not yet answered; None for a video that was tried.

        Args:
            timeout_s: how long a single video may take.

        Raises:
            WorkerLost: it died, or began no other video within that time. It is gone then.
        """
        try:
            if not self._started:
                self._await(START_LIMIT_S)
                self._link.recv()
                self._started = True
            self._await(timeout_s)
            message: Outcome = self._link.recv()
            if not isinstance(message, Result):
                return message
            if message.is_new:
                self._buffers.add(recv_handle(self._link))
        except (EOFError, OSError) as error:
            raise self._lost(DIED, self._how_it_died()) from error
        return message.batch(self._buffers.acquire(message.buffer))

    def stop(self) -> None:
        """End the process now; it holds nothing that is worth an orderly end."""
        self._process.kill()
        self._process.join(ORPHAN_CHECK_S)  # no longer: a read from a dead disk cannot be ended
        self._link.close()

    def _await(self, limit_s: float) -> None:
        """Wait until it has said something, or is dead; as long as it gets on, without a limit."""
        while True:
            begun = self._marks[NUM_BEGUN]
            if wait([self._link, self._process.sentinel], timeout=limit_s):
                return
            if self._marks[NUM_BEGUN] == begun:
                raise self._lost(STUCK, f"gave nothing for {limit_s:g} s")

    def _how_it_died(self) -> str:
        self._process.join(ORPHAN_CHECK_S)
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        return f"was killed by {signal.Signals(-code).name}"

    def _lost(self, mark: int, how: str) -> WorkerLost:
        _, epoch, position, index = self._marks
        self.stop()
        key = None if index == NO_VIDEO else ItemKey(epoch, position, index)
        return WorkerLost(how, mark, key, self._started)


def serve(link: Connection, marks: ctypes.Array[ctypes.c_int64], job: Job) -> None:
    """Return what a worker does: answer until the main process is gone."""
    for number in LEFT_TO_MAIN:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)  # there is a worker for each core that is meant to be used
    parent = os.getppid()
    buffers = WrittenBuffers(job.num_bytes)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # it is gone
        link.send("ready")
        while _is_asked(link, parent):
            _answer(link.recv(), link, marks, job, buffers)
            marks[INDEX] = NO_VIDEO


def _is_asked(link: Connection, parent: int) -> bool:
    """Wait for work; False if the main process is gone."""
    while not link.poll(ORPHAN_CHECK_S):
        if os.getppid() != parent:
            return False
    return True


def _answer(
    work: Task | ItemKey,
    link: Connection,
    marks: ctypes.Array[ctypes.c_int64],
    job: Job,
    buffers: WrittenBuffers,
) -> None:
    def begin(key: ItemKey) -> None:
        marks[EPOCH], marks[POSITION], marks[INDEX] = key.epoch, key.position, key.index
        marks[NUM_BEGUN] += 1
        if reason := REFUSALS.get(job.refused[key.index]):
            raise DecodeError(reason, job.dataset.videos[key.index].path)

    answer: Outcome = None
    descriptor = None
    try:
        if isinstance(work, ItemKey):
            job.dataset.read(work, None, begin)
        else:
            number = work.buffer
            if number is None:
                number, descriptor = buffers.make()
            answer = _read(work, number, descriptor is not None, job, buffers, begin)
    except UserError as error:  # raised here, it would be lost in a traceback
        answer = error
    except Exception:
        answer = WorkerBug(traceback.format_exc())
    link.send(answer)
    if isinstance(answer, Result) and descriptor is not None:
        send_handle(link, descriptor, os.getppid())
    if descriptor is not None:
        os.close(descriptor)


def _read(
    task: Task, number: int, is_new: bool, job: Job, buffers: WrittenBuffers, begin: Begin
) -> Result:
    keys = job.keys(task.epoch, task.step)
    shape = batch_shape(job.dataset, keys)
    batch = read_batch(job.dataset, keys, as_pixels(buffers[number], shape), begin)
    filled = tuple(batch.pixels.shape[:2])
    return Result(number, is_new, shape, filled, fields_without_pixels(batch))
