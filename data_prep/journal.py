"""The journals of a job over many files: one line of JSON a file, safe against any end.

    records.part-0-of-2.jsonl    {"job": "check_videos", "settings": {...}, "part": "0/2", ...}
                                 {"path": "a.mp4", "status": "ok", ...}
                                 ...
    records.part-1-of-2.jsonl    the same of the other part
    records.jsonl, records.csv   all parts merged, sorted by path

The first line names the work, so that parts of different work are never mixed. Each record is on
the disk when its file is done; a file whose line is torn is done again.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from slowfast_mvit.errors import UserError, in_one_message
from slowfast_mvit.storage import (
    AppendLog,
    csv_text,
    whole_lines,
    write_atomically,
    write_text_atomically,
)

Record = dict[str, Any]

_SHOWN_PROBLEMS = 20

# Fields of the journals alone, by which a change of a file is seen; on another machine they differ.
_ONLY_IN_JOURNAL = ("mtime_ns", "plan_sha256")


@dataclass(frozen=True)
class Part:
    """Part ``index``, counted from 0, of the ``count`` parts into which machines divide a job.

    The checksum of a file's name gives its part, whatever the order of the list.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read ``i/N``, i from 0 to N - 1.

        Raises:
            UserError: when it is not of this form.
        """
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", text.strip())
        if not match or int(match[1]) >= int(match[2]):
            raise UserError(
                f"--part {text}: expected i/N with i from 0 to N - 1, such as 0/8 for the first "
                "of eight parts"
            )
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Part:
        """The part of a task of a Slurm array; all of the job outside of one.

        Raises:
            UserError: when the array does not count from 0 in steps of 1. ``--array=0,5`` may mean
                two parts, or two of many that are to run again.
        """
        task = environment.get("SLURM_ARRAY_TASK_ID")
        if task is None:
            return cls()
        count = environment.get("SLURM_ARRAY_TASK_COUNT", "")
        first = environment.get("SLURM_ARRAY_TASK_MIN", "0")
        last = environment.get("SLURM_ARRAY_TASK_MAX", "0")
        numbers = [int(text) if text.isdigit() else -1 for text in (count, first, task, last)]
        if numbers[1] != 0 or max(numbers[2:]) >= numbers[0]:
            raise UserError(
                f"SLURM_ARRAY_TASK_ID is {task} of {count or 'an unknown number of'} tasks from "
                f"{first}: submit the array as --array=0-<N-1>, or give the part as --part "
                "$SLURM_ARRAY_TASK_ID/<N>"
            )
        return cls(int(task), int(count))

    def contains(self, name: str) -> bool:
        """Return whether the file of this name belongs to this part."""
        return zlib.crc32(_encoded(name)) % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


class Head(NamedTuple):
    """The first line of a journal: the work of all parts, and the part.

    Attributes:
        job: the script.
        settings: its options that decide the outcome, as JSON gives them back: tuples are lists.
        num_inputs: number of files in all parts together.
        inputs_digest: SHA-256 over their sorted names.
        part: the part, as "i/N".
        num_inputs_of_part: number of files in it.
    """

    job: str
    settings: dict[str, Any]
    num_inputs: int
    inputs_digest: str
    part: str
    num_inputs_of_part: int

    def difference(self, other: Head) -> str | None:
        """The first respect in which the works of two journals cannot be mixed, as text."""
        if self.job != other.job:
            return f"it is of {other.job}, not {self.job}"
        for key in sorted(self.settings.keys() | other.settings.keys()):
            here, there = self.settings.get(key), other.settings.get(key)
            if here != there:
                return f"{key} was {there!r} there and is {here!r} now"
        return None


# One part


def part_path(out: Path, part: Part) -> Path:
    """``records.jsonl`` -> ``records.part-0-of-8.jsonl``."""
    return out.with_name(f"{out.stem}.part-{part.index}-of-{part.count}.jsonl")


@contextmanager
def open_journal(
    path: Path,
    head: Head,
    stamps: Mapping[str, Mapping[str, Any]],
    *,
    retry_failed: bool = False,
) -> Iterator[tuple[dict[str, Record], Callable[[Record], None]]]:
    """Open the journal of a part, new or to resume.

    Args:
        path: the journal.
        head: the work and the part.
        stamps: for each file of this part, fields that a record must have to be of the file as it
            is today. Records of other files, or of an older state of a file, are dropped.
        retry_failed: drop the records of files that failed, too.

    Yields:
        The records of files that are done, by path; and a function that adds one, which is on the
        disk when it returns.

    Raises:
        UserError: when it belongs to other work, is damaged, or another process writes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        records = _current_records(path, head, stamps) if path.exists() else {}
        if retry_failed:
            records = {name: r for name, r in records.items() if r["status"] != "failed"}
        _write_lines(path, [head._asdict(), *records.values()])
        with AppendLog(path, durable=True) as log:
            yield records, lambda record: log.append(_line_of(record))


