"""``slowfast-mvit watch OUTPUT_DIR``: a run as it goes on, from the files it writes."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from slowfast_mvit.cli.frame import Folder, RunNumbers, frame
from slowfast_mvit.errors import UserError
from slowfast_mvit.runtime.log import parse_record
from slowfast_mvit.storage import is_remote

REFRESH_S = 2.0
TAIL_BYTES = 4096
HOME, CLEAR, TO_LINE_END, TO_SCREEN_END = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"


def watch_job(output_dir: str, *, once: bool = False) -> None:
    """Show a run until Ctrl-C; one frame with ``once``, or where nobody looks at a terminal.

    Raises:
        UserError: there is no such folder here.
    """
    if is_remote(output_dir):
        raise UserError(
            f"{output_dir}: only a local folder can be watched. Log in where the run writes, or "
            "fetch its json_stats.log and stdout.log into a folder here and watch that"
        )
    folder = Path(output_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Give the OUTPUT_DIR of a run")
    log = GrowingLog(folder / "json_stats.log")
    if once or not sys.stdout.isatty():
        print("\n".join(_lines(folder, log)))
        return
    print(CLEAR, end="")
    try:
        while True:
            lines = "".join(f"{line}{TO_LINE_END}\n" for line in _lines(folder, log))
            print(HOME + lines + TO_SCREEN_END, end="", flush=True)
            time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        print()


class GrowingLog:
    """The numbers in a ``json_stats.log`` that another process writes; reads only what is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.numbers = RunNumbers()
        self._file = (0, 0)
        self._read_to = 0

    def update(self) -> RunNumbers:
        """Take in the lines that have come; from the beginning where the file was replaced.

        A run that is resumed replaces it. A line still being written is left for the next time.
        """
        try:
            with open(self.path, "rb") as log:
                status = os.fstat(log.fileno())
                identity = (status.st_dev, status.st_ino)
                if identity != self._file or status.st_size < self._read_to:
                    self.numbers, self._file, self._read_to = RunNumbers(), identity, 0
                log.seek(self._read_to)
                new, _, _ = log.read().rpartition(b"\n")
        except FileNotFoundError:
            return self.numbers
        if new:
            self._read_to += len(new) + 1
        for line in new.splitlines():
            record = parse_record(line.decode("utf-8", errors="replace"))
            if record is not None:
                self.numbers.add(record)
        return self.numbers


def _lines(folder: Path, log: GrowingLog) -> list[str]:
    """A frame of the size of the terminal; the last line stays free for the cursor."""
    run = log.update()
    if not run.last and not (folder / "stdout.log").is_file():
        return [f"{folder}: no json_stats.log there yet; a training writes one as it goes on"]
    size = shutil.get_terminal_size((80, 24))
    return frame(
        run,
        _look_at(folder, time.time()),
        width=size.columns,
        height=size.lines - 1,
        braille=_can_print("█⠿"),
    )


def _look_at(folder: Path, now_s: float) -> Folder:
    checkpoints = {
        path: changed_s
        for place in ("checkpoints", "mid_epoch", "sharded")
        for path in folder.glob(f"{place}/*epoch_*")
        if not path.name.startswith(".") and (changed_s := _changed_s(path)) is not None
    }
    logs = [_changed_s(folder / name) for name in ("json_stats.log", "stdout.log")]
    changed = [time_s for time_s in [*logs, *checkpoints.values()] if time_s is not None]
    newest = max(checkpoints, key=lambda path: checkpoints[path], default=None)
    lines = _tail(folder / "stdout.log").splitlines()
    return Folder(
        name=str(folder),
        silent_s=max(now_s - max(changed, default=now_s), 0.0),
        checkpoint=None if newest is None else (newest.name, now_s - checkpoints[newest]),
        num_failed=max(_num_lines(folder / "failed_videos.csv") - 1, 0),
        last_line=lines[-1] if lines else "",
    )


def _changed_s(path: Path) -> float | None:
    """When a file last changed; None where it is gone, as files of a run may be at any time."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - TAIL_BYTES, 0))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _num_lines(path: Path) -> int:
    try:
        with open(path, "rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:
        return 0


def _can_print(characters: str) -> bool:
    try:
        characters.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
