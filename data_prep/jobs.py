"""The same work on each of many files: in parallel, resumed after any end, divided over machines.

    inputs --> those of this part --> those without a record --> process pool --> journal
                                                                   |
                             one file at a time; a file that crashes its process, or exceeds
                             its time limit, costs that file a record and no other

A script describes its ``Work`` on one file; ``command_line.py`` has the options and the reports.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
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
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from data_prep.journal import Head, Part, Record, digest_of, open_journal, part_path
from slowfast_mvit.errors import DecodeError, UserError, in_one_message
from slowfast_mvit.storage import remove_left_overs

if TYPE_CHECKING:
    from pebble import ProcessPool

WHOLE = Part()

_CHUNK = 1 << 20
_ORPHAN_S = 30.0  # beyond its time limit, until a worker whose parent was killed ends by itself
_MAX_BROKEN_POOLS = 3  # in a row, without a result

# What ends the run instead of failing a file: nothing can be written, and the next files would
# fail as this one did. A file that cannot be read is a ``DecodeError``.
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Make room there"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "Give a folder that can be written"),
    errno.EMFILE: "Raise the limit (ulimit -n), or give fewer --workers",
    errno.ENFILE: "Give fewer --workers",
}


@dataclass(frozen=True)
class JobInput:
    """One file to work on.

    Attributes:
        name: its path as a list names it, the same on all machines; the key of its record.
        path: the file.
    """

    name: str
    path: Path


def file_stamp(job: JobInput) -> dict[str, Any]:
    """Size and time of change: a record with the same values is of the file as it is today."""
    try:
        status = os.stat(job.path)
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return {"bytes": 0, "mtime_ns": 0}
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


@dataclass(frozen=True)
class Work:
    """The work on each file of a job.

    Attributes:
        name: of the job, in the journal.
        function: called as ``function(job_input, **settings)`` in another process, so it must be at
            the top of a module. What it returns is recorded, with "status" "ok" unless it returns
            another; an error that it raises is recorded as "failed" with its text as "reason".
        settings: arguments of the function, plain values; compared on resuming.
        stamp: fields by which a record is known to be of the file as it is today.
        outputs: the files that the function writes with ``storage.atomic_path``; what killed
            processes left of them is removed.
    """

    name: str
    function: Callable[..., Record]
    settings: Mapping[str, Any] = field(default_factory=dict)
    stamp: Callable[..., dict[str, Any]] = file_stamp
    outputs: Callable[..., Sequence[Path]] = lambda job: ()


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
    work: Work,
    out: Path,
    *,
    part: Part = WHOLE,
    num_workers: int = 1,
    timeout_s: float = 600.0,
    retry_failed: bool = False,
) -> Counter[str]:
    """Do the work on each input of a part that has no record yet.

    Args:
        inputs: all files, of all parts; their names differ.
        work: the work on each.
        out: the file of ``journal.merge``; the journal of this part is next to it.
        part: the part of the inputs that is done here.
        num_workers: processes. The records do not depend on it, only the order in the journal.
        timeout_s: after this time on one file its process is killed and the file failed.
        retry_failed: do files again whose record is "failed".

    Returns:
        The number of files of the part by status.

    Raises:
        UserError: when names repeat, the journal cannot be resumed, or nothing can be written any
            more: a full disk is no fault of a file.
    """
    repeated = [name for name, n in Counter(i.name for i in inputs).items() if n > 1]
    if repeated:
        problems = [f"{name!r} is listed twice" for name in repeated[:20]]
        raise UserError(in_one_message("inputs", problems))
    of_part = (job for job in inputs if part.contains(job.name))
    in_part = sorted(of_part, key=lambda job: os.fsencode(job.name))
    stamps = {job.name: work.stamp(job) for job in in_part}
    digest = digest_of(job.name for job in inputs)
    settings = json.loads(json.dumps(work.settings))
    head = Head(work.name, settings, len(inputs), digest, str(part), len(in_part))
    with contextlib.ExitStack() as stack:
        journal = open_journal(part_path(out, part), head, stamps, retry_failed=retry_failed)
        done, write = stack.enter_context(journal)
        counts = Counter(record["status"] for record in done.values())
        todo = [job for job in in_part if job.name not in done]
        outputs = [path for job in todo for path in work.outputs(job)]
        remove_left_overs(outputs)
        stack.callback(remove_left_overs, outputs)  # of the processes that are killed here
        bar = stack.enter_context(_progress(len(in_part), len(done), part))
        results = _results(todo, work, num_workers, timeout_s)
        stack.enter_context(contextlib.closing(results))
        for name, result in results:
            record = {"path": name, **stamps[name], "status": "ok", "reason": "", **result}
            write(record)
            counts[record["status"]] += 1
            bar.set_postfix(counts, refresh=False)
            bar.update()
    return counts


def _progress(total: int, done: int, part: Part) -> Any:
    """A bar on a terminal; a line every half minute in a log."""
    from tqdm import tqdm  # here, as the workers need none

    every_s = 0.2 if sys.stderr.isatty() else 30.0
    label = "all files" if part.count == 1 else f"part {part}"
    return tqdm(total=total, initial=done, unit="file", desc=label, mininterval=every_s)


def _results(
    todo: Sequence[JobInput], work: Work, num_workers: int, timeout_s: float
) -> Generator[tuple[str, Record], None, None]:
    """(name, record) of each input, in the order in which they are done.

    A pool breaks where a process ends that has no file, which is no fault of any; another one does
    the rest.
    """
    attempt = functools.partial(_attempt, work.function, dict(work.settings), timeout_s)
    waiting, num_broken = deque(todo), 0
    while waiting and num_broken < _MAX_BROKEN_POOLS:
        pool = _new_pool(work.function.__module__, min(num_workers, len(waiting)))
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
    """The record of the work, or one of the end of its process.

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
    return f"crashed ({name}{', perhaps for lack of memory' if name == 'SIGKILL' else ''})"


def _attempt(
    function: Callable[..., Record], settings: Mapping[str, Any], timeout_s: float, job: JobInput
) -> Record:
    """The record of the work, or one of its error; runs in a worker.

    Raises:
        UserError: the next files would fail as this one did.
    """
    signal.setitimer(signal.ITIMER_REAL, timeout_s + _ORPHAN_S)
    try:
        return function(job, **settings)
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
