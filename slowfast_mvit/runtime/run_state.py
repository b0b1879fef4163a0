"""``OUTPUT_DIR/run_state.json``: running, finished, stopped or failed.

A job that scores one part of a test has a file of its own, ``run_state.part-2-of-4.json``.
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
from slowfast_mvit.runtime.watchdog import naming_lost_ranks, recording_end
from slowfast_mvit.storage import write_text_atomically

RUN_STATE_FILE = "run_state.json"
Status = Literal["running", "finished", "stopped", "failed"]
_WORST_FIRST: tuple[Status, ...] = ("failed", "stopped", "running", "finished")


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
def recorded_run_state(
    output_dir: Path, *, is_last_job: bool = True, part: str = ""
) -> Iterator[None]:
    """Record the start and the end of a job; only the main process writes.

    Args:
        output_dir: local folder of the run.
        is_last_job: no other job of the run follows.
        part: of a test that several jobs score, such as "part-2-of-4"; else empty.
    """
    path = output_dir / (f"run_state.{part}.json" if part else RUN_STATE_FILE)
    _write(path, "running")
    # Recorded at once, since a launcher may end this process, and again with the reason.
    with (
        _recorded_failure(path),
        naming_lost_ranks(),
        _recorded_failure(path),
        recording_end(lambda reason: _save(path, "failed", reason)),
    ):
        yield
    if is_last_job:
        _write(path, "finished")


@contextlib.contextmanager
def _recorded_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        is_stop = isinstance(error, Stopped | KeyboardInterrupt)
        detail = str(error) or type(error).__name__
        with contextlib.suppress(OSError):  # the error matters more
            _write(path, "stopped" if is_stop else "failed", detail)
        raise


def read_run_state(output_dir: Path) -> RunState | None:
    """Read the state of a run; None where none is recorded.

    That of jobs that score parts of a test since then is the worst of theirs.
    """
    state = _read(output_dir / RUN_STATE_FILE)
    parts = filter(None, map(_read, output_dir.glob("run_state.part-*.json")))
    newer = [part for part in parts if state is None or part.time_s > state.time_s]
    return min(newer, key=lambda part: _WORST_FIRST.index(part.status), default=state)


def _read(path: Path) -> RunState | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        state = RunState(**content)
    except (OSError, ValueError, TypeError):
        return None
    return state if state.status in get_args(Status) else None


def _write(path: Path, status: Status, detail: str = "") -> None:
    if is_main():
        _save(path, status, detail)


def _save(path: Path, status: Status, detail: str) -> None:
    state = RunState(status, round(time.time(), 3), detail)
    write_text_atomically(path, json.dumps(state._asdict()) + "\n")
