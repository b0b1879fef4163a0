"""What a job over many files has done so far: one line of JSON a file, safe against any end.

    records.shard-0-of-2.jsonl   {"job": "check_videos", "settings": {...}, "shard": "0/2", ...}
                                 {"path": "a.mp4", "status": "ok", ...}
                                 ...
    records.shard-1-of-2.jsonl   the same of the other part
    records.jsonl, records.csv   all parts joined (``merging.py``), sorted by path

The first line says which work this is, so that parts of different work are never mixed. Each
record is flushed to disk when its file is done; a line that was torn by a kill or a power cut is
dropped when the job goes on, and its file is done again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.parts import Shard, encoded, part_path
from slowfast_mvit.errors import UserError

Record = dict[str, Any]

_HEAD_KEYS = {"job", "settings", "num_inputs", "inputs_digest", "shard", "num_inputs_of_shard"}
_RECORD_KEYS = {"path", "status"}


@dataclass(frozen=True)
class Work:
    """What is to be done, as the first line of a journal says it.

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
    def of(cls, job: str, settings: Mapping[str, Any], names: Iterable[str]) -> Work:
        """The work of a job over the files of these names."""
        names = list(names)
        plain = json.loads(json.dumps(settings))  # as a journal gives them back: tuples are lists
        return cls(job, plain, len(names), digest_of(names))

    @classmethod
    def of_head(cls, head: Record) -> Work:
        """The work that the first line of a journal names."""
        return cls(head["job"], head["settings"], head["num_inputs"], head["inputs_digest"])

    def difference(self, other: Work) -> str | None:
        """The first respect in which two works cannot be mixed, in words."""
        if self.job != other.job:
            return f"it is of {other.job}, not {self.job}"
        for key in sorted(self.settings.keys() | other.settings.keys()):
            here, there = self.settings.get(key), other.settings.get(key)
            if here != there:
                return f"{key} was {there!r} there and is {here!r} now"
        return None


class Journal:
    """The open journal of one part. Use ``open_journal``, which locks and closes it.

    Attributes:
        records: the records of files that are done, by path.
    """

    def __init__(self, path: Path, records: dict[str, Record]) -> None:
        self.path = path
        self.records = records
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    def write(self, record: Record) -> None:
        """Add a record; it is on disk when this returns."""
        line = line_of(record).encode("ascii")
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fsync(self._file.fileno())
        self.records[record["path"]] = record

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def open_journal(
    out: Path,
    shard: Shard,
    work: Work,
    stamps: Mapping[str, Mapping[str, Any]],
    *,
    retry_failed: bool = False,
) -> Iterator[Journal]:
    """Open the journal of a part, new or to go on with.

    Args:
        out: where the joined records will be; the part lies beside it.
        shard: the part.
        work: what is to be done.
        stamps: for each file of this part, fields that a record must hold to be of the file as it
            is today. Records of other files, or of an older state of a file, are dropped.
        retry_failed: drop the records of files that failed, too.

    Raises:
        UserError: when it belongs to other work, is damaged, or another process writes it.
    """
    path = part_path(out, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        records = _still_true(path, work, stamps) if path.exists() else {}
        if retry_failed:
            records = {name: r for name, r in records.items() if r["status"] != "failed"}
        head = {**vars(work), "shard": str(shard), "num_inputs_of_shard": len(stamps)}
        write_lines(path, map(line_of, [head, *records.values()]))
        journal = Journal(path, records)
        try:
            yield journal
        finally:
            journal.close()


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
    *whole, _torn = path.read_bytes().split(b"\n")
    entries = []
    for number, line in enumerate(whole, start=1):
        try:
            entry = json.loads(line, object_pairs_hook=_with_shared_keys)
            known = entry.keys() >= (_HEAD_KEYS if number == 1 else _RECORD_KEYS)
        except (ValueError, AttributeError):
            known = False
        if not known:
            raise UserError(f"{path}: line {number} is damaged. Remove that line, or the file")
        entries.append(entry)
    if not entries:
        raise UserError(f"{path}: holds no records. Remove it")
    return entries[0], entries[1:]


def _with_shared_keys(pairs: list[tuple[str, Any]]) -> Record:
    """650,000 records need not hold 650,000 copies of the names of their fields."""
    return {sys.intern(key): value for key, value in pairs}


def read_records(path: Path) -> Iterator[Record]:
    """The records that ``merging.merge`` wrote, or those of one part.

    Raises:
        UserError: when the file is missing or a line is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. Write it with data_prep/check_videos.py")
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line, object_pairs_hook=_with_shared_keys)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise UserError(f"{path}: line {number} is not a record of check_videos.py")
            if "path" in record:
                yield record


def digest_of(names: Iterable[str]) -> str:
    """SHA-256 over names, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(map(encoded, names)):
        digest.update(name + b"\0")
    return digest.hexdigest()


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a file of these lines, whole or not at all."""
    from slowfast_mvit.storage import write_atomically  # here: torch comes with it, slowly

    write_atomically(path, lambda file: file.writelines(line.encode() for line in lines))


def line_of(entry: Record) -> str:
    """ASCII, so that any file name survives, even one that is not UTF-8."""
    return json.dumps(entry) + "\n"
