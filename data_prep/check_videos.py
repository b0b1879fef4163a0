#!/usr/bin/env python3
"""Decode every video strictly, from the first packet to the last, and record its contents.

A reader decodes a damaged packet only when training reads a frame near it, so a broken file fails
now and then, weeks later; a file that was cut short may not fail at all. This script detects both
in advance.

    python data_prep/check_videos.py /data/k400/train --out check.jsonl
    python data_prep/check_videos.py train.csv val.csv --out check.jsonl        # videos of lists
    find . -name '*.webm' | python data_prep/check_videos.py - --out check.jsonl
    sbatch --array=0-63 ... python data_prep/check_videos.py /data/k400/train --out check.jsonl
    python data_prep/check_videos.py --merge --out check.jsonl           # when all 64 are done

Writes check.jsonl and check.csv with a record a file, and check.duplicates.csv where files have
the same content. "status" is

    ok       every packet was decoded without an error and the frames last as long as in the header
    suspect  whole, but its frames change their size or are too large: use resize_videos.py
    failed   not a video, damaged, cut short, or not decoded within the time limit

Written as check.jsonl into DATA.PATH_TO_DATA_DIR, the records are read before training starts.
"""

from __future__ import annotations

import signal
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback

from data_prep import command_line, sources
from data_prep.jobs import JobInput, Work, sha256_of
from data_prep.journal import Record
from data_prep.strict import open_strictly
from slowfast_mvit.annotations.files import IMAGE_SUFFIXES
from slowfast_mvit.data.video.shards import open_plain_file
from slowfast_mvit.errors import DecodeError, UserError
from slowfast_mvit.storage import csv_text, write_text_atomically

_SHOWN_DUPLICATES = 10
_SHOWN_OF_GROUP = 4


def check(job: JobInput) -> Record:
    """The record of one file: its properties, and whether all of it can be decoded."""
    path = Path(job.name)  # for messages
    record: Record = {}
    try:
        with open_plain_file(job.path) as file:
            record["sha256"] = sha256_of(file)
            with open_strictly(path, file) as video:
                try:
                    for _ in video.frames():
                        pass
                finally:
                    record |= video.contents()
                return record | video.verdict()
    except DecodeError as error:
        return record | {"status": "failed", "reason": error.reason_of(job.path, path)}


def check_listed(job: JobInput) -> Record:
    """The record of one file of a list: of a video as above, of an image if it can be read."""
    if not job.name.lower().endswith(IMAGE_SUFFIXES):
        return check(job)
    from slowfast_mvit.data.video.readers import open_reader  # here: it needs torch, videos do not

    with open_reader(job.path) as image:
        image.frames([0])
    return {}


# Files with the same content


def duplicates_of(records: Sequence[Record]) -> list[list[str]]:
    """Groups of paths with one SHA-256, each sorted, in the order of their first."""
    paths: Mapping[str, list[str]] = defaultdict(list)
    for record in records:
        if "sha256" in record:
            paths[record["sha256"]].append(record["path"])
    return sorted(sorted(group) for group in paths.values() if len(group) > 1)


def report_duplicates(records: Sequence[Record], out: Path) -> None:
    """Report files with the same content and write them to ``out`` as CSV: group, path."""
    groups = duplicates_of(records)
    if not groups:
        out.unlink(missing_ok=True)
        return
    rows = [[number, path] for number, group in enumerate(groups) for path in group]
    write_text_atomically(out, csv_text([["group", "path"], *rows]))
    print(f"files with the same content: {len(groups):,} groups, see {out}")
    for group in groups[:_SHOWN_DUPLICATES]:
        more = [f"{len(group) - _SHOWN_OF_GROUP:,} more"] if len(group) > _SHOWN_OF_GROUP else []
        print("  " + " = ".join([*map(ascii, group[:_SHOWN_OF_GROUP]), *more]))


def main(words: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    parser = command_line.parser_of(__doc__)
    parser.add_argument("sources", nargs="*", help="folders, lists (.csv), files, or - for stdin")
    command_line.add_arguments(parser)
    options = command_line.parse(parser, __file__, words)
    if not (options.sources or options.merge):
        raise UserError("no videos. Name a folder or a list, or - to read paths from stdin")
    inputs = [] if options.merge else sources.inputs_of(options.sources)
    duplicates = options.out.with_suffix(".duplicates.csv")
    work = Work("check_videos", check)
    return command_line.run_command(
        options, inputs, work, lambda records: report_duplicates(records, duplicates)
    )


if __name__ == "__main__":
    sys.exit(command_line.exit_status(main))
