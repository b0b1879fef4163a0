"""The journals of all parts joined to one file, if they are complete and belong together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data_prep.journal import Record, Work, digest_of, read_part, write_lines
from data_prep.parts import Shard, encoded, part_path, parts_of
from slowfast_mvit.errors import UserError, in_one_message
from slowfast_mvit.storage import csv_text, write_text_atomically

_SHOWN_PROBLEMS = 20

# Kept in the journal to see whether a file has changed; a copy on another machine has others.
_ONLY_IN_JOURNAL = ("mtime_ns", "plan_sha256")


def refuse_foreign_files(out: Path) -> None:
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
    """Join the parts beside ``out`` to ``out`` and a CSV of the same name, sorted by path.

    Returns:
        The records.

    Raises:
        UserError: when a part is missing or unfinished, when parts overlap, or are of different
            work; names all problems at once. Nothing is written then.
    """
    parts = {path: read_part(path) for path in parts_of(out)}
    works = {path: Work.of_head(head) for path, (head, _) in parts.items()}
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
        key=lambda record: encoded(record["path"]),
    )
    if not problems:
        problems = _problems_of_records([record["path"] for record in records], first)
    if problems:
        raise UserError(in_one_message(str(out), problems, limit=_SHOWN_PROBLEMS))
    records = [{k: v for k, v in r.items() if k not in _ONLY_IN_JOURNAL} for r in records]
    write_lines(out, records)
    write_text_atomically(out.with_suffix(".csv"), csv_text(_rows(records)))
    return records


def _problems_of_parts(
    out: Path, parts: Mapping[Path, tuple[Record, Sequence[Record]]]
) -> list[str]:
    """Parts that are missing, unfinished or called like another."""
    shards = [Shard.parse(head["shard"]) for head, _ in parts.values()]
    problems = [
        f"{path.name} holds shard {shard}, another part. Remove it and run the shard of its name"
        for path, shard in zip(parts, shards, strict=True)
        if path.name != part_path(out, shard).name
    ]
    if problems:
        return problems
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
    """Return what is wrong with the sorted names of all records together."""
    doubled = sorted({a for a, b in itertools.pairwise(names) if a == b})
    problems = [f"{name!r} has two records" for name in doubled]
    if not doubled and (len(names), digest_of(names)) != (work.num_inputs, work.inputs_digest):
        problems.append(
            f"{len(names):,} records do not cover the {work.num_inputs:,} files of the list"
        )
    return problems


def _rows(records: Sequence[Record]) -> Iterator[Sequence[object]]:
    """A table with a column for each field that holds a plain value."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    plain = [c for c in columns if not any(isinstance(r.get(c), (list, dict)) for r in records)]
    yield plain
    for record in records:
        yield [record.get(column, "") for column in plain]
