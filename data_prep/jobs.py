"""The same work on each of many files: in parallel, resumed after any end, divided over machines.

    inputs --> those of this shard --> those without a record --> process pool --> journal
                                                                   |
                             one file at a time; a file that crashes its process, or takes
                             longer than it may, costs that file a record and no other

A script gives its work as a function of one file, ``work(job, **settings) -> dict``, and gets the
rest from here and from ``command_line.py`` for its options and what happens then.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as TooLong
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from data_prep.journal import Record, Work, open_journal
from data_prep.parts import WHOLE, Shard
from slowfast_mvit.errors import DecodeError, UserError, in_one_message
from slowfast_mvit.storage import remove_left_overs

if TYPE_CHECKING:
    from pebble import ProcessPool

_CHUNK = 1 << 20
_ORPHAN_S = 30.0  # beyond its time limit, until a worker whose parent was killed ends by itself
_MAX_BROKEN_POOLS = 3  # in a row, without a result

# What ends the run instead of failing a file: nothing can be written, and the next files would
# fail as this one did. What cannot be read is a ``DecodeError``.
_ADVICE = {
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


def sha256_of(file: IO[bytes]) -> str:
    """SHA-256 of an open file, which is at its beginning afterwards."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


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
        out: where ``merging.merge`` will join the records; the journal of this shard is next to it.
        job: what this work is called, in the journal.
        settings: what decides the outcome besides the file: plain values, compared on resuming.
        shard: which part of the inputs is done here.
        num_workers: processes. The records do not depend on it, only the order in the journal.
        timeout_s: after this time on one file its process is killed and the file failed.
        stamp: fields by which a record is known to be of the file as it is today.
        retry_failed: do files again whose record says that they failed.
        outputs: the files that the work writes with ``storage.atomic_path``; what killed processes
            left of them is removed.

    Returns:
        How many files of the shard have which status.

    Raises:
        UserError: when names repeat, the journal cannot be resumed, or nothing can be written any
            more: a full disk is no fault of a file.
    """
    repeated = [name for name, n in Counter(i.name for i in inputs).items() if n > 1]
    if repeated:
        raise UserError(in_one_message("inputs", [f"{n!r} is given twice" for n in repeated[:20]]))
    mine = sorted((i for i in inputs if shard.takes(i.name)), key=lambda i: os.fsencode(i.name))
    stamps = {job_input.name: stamp(job_input) for job_input in mine}
    whole = Work.of(job, settings, [job_input.name for job_input in inputs])
    attempt = functools.partial(_attempt, work, dict(settings), timeout_s)
    with contextlib.ExitStack() as stack:
        done, write = stack.enter_context(
            open_journal(out, shard, whole, stamps, retry_failed=retry_failed)
        )
        counts = Counter(record["status"] for record in done.values())
        todo = [job_input for job_input in mine if job_input.name not in done]
        outs = [path for job_input in todo for path in outputs(job_input)]
        remove_left_overs(outs)
        stack.callback(remove_left_overs, outs)  # of the processes that are killed here
        bar = stack.enter_context(_progress(len(mine), len(done), shard))
        results = _results(todo, attempt, work.__module__, num_workers, timeout_s)
        stack.enter_context(contextlib.closing(results))
        for name, result in results:
            record = {"path": name, **stamps[name], "status": "ok", "reason": "", **result}
            write(record)
            counts[record["status"]] += 1
            bar.set_postfix(counts, refresh=False)
            bar.update()
    return counts


def _progress(total: int, done: int, shard: Shard) -> Any:
    """A bar on a terminal; a line every half minute in a log."""
    from tqdm import tqdm  # here, as the workers need none

    every_s = 0.2 if sys.stderr.isatty() else 30.0
    what = "all files" if shard.count == 1 else f"shard {shard}"
    return tqdm(total=total, initial=done, unit="file", desc=what, mininterval=every_s)


def _results(
    todo: Sequence[JobInput],
    attempt: Callable[[JobInput], Record],
    module: str,
    num_workers: int,
    timeout_s: float,
) -> Generator[tuple[str, Record], None, None]:
    """(name, what is to be recorded) of each input, in the order in which they are done.

    A pool breaks where a process ends that has no file, which is no fault of any; another one does
    what it has not done.
    """
    waiting, num_broken = deque(todo), 0
    while waiting and num_broken < _MAX_BROKEN_POOLS:
        pool = _new_pool(module, min(num_workers, len(waiting)))
        running: dict[Future[Record], JobInput] = {}
        num_broken += 1
        try:
            while (waiting or running) and pool.active:
                while waiting and len(running) < 2 * num_workers:
                    job = waiting.popleft()
                    running[pool.schedule(attempt, args=(job,), timeout=timeout_s)] = job
                for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    if not isinstance(future.exception(), BrokenProcessPool):
                        yield running.pop(future).name, _outcome(future, timeout_s)
                        num_broken = 0
        finally:
            waiting.extend(running.values())
            pool.stop()
            pool.join()
    if waiting:
        raise RuntimeError("the worker processes end before they have done a file")


def _new_pool(module: str, num_workers: int) -> ProcessPool:
    """Processes forked from a clean one that has imported what the work needs, once for all."""
    try:
        from pebble import ProcessPool
    except ImportError:
        raise UserError(
            "working on many files needs pebble, which is not installed: "
            "pip install 'slowfast_mvit[data_prep]'"
        ) from None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    resource_tracker.ensure_running()  # it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()  # Ctrl-C reaches all processes; the parent decides
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # Once it has imported all, workers start at once. One that starts when Ctrl-C has ended the
    # pool would print a traceback.
    first = context.Process(target=time.time, daemon=True)
    first.start()
    first.join()
    return ProcessPool(num_workers, context=context)


def _outcome(future: Future[Record], timeout_s: float) -> Record:
    """Return what the work returned, or a record of the end of its process.

    Raises:
        UserError: nothing can be written any more.
    """
    from pebble import ProcessExpired

    try:
        return future.result()
    except ProcessExpired as end:
        reason = f"the process that worked on it {_end_of_process(end.exitcode)}"
    except TooLong:
        reason = f"not done within {timeout_s:g} s"
    return {"status": "failed", "reason": reason}


def _end_of_process(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with status {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"crashed ({name}{', perhaps for want of memory' if name == 'SIGKILL' else ''})"


def _attempt(
    work: WorkFunction, settings: Mapping[str, Any], timeout_s: float, job: JobInput
) -> Record:
    """In a worker: what the work returns, or a record of its error.

    Raises:
        UserError: the next files would fail as this one did.
    """
    signal.setitimer(signal.ITIMER_REAL, timeout_s + _ORPHAN_S)
    try:
        return work(job, **settings)
    except DecodeError as error:
        reason = error.reason_of(job.path, job.name)
    except OSError as error:
        if advice := _ADVICE.get(error.errno or 0):
            text = f"{job.name}: {error}. {advice}. Then run the same command again"
            raise UserError(text) from None
        reason = str(error)
    except UserError as error:
        reason = str(error)
    except Exception as error:  # one file must not end the run
        reason = f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"status": "failed", "reason": reason}
