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

from data_prep.jobs import JobInput, Work, run_jobs
from data_prep.journal import Part, Record, check_replaceable, merge
from slowfast_mvit.errors import UserError, in_one_message
from slowfast_mvit.runtime.launch_environment import available_cores

_SHOWN_FAILURES = 5
_MANY_FAILED = 1  # exit status

ADVICE_TO_MERGE = "When all parts are done, run the same command with --merge instead of --part."


def parser_of(documentation: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of a script."""
    about, _, rest = (documentation or "").partition("\n")
    return argparse.ArgumentParser(
        description=about, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def parse(
    parser: argparse.ArgumentParser, script: str, words: Sequence[str] | None
) -> argparse.Namespace:
    """The options of a command line, with the ``command`` itself, which --ray runs for each part.

    Args:
        parser: that of the script.
        script: the file of the script.
        words: the words of the command line; None for those of the process.
    """
    words = sys.argv[1:] if words is None else words
    return parser.parse_args(words, argparse.Namespace(command=[script, *words]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every job has."""
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the records, one JSON object a line; also as .csv")
    add_part_arguments(parser)
    add("--retry-failed", action="store_true", help="do failed files again")
    text = "exit status 1 above (%(default)s)"
    add("--max-failed-fraction", type=_fraction, default=0.01, help=text)
    at_least_0 = functools.partial(whole_number, at_least=0)
    text = "run N parts as tasks of a Ray cluster; 0 for none (%(default)s)"
    add("--ray", type=at_least_0, default=0, metavar="N", help=text)


def add_part_arguments(parser: argparse.ArgumentParser, condition: str = "") -> None:
    """Add the options of how files are divided over machines and processes.

    Args:
        parser: that of the script.
        condition: of these options, for the help: "with --verify: ".
    """
    add = parser.add_argument
    text = "part i of N of the files, written i/N with i from 0"
    # --shard: as in earlier versions.
    add("--part", "--shard", default="", metavar="i/N", help=condition + text)
    add("--merge", action="store_true", help=f"{condition}all parts are done: merge their records")
    text = f"{condition}processes (%(default)s)"
    add("--workers", type=whole_number, default=available_cores(), help=text)
    text = f"{condition}limit for one file, in seconds (%(default)s)"
    add("--timeout-s", type=whole_number, default=600, help=text)


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


def part_of(options: argparse.Namespace) -> Part:
    """The part that the options give, or else the environment of a Slurm array."""
    return Part.parse(options.part) if options.part else Part.from_environment(os.environ)


def run_command(
    options: argparse.Namespace,
    inputs: Sequence[JobInput],
    work: Work,
    finish: Callable[[Sequence[Record]], None] = lambda records: None,
) -> int:
    """Run a job with the options of ``add_arguments``, and merge the records of all parts.

    Args:
        options: the parsed command line.
        inputs: the files of all parts.
        work: the work on each.
        finish: called with all records after they were merged.

    Returns:
        The exit status: 1 when more than ``--max-failed-fraction`` failed.

    Raises:
        UserError: as ``run_jobs`` and ``journal.merge`` do.
    """
    part = part_of(options)
    check_replaceable(options.out)
    is_one_of_many = part.count > 1 and not (options.merge or options.ray)
    records: list[Record] = []
    if options.ray:
        _run_with_ray(options.command, options.ray, options.workers)
    elif not options.merge:
        counts = run_jobs(
            inputs,
            work,
            options.out,
            part=part,
            num_workers=options.workers,
            timeout_s=options.timeout_s,
            retry_failed=options.retry_failed,
        )
    if not is_one_of_many:
        records = merge(options.out)
        counts = Counter(record["status"] for record in records)
        finish(records)
    where = f"part {part}" if is_one_of_many else str(options.out)
    print(f"{where}: {as_text(counts) or 'no files'}")
    for record in [r for r in records if r["status"] != "ok"][:_SHOWN_FAILURES]:
        reason = record["reason"].encode("ascii", "backslashreplace").decode()
        print(f"  {record['path']!a}: {record['status']}, {reason}")
    if is_one_of_many:
        print(ADVICE_TO_MERGE)
    total = sum(counts.values())
    return _MANY_FAILED if counts["failed"] > options.max_failed_fraction * total else 0


def as_text(counts: Mapping[str, int]) -> str:
    """``1 failed, 4 ok``."""
    return ", ".join(f"{number:,} {status}" for status, number in sorted(counts.items()))


def _run_with_ray(command: Sequence[str], num_parts: int, num_workers: int) -> None:
    """Each part as a Ray task that runs the script, as a task of a Slurm array would.

    A node needs, besides Ray, what such a task needs: the same Python, checkout and files at the
    same places. Functions sent by Ray would need more, a ``data_prep`` that can be imported.

    Raises:
        UserError: when Ray is missing, or parts ended early; names them.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise UserError("--ray needs Ray, which is not installed: pip install ray") from None
    ray.init(ignore_reinit_error=True)
    task = ray.remote(num_cpus=num_workers)(subprocess.run)
    parts = [str(Part(index, num_parts)) for index in range(num_parts)]
    options = {
        "cwd": os.getcwd(),
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
    }
    words = [sys.executable, *command, "--ray", "0", "--part"]
    ended = ray.get([task.remote([*words, part], **options) for part in parts])
    problems = [
        f"part {part} ended with status {end.returncode}: {_last_line(end.stdout)}"
        for part, end in zip(parts, ended, strict=True)
        if end.returncode not in (0, _MANY_FAILED)
    ]
    if problems:
        raise UserError(in_one_message("--ray", problems))


def _last_line(output: bytes) -> str:
    return (output.decode("utf-8", "replace").strip().splitlines() or [""])[-1]


def exit_status(main: Callable[[], int]) -> int:
    """Run a script's ``main``; the user's mistakes and Ctrl-C end it without a traceback."""
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
        print("\nStopped. Run the same command again to resume.", file=sys.stderr)
        return 130
