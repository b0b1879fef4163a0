"""What a job over many files has done so far: one line of JSON a file, safe against any end.

    records.shard-0-of-2.jsonl   {"job": "check_videos", "settings": {...}, "shard": "0/2", ...}
                                 {"path": "a.mp4", "status": "ok", ...}
                                 ...
    records.shard-1-of-2.jsonl   the same of the other part
    records.jsonl, records.csv   all parts joined by ``merge``, sorted by path

The first line says which work this is, so that parts of different work are never mixed. Each
record is flushed to disk when its file is done; a line that was torn by a kill or a power cut is
dropped when the job goes on, and its file is done again.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import itertools
import json
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slowfast_mvit.errors import UserError, in_one_message

Record = dict[str, Any]

_PART_NAME = re.compile(r"\.shard-([0-9]+)-of-([0-9]+)\.jsonl")
_SHOWN_PROBLEMS = 20

# Kept in the journal to see whether a file has changed; a copy on another machine has another.
_ONLY_IN_JOURNAL = "mtime_ns"


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of the ``count`` parts into which machines divide the work.

    A file belongs to the part that its name's checksum names, whatever the order of the list.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/N``, i from 0 to N - 1.

        Raises:
            UserError: when it is not of this form.
        """
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text.strip())
        if not found or int(found[1]) >= int(found[2]):
            raise UserError(
                f"--shard {text}: expected i/N with i from 0 to N - 1, such as 0/8 for the first "
                "of eight parts"
            )
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Shard:
        """The part of a task of a Slurm array; the whole outside of one.

        Raises:
            UserError: when the array does not count from 0 in steps of 1.
        """
        task = environment.get("SLURM_ARRAY_TASK_ID")
        if task is None:
            return cls()
        count = environment.get("SLURM_ARRAY_TASK_COUNT", "")
        first = environment.get("SLURM_ARRAY_TASK_MIN", "0")
        if first != "0" or not count.isdigit() or not task.isdigit() or int(task) >= int(count):
            raise UserError(
                f"SLURM_ARRAY_TASK_ID is {task} of {count or 'an unknown number of'} tasks from "
                f"{first}: submit the array as --array=0-<N-1>, or give --shard i/N"
            )
        return cls(int(task), int(count))

    def takes(self, name: str) -> bool:
        """Whether the file of this name belongs to this part."""
        return zlib.crc32(_encoded(name)) % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE = Shard()


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
        return cls(job, plain, len(names), _digest(names))

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
        self._file = open(path, "a", encoding="ascii")  # noqa: SIM115

    def write(self, record: Record) -> None:
        """Add a record; it is on disk when this returns."""
        self._file.write(_line(record))
        self._file.flush()
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
        _write(path, map(_line, [head, *records.values()]))
        journal = Journal(path, records)
        try:
            yield journal
        finally:
            journal.close()


def _still_true(
    path: Path, work: Work, stamps: Mapping[str, Mapping[str, Any]]
) -> dict[str, Record]:
    head, records = read_part(path)
    difference = work.difference(_work_of(head))
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


def part_path(out: Path, shard: Shard) -> Path:
    """``records.jsonl`` -> ``records.shard-0-of-8.jsonl``."""
    return out.with_name(f"{out.stem}.shard-{shard.index}-of-{shard.count}.jsonl")


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
            known = "settings" in entry if number == 1 else "path" in entry
        except (ValueError, TypeError):
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


# Joining the parts


def merge(out: Path) -> list[Record]:
    """Join the parts beside ``out`` to ``out`` and a CSV of the same name, sorted by path.

    Returns:
        The records.

    Raises:
        UserError: when a part is missing or unfinished, when parts overlap, or are of different
            work; names all problems at once. Nothing is written then.
    """
    parts = {path: read_part(path) for path in _parts_of(out)}
    works = {path: _work_of(head) for path, (head, _) in parts.items()}
    first_path, first = next(iter(works.items()))
    problems = _problems_of_parts(out, parts)
    for path, work in works.items():
        difference = first.difference(work)
        if difference:
            problems.append(f"{path.name} does not go with {first_path.name}: {difference}")
        elif work.inputs_digest != first.inputs_digest:
            problems.append(f"{path.name} was made from another list of files than the first part")
    records = sorted(
        (record for _, entries in parts.values() for record in entries),
        key=lambda record: _encoded(record["path"]),
    )
    if not problems:
        problems = _problems_of_records([record["path"] for record in records], first)
    if problems:
        shown = problems[:_SHOWN_PROBLEMS]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown):,} more")
        raise UserError(in_one_message(str(out), shown))
    for record in records:
        record.pop(_ONLY_IN_JOURNAL, None)
    _write(out, map(_line, records))
    _write(out.with_suffix(".csv"), _csv_lines(records))
    return records


