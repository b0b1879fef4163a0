"""The same work on each of many files: in parallel, resumed after any end, divided over machines.

    inputs --> those of this shard --> those without a record --> worker processes --> journal
                                                                   |
                             one file at a time; a file that crashes its process, or takes
                             longer than it may, costs that file a record and nobody else

A script gives its work as a function of one file, ``work(job, **settings) -> dict``, and gets the
rest from here and from ``command_line.py`` for its options and what happens then.
"""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from data_prep.journal import Record, Work, open_journal
from data_prep.parts import WHOLE, Shard
from data_prep.whole_files import remove_left_overs
from slowfast_mvit.errors import UserError, in_one_message

_START_S = 300.0  # a worker imports its libraries, from a slow disk perhaps
_ORPHAN_S = 30.0  # beyond its time limit, until a worker whose parent was killed ends by itself

# Why a worker answers with what is to be done instead of a record: it cannot write, and the next
# files would fail as this one did. What cannot be read is a ``DecodeError``.
_STOP = "stop"
_STOPPING = {
    errno.ENOSPC: "Make room there",
    errno.EDQUOT: "Make room there",
    errno.EROFS: "Give a folder that can be written",
    errno.EACCES: "Give a folder that can be written",
    errno.EPERM: "Give a folder that can be written",
    errno.EMFILE: "Raise the limit (ulimit -n), or give fewer --workers",
    errno.ENFILE: "Give fewer --workers",
}


@dataclass(frozen=True)
class JobInput:
    """One file to work on.

    Attributes:
        name: its path as a list names it, the same on all machines; the key of its record.
        path: where it is.
    """

    name: str
    path: Path


WorkFunction = Callable[..., Record]  # work(job: JobInput, **settings) -> what to record
Stamp = Callable[[JobInput], dict[str, Any]]
Outputs = Callable[[JobInput], Sequence[Path]]


def no_outputs(job: JobInput) -> Sequence[Path]:
    """For work that only reads."""
    return ()


def file_stamp(job: JobInput) -> dict[str, Any]:
    """Size and time of change: a record is of the file as it is today if it holds the same."""
    try:
        status = os.stat(job.path)
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return {"bytes": 0, "mtime_ns": 0}
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


# Running


def run_jobs(
    inputs: Sequence[JobInput],
    work: WorkFunction,
    out: Path,
    *,
    job: str,
    settings: Mapping[str, Any],
    shard: Shard = WHOLE,
    num_workers: int = 1,
    timeout_s: float = 600.0,
    stamp: Stamp = file_stamp,
    retry_failed: bool = False,
    outputs: Outputs = no_outputs,
) -> Counter[str]:
    """Do the work on each input of a shard that has no record yet.

    Args:
        inputs: all files, of all shards; their names differ.
        work: called as ``work(job_input, **settings)`` in another process, so it must be a
            function at the top of a module. What it returns is recorded, with "status" "ok" if it
            gives none; an error that it raises is recorded as "failed" with its text as "reason".
        out: where ``merging.merge`` will join the records; the journal of this shard lies beside.
        job: what this work is called, in the journal.
        settings: what decides the outcome besides the file: plain values, compared on resuming.
        shard: which part of the inputs is done here.
        num_workers: processes. The records do not depend on it, only the order in the journal.
        timeout_s: after this time on one file its process is killed and the file failed.
        stamp: fields by which a record is known to be of the file as it is today.
        retry_failed: do files again whose record says that they failed.
        outputs: the files that the work writes with ``whole_files.written_whole``; what killed
            processes left of them is removed.

    Returns:
        How many files of the shard have which status.

    Raises:
        UserError: when names repeat, the journal cannot be gone on with, or nothing can be written
            any more: a full disk is no fault of a file.
    """
    _refuse_repeated_names(inputs)
    mine = sorted((i for i in inputs if shard.takes(i.name)), key=lambda i: os.fsencode(i.name))
    stamps = {job_input.name: stamp(job_input) for job_input in mine}
    whole = Work.of(job, settings, (job_input.name for job_input in inputs))
    with open_journal(out, shard, whole, stamps, retry_failed=retry_failed) as journal:
        counts = Counter(record["status"] for record in journal.records.values())
        todo = [job_input for job_input in mine if job_input.name not in journal.records]
        results = _results(todo, work, settings, num_workers, timeout_s)
        with (
            _without_left_overs(todo, outputs),
            contextlib.closing(results),
            _progress(len(mine), len(mine) - len(todo), shard) as bar,
        ):
            for name, result in results:
                if _STOP in result:
                    raise UserError(f"{name}: {result[_STOP]}. Then run the same command again")
                record = {"path": name, **stamps[name], "status": "ok", "reason": "", **result}
                journal.write(record)
                counts[record["status"]] += 1
                bar.set_postfix(counts, refresh=False)
                bar.update()
    return counts


