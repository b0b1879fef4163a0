"""The command line of the scripts that work on many files: options, running, exit statuses."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.jobs import (
    JobInput,
    Outputs,
    Stamp,
    WorkFunction,
    file_stamp,
    no_outputs,
    run_jobs,
)
from data_prep.journal import Record
from data_prep.merging import merge, refuse_foreign_files
from data_prep.parts import Shard
from slowfast_mvit.errors import UserError, in_one_message
from slowfast_mvit.runtime.launch_environment import available_cores

_SHOWN_FAILURES = 5
_MANY_FAILED = 1  # exit status


def parser_of(documentation: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of a script."""
    about, _, rest = (documentation or "").partition("\n")
    return argparse.ArgumentParser(
        description=about, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every job has."""
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the records, one JSON object a line; .csv beside")
    add("--shard", default="", help="part i of N of the files, written i/N with i from 0")
    add("--merge", action="store_true", help="join the records of all shards; do nothing else")
    add("--workers", type=whole_number, default=available_cores(), help="processes (%(default)s)")
    add("--timeout-s", type=whole_number, default=600, help="for one file (%(default)s)")
    add("--retry-failed", action="store_true", help="do failed files again")
    add(
        "--max-failed-fraction",
        type=_fraction,
        default=0.01,
        help="exit status 1 above (%(default)s)",
    )
    add(
        "--ray",
        type=functools.partial(whole_number, at_least=0),
        default=0,
        metavar="N",
        help="run N shards as tasks of a Ray cluster; 0 for none (%(default)s)",
    )


def whole_number(text: str, *, at_least: int = 1) -> int:
    """A number of processes or seconds from the command line."""
    if not text.isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {at_least}")
    return int(text)


def _fraction(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")


def run_command(
    options: argparse.Namespace,
    inputs: Sequence[JobInput],
    work: WorkFunction,
    *,
    job: str,
    settings: Mapping[str, Any],
    command: Sequence[str],
    stamp: Stamp = file_stamp,
    outputs: Outputs = no_outputs,
    finish: Callable[[Sequence[Record]], None] = lambda records: None,
) -> int:
    """Run a job as ``add_arguments`` says, and join the records once all of them are there.

    Args:
        options: the parsed command line.
        inputs, work, job, settings, stamp, outputs: as ``run_jobs`` takes them.
        command: the script and its words, as they were given: what --ray runs for each shard.
        finish: called with all records after they were joined.

    Returns:
        The exit status: 1 when more than ``--max-failed-fraction`` failed.

    Raises:
        UserError: as ``run_jobs`` and ``merging.merge`` do.
    """
    shard = Shard.parse(options.shard) if options.shard else Shard.from_environment(os.environ)
    refuse_foreign_files(options.out)
    is_part = shard.count > 1 and not (options.merge or options.ray)
    records: list[Record] = []
    if options.ray:
        _run_with_ray(command, options.ray, options.workers)
    elif not options.merge:
        counts = run_jobs(
            inputs,
            work,
            options.out,
            job=job,
            settings=settings,
            shard=shard,
            num_workers=options.workers,
            timeout_s=options.timeout_s,
            stamp=stamp,
            retry_failed=options.retry_failed,
            outputs=outputs,
        )
    if not is_part:
        records = merge(options.out)
        counts = Counter(record["status"] for record in records)
        finish(records)
    where = f"shard {shard}" if is_part else str(options.out)
    told = ", ".join(f"{number:,} {status}" for status, number in sorted(counts.items()))
    print(f"{where}: {told or 'no files'}")
    for record in [r for r in records if r["status"] != "ok"][:_SHOWN_FAILURES]:
        reason = record["reason"].encode("ascii", "backslashreplace").decode()
        print(f"  {record['path']!a}: {record['status']}, {reason}")
    if is_part:
        print("When all shards are done, run the same command with --merge instead of --shard.")
    total = sum(counts.values())
    return _MANY_FAILED if counts["failed"] > options.max_failed_fraction * total else 0


def _run_with_ray(command: Sequence[str], num_shards: int, num_workers: int) -> None:
    """Each shard as a Ray task that runs the script, as a task of a Slurm array would.

    What a node needs besides Ray is what those need: the same Python, checkout and files at the
    same places. Functions sent by Ray would ask for more, a ``data_prep`` that can be imported.

    Raises:
        UserError: when Ray is missing, or shards ended early; says how.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise UserError("--ray needs Ray, which is not installed: pip install ray") from None
    ray.init(ignore_reinit_error=True)
    task = ray.remote(num_cpus=num_workers)(subprocess.run)
    shards = [str(Shard(i, num_shards)) for i in range(num_shards)]
    ended = ray.get(
        [
            task.remote(
                [sys.executable, *command, "--ray", "0", "--shard", shard],
                cwd=os.getcwd(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for shard in shards
        ]
    )
    problems = [
        f"shard {shard} ended with status {end.returncode}: {_last_line(end.stdout)}"
        for shard, end in zip(shards, ended, strict=True)
        if end.returncode not in (0, _MANY_FAILED)
    ]
    if problems:
        raise UserError(in_one_message("--ray", problems))


def _last_line(output: bytes) -> str:
    return (output.decode("utf-8", "replace").strip().splitlines() or [""])[-1]


def exit_status(main: Callable[[], int]) -> int:
    """Run a script's ``main``; what the user can mend and Ctrl-C end it without a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C; how Slurm ends a job
        signal.signal(number, signal.default_int_handler)
    try:
        return main()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:  # no permission, no room, a file where a folder should be
        where = error.filename2 or error.filename
        print(f"{where}: {error.strerror}" if where else error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to go on.", file=sys.stderr)
        return 130
