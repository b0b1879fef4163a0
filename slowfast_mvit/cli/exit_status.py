"""Exit statuses: a command ends with one message and a status, for any number of ranks."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable

from slowfast_mvit.errors import Stopped, UserError
from slowfast_mvit.runtime.launch_environment import die_with_agent, is_lost_rank


def guarded(run: Callable[[], int | None]) -> int:
    """Turn what a user can cause into one message and an exit status, without a traceback.

    Returns:
        What ``run`` gives, 0 for None; 2 for what the user must mend; 128 + n after a stop by
        signal n; 1 where another rank is gone. Any other error is a bug, and goes on.
    """
    die_with_agent()
    if _rank():
        warnings.simplefilter("ignore")  # all ranks would warn of the same
    try:
        return run() or 0
    except Stopped as stop:
        if not stop.is_logged:
            _say_once(str(stop))
        return 128 + stop.signal_number
    except UserError as error:
        _say(f"{type(error).__name__}: {error}")
        return 2
    except BrokenPipeError:
        # Whoever read our output has seen enough (as in ``| head``). Python would complain once
        # more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        _say_once("\nInterrupted. The same command goes on from the last checkpoint.")
        return 130
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise  # with several ranks, torch prints the number of the rank before each line
        _say("Another process of this run has ended, and this one with it")
        return 1


def _say_once(message: str) -> None:
    """Print what all ranks have to say."""
    if _rank() == 0:
        print(message, file=sys.stderr, flush=True)


def _say(message: str) -> None:
    """Print what all ranks may have to say, or this one alone (its own node lacks a file).

    If rank 0 has said it too and ended, its launcher ends the others while they hesitate. If not,
    it comes a moment later, with the number of the rank.
    """
    if rank := _rank():
        time.sleep(1.0 if os.environ.get("LOCAL_RANK") == "0" else 2.0)
        message = "\n".join(f"[rank {rank}] {line}" for line in message.splitlines())
    print(message, file=sys.stderr, flush=True)


def _rank() -> int:
    number = os.environ.get("RANK", "0")
    return int(number) if number.isdecimal() else 0
