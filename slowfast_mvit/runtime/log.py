"""Logs of a run: lines on the terminal and in a file, records as JSON, progress with an ETA."""

from __future__ import annotations

import datetime
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import simplejson
from tqdm import tqdm

from slowfast_mvit.errors import printable, writing
from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.storage import AppendLog, write_atomically

T = TypeVar("T")
Record = Mapping[str, Any]

logger = logging.getLogger(__name__)

PACKAGE = "slowfast_mvit"
LINE = "[%(asctime)s] %(levelname)s %(message)s"
STATS_PREFIX = "json_stats: "
_COUNT = re.compile(r"[0-9]{1,12}(/[0-9]{1,12})?")  # "3/200"
MAX_LINE_BYTES = 1_000_000
IN_BAR_TOO = "in_bar_too"


def setup_logging(output_dir: str | Path | None = None, *, to_stderr: bool = False) -> None:
    """Send the package's log lines to the terminal and to ``OUTPUT_DIR/stdout.log``.

    Called again, it replaces the handlers of the earlier call. Only the main process logs.

    Args:
        output_dir: folder of ``stdout.log``, created if need be; None for the terminal alone.
        to_stderr: log to standard error, where standard output is the result of the command.
    """
    package = logging.getLogger(PACKAGE)
    for handler in [h for h in package.handlers if isinstance(h.formatter, SafeFormatter)]:
        package.removeHandler(handler)
        handler.close()
    package.setLevel(logging.INFO if is_main() else logging.ERROR)
    if not is_main():
        return
    handlers: list[logging.Handler] = [TerminalHandler(to_stderr)]
    if output_dir is not None:
        handlers.append(FileHandler(Path(output_dir) / "stdout.log"))
    for handler in handlers:
        handler.setFormatter(SafeFormatter(LINE, "%m/%d %H:%M:%S"))
        package.addHandler(handler)


class SafeFormatter(logging.Formatter):
    """Escape file names that would move the cursor or fake a line."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class TerminalHandler(logging.Handler):
    """Write to the terminal, above a progress bar where one is drawn.

    A line marked ``IN_BAR_TOO`` repeats the content of the bar, and is left out where it is drawn.
    """

    def __init__(self, to_stderr: bool) -> None:
        super().__init__()
        self._to_stderr = to_stderr

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, IN_BAR_TOO, False) and draws_bars() and sys.stdout.isatty():
            return
        with writing("standard error" if self._to_stderr else "standard output"):
            stream = sys.stderr if self._to_stderr else sys.stdout
            tqdm.write(self.format(record), file=stream)
            stream.flush()


class FileHandler(logging.Handler):
    """Append to a file; an error of the disk ends the run, where logging would only print it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
        # Several jobs may write to it, so it is no AppendLog.
        with writing(self._path, lambda: len(line)), open(self._path, "ab") as file:
            file.write(line)


class StatsLog:
    """``OUTPUT_DIR/json_stats.log``: one ``json_stats: {...}`` a line, as PySlowFast writes them.

    Keys are sorted; numbers keep their full precision (no learning rate of 1e-6 as 0.00000);
    NaN and infinity become null, which is valid JSON.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.path = Path(output_dir) / "json_stats.log"

    def write(self, record: Record) -> None:
        """Append one record, in the main process only."""
        if is_main():
            with AppendLog(self.path) as log:
                log.append(stats_line(record).encode())

    def read(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the records so far, or those of some ``_type``; a torn last line is left out."""
        if not self.path.is_file():
            return []
        records = []
        with open(self.path, "rb") as file:
            for line in iter(lambda: file.readline(MAX_LINE_BYTES), b""):
                if kinds and not any(kind.encode() in line for kind in kinds):
                    continue  # most lines are of single steps
                record = parse_record(line.decode(errors="replace"))
                if record is None:
                    logger.warning("%s: skipping a truncated line", self.path)
                elif not kinds or record.get("_type") in kinds:
                    records.append(record)
        return records

    def keep_until(self, epoch: int, step: int) -> None:
        """Drop the records that a run will write again after it resumes at this position.

        So that each step is in the log once: a crash may be long after the checkpoint.

        Args:
            epoch: 0-based, to resume in.
            step: finished steps of that epoch.
        """
        if not is_main() or not self.path.is_file():
            return
        records = [record for record in self.read() if _is_before(record, epoch, step)]
        while records and records[-1].get("_type") == "val_iter":  # of an interrupted validation
            records.pop()
        text = "".join(map(stats_line, records)).encode()
        if self.path.read_bytes().startswith(text):  # no file that a kill could leave, no space
            os.truncate(self.path, len(text))
        else:
            write_atomically(self.path, lambda file: file.write(text))