@contextlib.contextmanager
def _without_left_overs(todo: Sequence[JobInput], outputs: Outputs) -> Iterator[None]:
    """Remove what earlier processes left, and at the end what those left that were ended here."""
    outs = [out for job_input in todo for out in outputs(job_input)]
    remove_left_overs(outs)
    try:
        yield
    finally:
        remove_left_overs(outs)


def _refuse_repeated_names(inputs: Sequence[JobInput]) -> None:
    repeated = [name for name, n in Counter(i.name for i in inputs).items() if n > 1]
    if repeated:
        raise UserError(in_one_message("inputs", [f"{n!r} is given twice" for n in repeated[:20]]))


def _progress(total: int, done: int, shard: Shard) -> Any:
    """A bar on a terminal; a line every half minute in a log."""
    from tqdm import tqdm  # here, as the workers need none

    every_s = 0.2 if sys.stderr.isatty() else 30.0
    what = "all files" if shard.count == 1 else f"shard {shard}"
    return tqdm(total=total, initial=done, unit="file", desc=what, mininterval=every_s)


def _results(
    todo: Sequence[JobInput],
    work: WorkFunction,
    settings: Mapping[str, Any],
    num_workers: int,
    timeout_s: float,
) -> Generator[tuple[str, Record], None, None]:
    """(name, what is to be recorded) of each input, in the order in which they are done."""
    context = _context(work)
    queue = iter(todo)
    num_workers = min(num_workers, len(todo))
    workers = [_Worker(context, work, settings, timeout_s) for _ in range(num_workers)]
    try:
        while workers:
            for worker in _with_news(workers):
                done = worker.news()
                if done is not None:
                    yield done
                workers.remove(worker)
                job = next(queue, None)
                if job is None:
                    worker.stop()
                elif worker.process.is_alive():
                    worker.give(job)
                    workers.append(worker)
                else:
                    queue = _put_back(job, queue)
                    workers.append(_Worker(context, work, settings, timeout_s))
    finally:
        for worker in workers:
            worker.stop()


def _put_back(job: JobInput, queue: Iterator[JobInput]) -> Iterator[JobInput]:
    yield job
    yield from queue


def _context(work: WorkFunction) -> BaseContext:
    """Processes forked from a clean one that has imported what the work needs, once for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    return context


class _Worker:
    """A process that does one file after another, and what its parent knows of it."""

    def __init__(
        self, context: Any, work: WorkFunction, settings: Mapping[str, Any], timeout_s: float
    ) -> None:
        self.connection, other = context.Pipe()
        arguments = (other, work, dict(settings), timeout_s)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        other.close()
        self._timeout_s = timeout_s
        self._job: JobInput | None = None
        self.deadline_s = time.monotonic() + _START_S

    def give(self, job: JobInput) -> None:
        """Let it work on a file."""
        self._job = job
        self.deadline_s = time.monotonic() + self._timeout_s
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((job.name, str(job.path)))  # if it has just ended, ``news`` says

    def news(self) -> tuple[str, Record] | None:
        """What became of its file; None when it is ready for the first."""
        try:
            if self.connection.poll():
                answer = json.loads(self.connection.recv_bytes())
                return (self._job.name, answer) if self._job else None
            reason = f"not done within {self._timeout_s:g} s"
        except (EOFError, ConnectionResetError):
            self.process.join(10)
            reason = _end_in_words(self.process.exitcode)
        self.stop()
        if self._job is None:
            raise RuntimeError(f"a worker process did not start: {reason}")
        return self._job.name, {"status": "failed", "reason": reason}

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def _with_news(workers: Sequence[_Worker]) -> list[_Worker]:
    """Wait for workers that have answered, ended or overrun their time."""
    first_s = min(worker.deadline_s for worker in workers)
    ready = wait([w.connection for w in workers], max(0.0, first_s - time.monotonic()))
    now = time.monotonic()
    return [w for w in workers if w.connection in ready or now >= w.deadline_s]


def _end_in_words(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"the process that worked on it ended with status {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"the process that worked on it crashed ({name}{hint})"


def _serve(
    connection: Connection, work: WorkFunction, settings: Mapping[str, Any], timeout_s: float
) -> None:
    """The worker: takes (name, path) until its parent is gone, answers with JSON.

    JSON, since what a file's content has got hold of must not be unpickled.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    connection.send_bytes(b"null")
    while True:
        try:
            name, path = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, timeout_s + _ORPHAN_S)
        result = _done(work, JobInput(name, Path(path)), settings)
        connection.send_bytes(json.dumps(result).encode())


def _done(work: WorkFunction, job: JobInput, settings: Mapping[str, Any]) -> Record:
    """What the work returns, or a record of its error: one file must not end the run."""
    try:
        return work(job, **settings)
    except Exception as error:
        advice = _STOPPING.get(error.errno or 0) if isinstance(error, OSError) else None
        if advice:
            return {_STOP: f"{error}. {advice}"}
        kind = "" if isinstance(error, (UserError, OSError)) else f"{type(error).__name__}: "
        text = str(error).removeprefix(f"{job.path}: ").removeprefix(f"{job.name}: ")
        return {"status": "failed", "reason": f"{kind}{text}"}
