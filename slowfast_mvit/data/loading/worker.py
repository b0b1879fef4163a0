"""One worker process that reads videos: both ends of its connection.

    main process                                 worker
    Worker.submit(Task)      -- socket -->       serve: reads the videos of the batch
    Worker.result()          <-- socket --       Result, and the descriptor of its pixels
    WorkerLost.key           <-- marks ---       the video in progress, for when the worker dies

``torch.utils.data.DataLoader`` would end the run with its first worker, at any moment of the
training step, and does not report which video that worker was reading.
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

from slowfast_mvit.data.loading.items import ItemKey, VideoItems, batch_shape, read_batch
from slowfast_mvit.data.loading.shared_pixels import ReadBuffers, WrittenBuffers
from slowfast_mvit.errors import DecodeError, UserError
from slowfast_mvit.runtime.watchdog import note_progress
from slowfast_mvit.structures import ClipBatch

START_LIMIT_S = 600.0  # importing from a busy network file system can take minutes
ORPHAN_CHECK_S = 5.0

# A terminal or a scheduler sends these to all processes of a run. Only the main process handles
# them; it may need more batches before it ends.
LEFT_TO_MAIN = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# The marks of a worker: the number of videos it has begun, and the one in progress.
NUM_BEGUN, EPOCH, POSITION, INDEX = range(4)
NO_VIDEO = -1

# Reasons why a video is not opened again in this run, by its mark in ``Job.refused``.
DIED, STUCK = 1, 2
REFUSALS = {
    DIED: "crashes the process that reads it; tried twice, not opened again in this run",
    STUCK: "not read within DATA_LOADER.TIMEOUT_S; tried twice, not opened again in this run. "
    "Raise it if the storage is slow",
}


class BatchKeys(Protocol):
    """The items of each batch; sent to the workers once, which then receive (epoch, step) only."""

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""

    def __call__(self, epoch: int, step: int) -> list[ItemKey]:
        """Return the items of one batch."""


@dataclass(frozen=True)
class Job:
    """The settings that all workers of a pool share.

    Attributes:
        dataset: of the videos.
        keys: the items of each batch.
        num_bytes: of the pixels of the largest batch.
        refused: a byte for each video of the list, in shared memory: 0, or the reason why it is not
            opened, see ``REFUSALS``.
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
        buffer: number of the buffer to write it to; None for a new one.
    """

    epoch: int
    step: int
    buffer: int | None = None


@dataclass(frozen=True)
class Result:
    """A batch that was read, without its pixels.

    Attributes:
        buffer: number of the buffer that contains the pixels.
        is_new: whether the descriptor of that buffer follows.
        shape: of the pixels, (B, V, 3, T, S, S) for all B requested videos.
        filled: the part of B and of V that was written.
        fields: the other fields of the ``ClipBatch``, tensors as arrays: a tensor would be sent
            through shared memory, which costs more than copying a small one.
    """

    buffer: int
    is_new: bool
    shape: tuple[int, ...]
    filled: tuple[int, ...]
    fields: dict[str, Any]

    def batch(self, buffer: Tensor) -> ClipBatch:
        """Return the batch, its pixels in the buffer."""
        num_videos, num_places = self.filled
        pixels = as_pixels(buffer, self.shape)[:num_videos, :num_places]
        values: dict[str, Any] = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in self.fields.items()
        }
        return ClipBatch(pixels=pixels, **values)


def fields_without_pixels(batch: ClipBatch) -> dict[str, Any]:
    """Return the ``Result.fields`` of a batch."""
    values = {item.name: getattr(batch, item.name) for item in fields(batch)}
    del values["pixels"]
    return {
        name: value.numpy() if isinstance(value, Tensor) else value
        for name, value in values.items()
    }


def as_pixels(buffer: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the first bytes of a buffer, in a shape."""
    return buffer[: prod(shape)].view(shape)


@dataclass(frozen=True)
class WorkerBug:
    """An exception in a worker that is not a ``UserError``: a bug, with its traceback."""

    traceback: str


