"""The journal of a job over many files: one line of JSON a file, safe against any end.

    records.shard-0-of-2.jsonl   {"job": "check_videos", "settings": {...}, "shard": "0/2", ...}
                                 {"path": "a.mp4", "status": "ok", ...}
                                 ...
    records.shard-1-of-2.jsonl   the same of the other part
    records.jsonl, records.csv   all parts joined (``merging.py``), sorted by path

The first line says which work this is, so that parts of different work are never mixed. Each
record is on the disk when its file is done; a file whose line is torn is done again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.parts import Shard, encoded, part_path
from slowfast_mvit.errors import UserError
from slowfast_mvit.storage import AppendLog, whole_lines, write_atomically

Record = dict[str, Any]

_HEAD_KEYS = {"job", "settings", "num_inputs", "inputs_digest", "shard", "num_inputs_of_shard"}
_RECORD_KEYS = {"path", "status"}


class Work(NamedTuple):
    """The work of a job, as in the first line of its journal.

    Attributes:
        job: the script.
        settings: its options, as far as they decide what comes out.
        num_inputs: files in all parts together.
        inputs_digest: SHA-256 over their sorted names.
    """

    job: str
    settings: dict[str, Any]
    num_inputs: int
    inputs_digest: str

    @classmethod
    def of(cls, job: str, settings: Mapping[str, Any], names: Sequence[str]) -> Work:
        """The work of a job over the files of these names."""
        plain = json.loads(json.dumps(settings))  # as a journal gives them back: tuples are lists
        return cls(job, plain, len(names), digest_of(names))

    @classmethod
    def of_head(cls, head: Record) -> Work:
        """The work that the first line of a journal names."""
        return cls(*(head[field] for field in cls._fields))

    def difference(self, other: Work) -> str | None:
        """The first respect in which two works cannot be mixed, as text."""
        if self.job != other.job:
            return f"it is of {other.job}, not {self.job}"
        for key in sorted(self.settings.keys() | other.settings.keys()):
            here, there = self.settings.get(key), other.settings.get(key)
            if here != there:
                return f"{key} was {there!r} there and is {here!r} now"
        return None


@contextmanager
def open_journal(
    out: Path,
    shard: Shard,
    work: Work,
    stamps: Mapping[str, Mapping[str, Any]],
    *,
    retry_failed: bool = False,
) -> Iterator[tuple[dict[str, Record], Callable[[Record], None]]]:
    """Open the journal of a part, new or to resume.

    Args:
        out: where the joined records will be; the part is next to it.
        shard: the part.
        work: what is to be done.
        stamps: for each file of this part, fields that a record must hold to be of the file as it
            is today. Records of other files, or of an older state of a file, are dropped.
        retry_failed: drop the records of files that failed, too.

    Yields:
        The records of files that are done, by path; and a function that adds one, which is on the
        disk when it returns.

    Raises:
        UserError: when it belongs to other work, is damaged, or another process writes it.
    """
    path = part_path(out, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        records = _still_true(path, work, stamps) if path.exists() else {}
        if retry_failed:
            records = {name: r for name, r in records.items() if r["status"] != "failed"}
        head = {**work._asdict(), "shard": str(shard), "num_inputs_of_shard": len(stamps)}
        write_lines(path, [head, *records.values()])
        with AppendLog(path, durable=True) as log:
            yield records, lambda record: log.append(line_of(record))


def _still_true(
    path: Path, work: Work, stamps: Mapping[str, Mapping[str, Any]]
) -> dict[str, Record]:
    head, records = read_part(path)
    difference = work.difference(Work.of_head(head))
    if difference:
        raise UserError(
            f"{path}: holds the records of other work: {difference}. Give another --out, or remove "
            "the file to start afresh"
        )
    return {
        record["path"]: record
        for record in records
        if record["path"] in stamps and stamps[record["path"]].items() <= record.items()
    }


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from the same part; the lock ends with the process, however it ends."""
    lock = path.with_suffix(".lock")
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(os.fstat(file.fileno()), os.stat(lock))
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        if not is_ours:
            raise UserError(
                f"{path}: another process is writing it. Wait for it, or give each machine its own "
                "part with --shard i/N"
            )
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def read_part(path: Path) -> tuple[Record, list[Record]]:
    """The first line of a journal and its records; a torn last line is left out.

    Raises:
        UserError: when another line is damaged, or the file is no journal.
    """
    entries: list[Record] = []
    for number, line in enumerate(whole_lines(path), start=1):
        entry = _parsed(line)
        if not entry.keys() >= (_RECORD_KEYS if entries else _HEAD_KEYS):
            raise UserError(f"{path}: line {number} is damaged. Remove that line, or the file")
        entries.append(entry)
    if not entries:
        raise UserError(f"{path}: holds no records. Remove it")
    return entries[0], entries[1:]


def read_records(path: Path) -> Iterator[Record]:
    """The records that ``merging.merge`` wrote, or those of one part.

    Raises:
        UserError: when the file is missing or a line is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. Write it with data_prep/check_videos.py")
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            record = _parsed(line)
            if not record:
                raise UserError(f"{path}: line {number} is not a record of check_videos.py")
            if "path" in record:
                yield record


def _parsed(line: bytes) -> Record:
    """The object of a line; an empty one where the line is damaged or something else."""
    try:
        entry = json.loads(line, object_pairs_hook=_with_shared_keys)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _with_shared_keys(pairs: list[tuple[str, Any]]) -> Record:
    """650,000 records need not hold 650,000 copies of the names of their fields."""
    return {sys.intern(key): value for key, value in pairs}


def digest_of(names: Iterable[str]) -> str:
    """SHA-256 over names, whatever their order."""
    return hashlib.sha256(
        b"".join(name + b"\0" for name in sorted(map(encoded, names)))
    ).hexdigest()


def write_lines(path: Path, entries: Iterable[Record]) -> None:
    """Write a file with a line for each of these, whole or not at all."""
    write_atomically(path, lambda file: file.writelines(map(line_of, entries)))


def line_of(entry: Record) -> bytes:
    """ASCII, so that any file name survives, even one that is not UTF-8."""
    return json.dumps(entry).encode("ascii") + b"\n"