def _current_records(
    path: Path, head: Head, stamps: Mapping[str, Mapping[str, Any]]
) -> dict[str, Record]:
    earlier, records = read_part(path)
    difference = head.difference(earlier)
    if difference:
        raise UserError(
            f"{path}: contains the records of other work: {difference}. Give another --out, or "
            "remove the file to start over"
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
            is_locked_here = os.path.samestat(os.fstat(file.fileno()), os.stat(lock))
        except (BlockingIOError, FileNotFoundError):
            is_locked_here = False
        if not is_locked_here:
            raise UserError(
                f"{path}: another process is writing it. Wait for it, or give each machine a part "
                "with --part i/N"
            )
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def read_part(path: Path) -> tuple[Head, list[Record]]:
    """The first line of a journal and its records; a torn last line is left out.

    Raises:
        UserError: when another line is damaged, or the file is no journal.
    """
    entries: list[Record] = []
    for number, line in enumerate(whole_lines(path), start=1):
        entry = _parsed(line)
        if not entry.keys() >= ({"path", "status"} if entries else set(Head._fields)):
            raise UserError(f"{path}: line {number} is damaged. Remove that line, or the file")
        entries.append(entry)
    if not entries:
        raise UserError(f"{path}: contains no records. Remove it")
    return Head(*(entries[0][field] for field in Head._fields)), entries[1:]


def read_records(path: Path) -> Iterator[Record]:
    """The records that ``merge`` wrote, or those of one part.

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
    """Share the field names of records: there may be 650,000 records."""
    return {sys.intern(key): value for key, value in pairs}


def digest_of(names: Iterable[str]) -> str:
    """SHA-256 over names, whatever their order."""
    return hashlib.sha256(
        b"".join(name + b"\0" for name in sorted(map(_encoded, names)))
    ).hexdigest()


def _encoded(name: str) -> bytes:
    """The bytes of a file name, also of one that is not UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def _write_lines(path: Path, entries: Iterable[Record]) -> None:
    write_atomically(path, lambda file: file.writelines(map(_line_of, entries)))


def _line_of(entry: Record) -> bytes:
    """ASCII, so that any file name survives, even one that is not UTF-8."""
    return json.dumps(entry).encode("ascii") + b"\n"


# All parts


def check_replaceable(out: Path) -> None:
    """Refuse to write records and their table over files that are neither, such as a list.

    Raises:
        UserError: names all of them.
    """
    table = out.with_suffix(".csv")
    if out == table:
        raise UserError(f"{out}: is where the table of the records goes. Give --out NAME.jsonl")
    starts = {out: b'{"path"', table: b"path,bytes"}
    foreign = [str(file) for file, start in starts.items() if not _may_be_replaced(file, start)]
    if foreign:
        raise UserError(
            f"{' and '.join(foreign)}: would be replaced, and not written by this script. Give "
            "another --out"
        )


def _may_be_replaced(file: Path, start: bytes) -> bool:
    if not file.is_file():
        return True
    with open(file, "rb") as content:
        return content.read(len(start)) in (start, b"", b"\n")


def merge(out: Path) -> list[Record]:
    """Merge the parts next to ``out`` into ``out`` and a CSV of the same name, sorted by path.

    Returns:
        The records.

    Raises:
        UserError: when a part is missing or unfinished, when parts overlap, or are of different
            work; names all problems at once. Nothing is written then.
    """
    pattern = re.compile(re.escape(out.stem) + r"\.part-[0-9]+-of-[0-9]+\.jsonl")
    paths = [path for path in sorted(out.parent.glob("*.jsonl")) if pattern.fullmatch(path.name)]
    if not paths:
        example = part_path(out, Part()).name
        raise UserError(f"{out}: no parts next to it, {example} for example")
    parts = {path: read_part(path) for path in paths}
    heads = {path: head for path, (head, _) in parts.items()}
    records = sorted(
        (record for _, entries in parts.values() for record in entries),
        key=lambda record: _encoded(record["path"]),
    )
    problems = [*_problems_of_parts(out, parts), *_differences(heads)]
    if not problems:
        problems = _problems_of_records([record["path"] for record in records], heads[paths[0]])
    if problems:
        raise UserError(in_one_message(str(out), problems, limit=_SHOWN_PROBLEMS))
    records = [{k: v for k, v in r.items() if k not in _ONLY_IN_JOURNAL} for r in records]
    _write_lines(out, records)
    write_text_atomically(out.with_suffix(".csv"), csv_text(_rows(records)))
    return records


def _problems_of_parts(
    out: Path, parts: Mapping[Path, tuple[Head, Sequence[Record]]]
) -> Iterator[str]:
    """Parts that are missing, unfinished or named like another."""
    numbers = {path: Part.parse(head.part) for path, (head, _) in parts.items()}
    misnamed = [path for path, part in numbers.items() if path.name != part_path(out, part).name]
    for path in misnamed:
        yield (f"{path.name} contains part {numbers[path]}. Remove it and run the part of its name")
    if misnamed:
        return
    counts = sorted({part.count for part in numbers.values()})
    if len(counts) > 1:
        yield (
            f"parts of different divisions: of {', '.join(map(str, counts))}. Remove those that "
            "are not needed"
        )
    for part in (Part(index, counts[-1]) for index in range(counts[-1])):
        if part not in numbers.values():
            yield f"{part_path(out, part).name} is missing"
    for path, (head, entries) in parts.items():
        if len(entries) != head.num_inputs_of_part:
            yield (
                f"{path.name} contains {len(entries):,} of {head.num_inputs_of_part:,} records. "
                f"Run part {head.part} again to finish it"
            )


def _differences(heads: Mapping[Path, Head]) -> Iterator[str]:
    """Parts that are of other work than the first."""
    first_path, first = next(iter(heads.items()))
    for path, head in heads.items():
        difference = first.difference(head)
        if difference:
            yield f"{path.name} does not go with {first_path.name}: {difference}"
        elif head.inputs_digest != first.inputs_digest:
            yield f"{path.name} was made from another list of files than the first part"


def _problems_of_records(names: Sequence[str], head: Head) -> list[str]:
    """The problems of the sorted names of all records together."""
    doubled = sorted({a for a, b in itertools.pairwise(names) if a == b})
    problems = [f"{name!r} has two records" for name in doubled]
    if not doubled and (len(names), digest_of(names)) != (head.num_inputs, head.inputs_digest):
        problems.append(
            f"{len(names):,} records do not cover the {head.num_inputs:,} files of the list"
        )
    return problems


def _rows(records: Sequence[Record]) -> Iterator[Sequence[object]]:
    """A table with a column for each field of plain values."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    plain = [c for c in columns if not any(isinstance(r.get(c), (list, dict)) for r in records)]
    yield plain
    for record in records:
        yield [record.get(column, "") for column in plain]
