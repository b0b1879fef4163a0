"""Logs of a run: lines on the terminal and in a file, records as JSON, progress with an ETA."""

from __future__ import annotations

import datetime
import logging
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import simplejson
from tqdm import tqdm

from slowfast_mvit.errors import printable
from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.storage import AppendLog, write_text_atomically

T = TypeVar("T")
Record = Mapping[str, Any]

logger = logging.getLogger(__name__)

PACKAGE = "slowfast_mvit"
LINE = "[%(asctime)s] %(levelname)s %(message)s"
STATS_PREFIX = "json_stats: "
_COUNT = re.compile(r"[0-9]{1,12}(/[0-9]{1,12})?")  # "3/200"
IN_THE_BAR = "in_the_bar"


def setup_logging(output_dir: str | Path | None = None) -> None:
    """Send the package's log lines to the terminal and to ``OUTPUT_DIR/stdout.log``.

    Called again, it replaces what the earlier call set up. Only the main process speaks.

    Args:
        output_dir: folder of ``stdout.log``, made if need be; None for the terminal alone.
    """
    package = logging.getLogger(PACKAGE)
    for handler in [h for h in package.handlers if isinstance(h.formatter, SafeFormatter)]:
        package.removeHandler(handler)
        handler.close()
    package.setLevel(logging.INFO if is_main() else logging.ERROR)
    if not is_main():
        return
    handlers: list[logging.Handler] = [TerminalHandler()]
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(Path(output_dir) / "stdout.log", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(SafeFormatter(LINE, "%m/%d %H:%M:%S"))
        package.addHandler(handler)


class SafeFormatter(logging.Formatter):
    """Keeps a file name from a stranger's list from moving the cursor or faking a line."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class TerminalHandler(logging.Handler):
    """Writes to standard output, above a progress bar where one is drawn.

    A line marked ``IN_THE_BAR`` says what the bar shows, and is left out where one sees that.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, IN_THE_BAR, False) and draws_bars() and sys.stdout.isatty():
            return
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


class StatsLog:
    """``OUTPUT_DIR/json_stats.log``: one ``json_stats: {...}`` a line, as PySlowFast writes them.

    Keys are sorted; numbers keep their full precision (a learning rate of 1e-6 is no 0.00000 here);
    NaN and infinity become null, which JSON knows.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.path = Path(output_dir) / "json_stats.log"

    def write(self, record: Record) -> None:
        """Append one record; only the main process does."""
        if is_main():
            with AppendLog(self.path) as log:
                log.append(_stats_line(record).encode())

    def read(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The records so far, or those with ``kind`` as ``_type``; a torn last line is left out."""
        if not self.path.is_file():
            return []
        records = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            record = parse_record(line)
            if record is None:
                logger.warning("%s: a line that was not written to its end is left out", self.path)
                continue
            if kind is None or record.get("_type") == kind:
                records.append(record)
        return records

    def keep_until(self, epoch: int, step: int) -> None:
        """Drop the records that a run will write again which goes on here.

        So that each step is in the log once: a crash may have come long after the checkpoint.

        Args:
            epoch: 0-based, the one it goes on in.
            step: how many steps of that epoch are done.
        """
        if not is_main() or not self.path.is_file():
            return
        kept = [record for record in self.read() if _is_before(record, epoch, step)]
        while kept and kept[-1].get("_type") == "val_iter":  # of a validation that was cut off
            kept.pop()
        write_text_atomically(self.path, "".join(_stats_line(record) for record in kept))


def parse_record(line: str) -> dict[str, Any] | None:
    """The record of a line of ``json_stats.log``; None for a torn line, or one that is none."""
    try:
        record = simplejson.loads(line.removeprefix(STATS_PREFIX))
    except (ValueError, RecursionError):  # also of numbers with thousands of digits
        return None
    if not isinstance(record, dict):
        return None
    counts = (str(record.get(name, "0")) for name in ("epoch", "iter"))
    return record if all(map(_COUNT.fullmatch, counts)) else None


def _stats_line(record: Record) -> str:
    return STATS_PREFIX + simplejson.dumps(record, sort_keys=True, ignore_nan=True) + "\n"


def _is_before(record: Record, epoch: int, step: int) -> bool:
    """Return whether a record is of work before step ``step`` of the 0-based ``epoch``."""
    own_epoch, own_step = done_of(record, "epoch"), done_of(record, "iter")
    of_a_step = record.get("_type") == "train_iter_"
    return own_epoch <= epoch or (of_a_step and own_epoch == epoch + 1 and own_step <= step)


def done_of(record: Record, name: str) -> int:
    """The 3 of a field ``"3/200"`` of a record; 0 where there is no such field."""
    return int(str(record.get(name, "0")).split("/")[0])


def memory_in_use() -> str:
    """Memory in use and in all on this machine, in GiB, as ``3.21/15.60G``."""
    sizes = {}
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, size = line.partition(":")
            sizes[name] = int(size.split()[0]) / 1024**2
    except OSError:  # no Linux
        return "unknown"
    return f"{sizes['MemTotal'] - sizes['MemAvailable']:.2f}/{sizes['MemTotal']:.2f}G"


def progress(
    items: Iterable[T], *, total: int, what: str, log_period: int | None = None, start: int = 0
) -> Progress[T]:
    """Pass the items on, showing how far they are and when they will be through.

    On a terminal with a bar, elsewhere with lines of the log; the main process only.

    Args:
        items: what is worked through.
        total: how many there are, with those before ``start``.
        what: named in front ("testing").
        log_period: without a terminal, a log line after every so many items; None for none, where
            the caller writes its own.
        start: how many were done before.
    """
    return Progress(items, total, what, log_period, start)


@dataclass
class Progress(Generic[T]):
    """The items of ``progress``, whose arguments these are."""

    items: Iterable[T]
    total: int
    what: str
    log_period: int | None
    start: int
    _bar: Any = field(default=None, init=False)

    def show(self, text: str) -> None:
        """Put ``text`` behind the bar, where there is one."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def __iter__(self) -> Iterator[T]:
        if not is_main():
            yield from self.items
        elif draws_bars():
            yield from self._drawn()
        elif self.log_period is None:
            yield from self.items
        else:
            yield from self._logged(self.log_period)

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
    """Return whether somebody sees a bar: it is drawn on standard error."""
    return sys.stderr.isatty()


def duration(seconds: float) -> str:
    """Seconds as ``1 day, 2:03:04``."""
    return str(datetime.timedelta(seconds=round(seconds)))