def parse_record(line: str) -> dict[str, Any] | None:
    """Return the record of a line of ``json_stats.log``; None for a torn or foreign line."""
    try:
        record = simplejson.loads(line.removeprefix(STATS_PREFIX))
    except (ValueError, RecursionError):  # also of numbers with thousands of digits
        return None
    if not isinstance(record, dict):
        return None
    counts = (str(record.get(name, "0")) for name in ("epoch", "iter"))
    return record if all(map(_COUNT.fullmatch, counts)) else None


def stats_line(record: Record) -> str:
    """Return a record as a line of ``json_stats.log``."""
    return STATS_PREFIX + simplejson.dumps(record, sort_keys=True, ignore_nan=True) + "\n"


def _is_before(record: Record, epoch: int, step: int) -> bool:
    """Return whether a record is of work before step ``step`` of the 0-based ``epoch``."""
    num_epochs, num_steps = done_of(record, "epoch"), done_of(record, "iter")
    of_a_step = record.get("_type") == "train_iter_"
    return num_epochs <= epoch or (of_a_step and num_epochs == epoch + 1 and num_steps <= step)


def done_of(record: Record, name: str) -> int:
    """Return the 3 of a field ``"3/200"`` of a record; 0 where there is no such field."""
    return int(str(record.get(name, "0")).split("/")[0])


def memory_in_use() -> str:
    """Return the used and total memory of this machine in GiB, as ``3.21/15.60G``."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux
        return "unknown"
    sizes = {line.split(":")[0]: line.split()[1] for line in lines}
    total, available = (int(sizes[name]) / 1024**2 for name in ("MemTotal", "MemAvailable"))
    return f"{total - available:.2f}/{total:.2f}G"


@dataclass
class Progress(Generic[T]):
    """Iterate over items and show the progress and ETA, in the main process only.

    On a terminal it is a bar, elsewhere lines of the log.

    Attributes:
        items: to iterate over.
        total: their number, including those before ``start``.
        what: the name of the work ("testing").
        log_period: without a terminal, a log line after every so many items; None for none, where
            the caller writes the lines.
        start: items that were finished before.
    """

    items: Iterable[T]
    total: int
    what: str
    log_period: int | None = None
    start: int = 0
    _bar: Any = field(default=None, init=False)

    def show(self, text: str) -> None:
        """Show ``text`` behind the bar, where there is one."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def __iter__(self) -> Iterator[T]:
        if is_main() and draws_bars():
            yield from self._drawn()
        elif is_main() and self.log_period is not None:
            yield from self._logged(self.log_period)
        else:
            yield from self.items

    def _drawn(self) -> Iterator[T]:
        with tqdm(
            total=self.total, initial=self.start, desc=self.what, leave=False, dynamic_ncols=True
        ) as self._bar:
            for item in self.items:
                yield item
                self._bar.update()
        self._bar = None

    def _logged(self, log_period: int) -> Iterator[T]:
        start_s = time.monotonic()
        for done, item in enumerate(self.items, start=self.start + 1):
            yield item
            if done % log_period == 0 or done == self.total:
                per_item_s = (time.monotonic() - start_s) / (done - self.start)
                logger.info(
                    "%s: %s of %s, ETA %s",
                    self.what,
                    f"{done:,}",
                    f"{self.total:,}",
                    duration(per_item_s * (self.total - done)),
                )


def draws_bars() -> bool:
    """Return whether bars are visible: they are drawn on standard error."""
    return sys.stderr.isatty()


def duration(seconds: float) -> str:
    """Format seconds as ``1 day, 2:03:04``."""
    return str(datetime.timedelta(seconds=round(seconds)))