Outcome = Result | UserError | WorkerBug | None


class WorkerLost(Exception):
    """A worker died or is stuck.

    Attributes:
        mark: ``DIED`` or ``STUCK``.
        key: the video in progress, or None.
        had_started: whether the worker had started to wait for work.
    """

    def __init__(self, how: str, mark: int, key: ItemKey | None, had_started: bool) -> None:
        super().__init__(how)
        self.mark = mark
        self.key = key
        self.had_started = had_started


class Worker:
    """A running worker process; the main process's end of the connection."""

    def __init__(self, job: Job, context: SpawnContext) -> None:
        self._job = job
        self._marks = context.RawArray(ctypes.c_int64, 4)
        self._marks[INDEX] = NO_VIDEO
        self._link, worker_end = context.Pipe()
        # Blocked here, they are blocked in what is started: the worker, and the other processes
        # that multiprocessing starts.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_MAIN)
        try:
            resource_tracker.ensure_running()  # else ``start`` does this, and unblocks them
            signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_MAIN)
            self._process = context.Process(
                target=serve, args=(worker_end, self._marks, job), name="reader", daemon=True
            )
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        worker_end.close()
        self._started = False
        self._buffers = ReadBuffers(job.num_bytes)

    def submit(self, work: Task | ItemKey) -> None:
        """Submit a batch to read, or a single video to try."""
        if isinstance(work, Task):
            work = replace(work, buffer=self._buffers.release())
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # ``result`` reports it
            self._link.send(work)

    def result(self, timeout_s: float) -> ClipBatch | UserError | WorkerBug | None:
        """Return the result of the oldest pending work; None for a video that was tried.

        Args:
            timeout_s: limit for a single video.

        Raises:
            WorkerLost: it died, or began no other video within that time. It is stopped then.
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
        """Kill the process; it has nothing to save."""
        self._process.kill()
        self._process.join(ORPHAN_CHECK_S)  # no longer: a read from a dead disk cannot be ended
        self._link.close()

    def _await(self, limit_s: float) -> None:
        """Wait for a message or the end of the process; the limit is that of one video."""
        while True:
            note_progress()  # each wait has a limit, so the main thread does not hang
            begun = self._marks[NUM_BEGUN]
            if wait([self._link, self._process.sentinel], timeout=limit_s):
                return
            if self._marks[NUM_BEGUN] == begun:
                raise self._lost(STUCK, f"sent nothing for {limit_s:g} s")

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
    """Run in the worker: handle submitted work until the main process is gone."""
    for number in LEFT_TO_MAIN:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)  # the number of workers is the number of cores to use
    parent = os.getppid()
    buffers = WrittenBuffers(job.num_bytes)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # main is gone
        link.send("ready")
        while _has_work(link, parent):
            _handle(link.recv(), link, marks, job, buffers)
            marks[INDEX] = NO_VIDEO


def _has_work(link: Connection, parent: int) -> bool:
    """Wait for work; False if the main process is gone."""
    while not link.poll(ORPHAN_CHECK_S):
        if os.getppid() != parent:
            return False
    return True


def _handle(
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

    outcome: Outcome = None
    descriptor = None
    try:
        if isinstance(work, ItemKey):
            job.dataset.read(work, None, begin)
        else:
            number = work.buffer
            if number is None:
                number, descriptor = buffers.make()
            keys = job.keys(work.epoch, work.step)
            shape = batch_shape(job.dataset, keys)
            batch = read_batch(job.dataset, keys, as_pixels(buffers[number], shape), begin)
            filled = tuple(batch.pixels.shape[:2])
            is_new = descriptor is not None
            outcome = Result(number, is_new, shape, filled, fields_without_pixels(batch))
    except UserError as error:  # raised here, it would be lost in a traceback
        outcome = error
    except Exception:
        outcome = WorkerBug(traceback.format_exc())
    link.send(outcome)
    if descriptor is not None:
        if isinstance(outcome, Result):
            send_handle(link, descriptor, os.getppid())
        os.close(descriptor)