def read_records(path: Path) -> Iterator[Record]:
    """The records that ``merge`` wrote, or those of one part.

    Raises:
        UserError: when the file is missing or a line is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. Write it with data_prep/check_videos.py")
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line, object_pairs_hook=_with_shared_keys)
            except ValueError:
                raise UserError(f"{path}: line {number} is not a record") from None
            if "path" in record:
                yield record


def _parts_of(out: Path) -> list[Path]:
    paths = [
        path
        for path in sorted(out.parent.glob("*.jsonl"))
        if path.name.startswith(out.stem) and _PART_NAME.fullmatch(path.name[len(out.stem) :])
    ]
    if not paths:
        raise UserError(f"{out}: no parts beside it, {part_path(out, Shard()).name} for example")
    return paths


def _problems_of_parts(
    out: Path, parts: Mapping[Path, tuple[Record, Sequence[Record]]]
) -> list[str]:
    """Parts that are missing or unfinished."""
    problems = []
    shards = [Shard.parse(head["shard"]) for head, _ in parts.values()]
    counts = sorted({shard.count for shard in shards})
    if len(counts) > 1:
        problems.append(
            f"parts of different divisions: of {', '.join(map(str, counts))}. Remove those that "
            "are not wanted"
        )
    missing = sorted(set(range(counts[-1])) - {s.index for s in shards if s.count == counts[-1]})
    problems += [f"{part_path(out, Shard(i, counts[-1])).name} is missing" for i in missing]
    for path, (head, entries) in parts.items():
        expected = head["num_inputs_of_shard"]
        if len(entries) != expected:
            problems.append(
                f"{path.name} holds {len(entries):,} of {expected:,} records. Run shard "
                f"{head['shard']} again to finish it"
            )
    return problems


def _problems_of_records(names: Sequence[str], work: Work) -> list[str]:
    """What is wrong with the sorted names of all records together."""
    doubled = sorted({a for a, b in itertools.pairwise(names) if a == b})
    problems = [f"{name!r} has two records" for name in doubled]
    if not doubled and (len(names), _digest(names)) != (work.num_inputs, work.inputs_digest):
        problems.append(
            f"{len(names):,} records do not cover the {work.num_inputs:,} files of the list"
        )
    return problems


def _work_of(head: Record) -> Work:
    return Work(head["job"], head["settings"], head["num_inputs"], head["inputs_digest"])


def _csv_lines(records: Sequence[Record]) -> Iterator[str]:
    """A table with a column for each field that holds a plain value."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    plain = [c for c in columns if not any(isinstance(r.get(c), (list, dict)) for r in records)]
    yield _csv_line(plain)
    for record in records:
        yield _csv_line([_cell(record.get(column, "")) for column in plain])


def _csv_line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _cell(value: object) -> object:
    """Names that are not UTF-8 with escapes; names that a spreadsheet runs as a formula quoted."""
    if not isinstance(value, str):
        return value
    shown = value.encode("utf-8", "backslashreplace").decode()
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def _digest(names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(map(_encoded, names)):
        digest.update(name + b"\0")
    return digest.hexdigest()


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _write(path: Path, lines: Iterable[str]) -> None:
    from slowfast_mvit.storage import write_atomically  # here: torch comes with it, slowly

    write_atomically(path, lambda file: file.writelines(line.encode() for line in lines))


def _line(entry: Record) -> str:
    """ASCII, so that any file name survives, even one that is not UTF-8."""
    return json.dumps(entry) + "\n"
