"""``OUTPUT_DIR/run_state.json``: running, finished, stopped or failed.

Written atomically when a job begins and when it ends. A killed process leaves "running" behind;
readers detect it by the age of the other files. The metrics of the run are in ``json_stats.log``.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from slowfast_mvit.errors import Stopped
from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.storage import write_text_atomically

RUN_STATE_FILE = "run_state.json"
Status = Literal["running", "finished", "stopped", "failed"]


class RunState(NamedTuple):
    """The state of a run.

    Attributes:
        status: "stopped" after a signal, "failed" after an error.
        time_s: of the change to this status, seconds since 1970.
        detail: the message of the signal or error, else empty.
    """

    status: Status
    time_s: float
    detail: str = ""


@contextlib.contextmanager
def recorded_run_state(output_dir: Path, *, is_last_job: bool = True) -> Iterator[None]:
    """Record the start and the end of a job; only the main process writes.

    Args:
        output_dir: local folder of the run.
        is_last_job: no other job of the run follows.
    """
    _write(output_dir, "running")
    try:
        yield
    except BaseException as error:
        is_stop = isinstance(error, Stopped | KeyboardInterrupt)
        detail = str(error) or type(error).__name__
        _write(output_dir, "stopped" if is_stop else "failed", detail)
        raise
    if is_last_job:
        _write(output_dir, "finished")


def read_run_state(output_dir: Path) -> RunState | None:
    """Read the state of a run; None where none is recorded."""
    try:
        content = json.loads((output_dir / RUN_STATE_FILE).read_text(encoding="utf-8"))
        state = RunState(**content)
    except (OSError, ValueError, TypeError):
        return None
    return state if state.status in get_args(Status) else None


def _write(output_dir: Path, status: Status, detail: str = "") -> None:
    if is_main():
        state = RunState(status, round(time.time(), 3), detail)
        write_text_atomically(output_dir / RUN_STATE_FILE, json.dumps(state._asdict()) + "\n")
