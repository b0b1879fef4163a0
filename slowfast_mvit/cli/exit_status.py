"""Exit statuses: a command ends with one message and a status, for any number of ranks."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable

from slowfast_mvit.errors import (
    RankLost,
    Stopped,
    UserError,
    is_out_of_space,
    printable,
    write_error,
    writing,
)
from slowfast_mvit.runtime.launch_environment import die_with_agent, is_launched


def guarded(run: Callable[[], int | None]) -> int:
    """Convert user errors to one message and an exit status, without a traceback.

    Returns:
        The result of ``run``, 0 for None; 2 for a user error; 1 where a file cannot be written;
        128 + n after a stop by signal n; 1 if another rank is lost. Any other error is a bug, and
        is raised.
    """
    die_with_agent()
    if is_launched():  # else torch, not imported yet, prints frames of C++ for each lost connection
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if _rank():
        warnings.simplefilter("ignore")  # all ranks would warn of the same
    try:
        status = run() or 0
        with writing("standard output"):
            sys.stdout.flush()
        return status
    except Stopped as stop:
        if not stop.is_logged:
            _print_once(str(stop))
        return 128 + stop.signal_number
    except UserError as error:
        _print(f"{type(error).__name__}: {error}")
        return error.exit_status
    except BrokenPipeError:  # the reader of the output has closed it (as ``| head``)
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        _print_once("\nInterrupted. The same command resumes from the last checkpoint.")
        return 130
    except RankLost as lost:
        time.sleep(1.0)  # a launcher reports the rank that ends first: not this one
        _print(str(lost))
        return 1
    except OSError as error:
        if not is_out_of_space(error):
            raise
        _print(f"WriteError: {write_error(error.filename or 'a temporary file', error)}")
        return 1
    finally:
        _drop_unwritten_output()


def _drop_unwritten_output() -> None:
    """Drop what standard output cannot take any more; Python would report that at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_once(message: str) -> None:
    """Print a message of all ranks, on rank 0."""
    if _rank() == 0:
        print(printable(message), file=sys.stderr, flush=True)


def _print(message: str) -> None:
    """Print a message of all ranks, or of this one alone (its node lacks a file).

    If rank 0 has printed it too and ended, its launcher ends the others while they wait. If not, it
    is printed after a second or two, with the number of the rank.
    """
    if rank := _rank():
        time.sleep(1.0 if os.environ.get("LOCAL_RANK") == "0" else 2.0)
        message = "\n".join(f"[rank {rank}] {line}" for line in message.splitlines())
    print(printable(message), file=sys.stderr, flush=True)


def _rank() -> int:
    number = os.environ.get("RANK", "0")
    return int(number) if number.isdecimal() else 0
