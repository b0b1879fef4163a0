"""What a run says: lines on the terminal and in a file, numbers as JSON, progress with an ETA."""

from __future__ import annotations

import datetime
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import simplejson
from tqdm import tqdm

from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.storage import write_text_atomically

T = TypeVar("T")
Record = Mapping[str, Any]

logger = logging.getLogger(__name__)

PACKAGE = "slowfast_mvit"
LINE = "[%(asctime)s] %(levelname)s %(message)s"
STATS_PREFIX = "json_stats: "


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
    """Writes to standard output, above a progress bar where one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def printable(text: str) -> str:
    """The text with characters that are neither printable nor a line end as ``\\x1b`` or so."""
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class StatsLog:
    """``OUTPUT_DIR/json_stats.log``: one ``json_stats: {...}`` a line, as PySlowFast writes them.

    Keys are sorted; numbers keep their full precision (a learning rate of 1e-6 is no 0.00000 here);
    NaN and infinity become null, which JSON knows.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.path = Path(output_dir) / "json_stats.log"

    def write(self, record: Record) -> None:
        """Append one record; only the main process does."""
        if not is_main():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_stats_line(record))

    def read(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The records so far, or those with ``kind`` as ``_type``; a torn last line is left out."""
        if not self.path.is_file():
            return []
        records = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = simplejson.loads(line.removeprefix(STATS_PREFIX))
            except simplejson.JSONDecodeError:
                logger.warning("%s: a line that was not written to its end is left out", self.path)
                continue
            if kind is None or record.get("_type") == kind:
                records.append(record)
        return records

    def keep_epochs(self, num_epochs: int) -> None:
        """Drop the records of later epochs, which a run that goes on will write again."""
        if not is_main() or not self.path.is_file():
            return
        kept = [record for record in self.read() if _epoch_of(record) <= num_epochs]
        write_text_atomically(self.path, "".join(_stats_line(record) for record in kept))


def _stats_line(record: Record) -> str:
    return STATS_PREFIX + simplejson.dumps(record, sort_keys=True, ignore_nan=True) + "\n"


def _epoch_of(record: Record) -> int:
    return int(str(record.get("epoch", "0")).split("/")[0])


def progress(
    items: Iterable[T], *, total: int, what: str, log_period: int | None = None
) -> Iterator[T]:
    """Pass the items on, showing how far they are and when they will be through.

    Args:
        items: what is worked through.
        total: how many there are.
        what: named in front ("testing").
        log_period: without a terminal, a log line after every so many items; None for none, where
            the caller writes its own.
    """
    if not is_main():
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, leave=False, dynamic_ncols=True)
    elif log_period is None:
        yield from items
    else:
        yield from _logged(items, total, what, log_period)


def _logged(items: Iterable[T], total: int, what: str, log_period: int) -> Iterator[T]:
    start_s = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if done % log_period == 0 or done == total:
            left_s = (time.monotonic() - start_s) / done * (total - done)
            logger.info("%s: %s of %s, ETA %s", what, f"{done:,}", f"{total:,}", duration(left_s))


def duration(seconds: float) -> str:
    """Seconds as ``1 day, 2:03:04``."""
    return str(datetime.timedelta(seconds=round(seconds)))
