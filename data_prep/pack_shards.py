#!/usr/bin/env python3
"""Pack videos into tar shards that training reads in place, and index shards of other origin.

    python data_prep/pack_shards.py pack /data/k400_256 --to /data/k400_shards --out pack.jsonl \\
        --list /data/k400_256/train.csv --list /data/k400_256/val.csv
    python data_prep/pack_shards.py index /data/wds/*.tar
    python data_prep/pack_shards.py list /data/wds/*.tar --csv /data/wds/train.csv

pack writes /data/k400_shards/shards/train-000000.tar, ... each with its index, and the lists
train.csv and val.csv, which name shards/train-000000.tar/abc.mp4 and so on. The same videos in the
same order give the same bytes. Give --shuffle a seed where the list is sorted by class and shards
are to be mixed. Without --list all videos of the folder are packed and no list is written.

index writes the index next to each tar file of any origin. list also writes a list of the videos
in them, with the labels that are next to each video as key.cls or in key.json (webdataset).
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import io
import json
import math
import os
import re
import signal
import sys
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback

import numpy as np

from data_prep import command_line, sources
from data_prep.jobs import JobInput, Work, file_stamp, sha256_of
from data_prep.journal import Record
from slowfast_mvit.annotations.csv_lists import list_line
from slowfast_mvit.annotations.files import is_video
from slowfast_mvit.data.video import shards
from slowfast_mvit.data.video.shards import open_plain_file
from slowfast_mvit.errors import DecodeError, UserError, in_one_message
from slowfast_mvit.storage import atomic_path, write_atomically, write_text_atomically

_SHOWN_PROBLEMS = 20
_MAX_LABEL_BYTES = 1 << 20

# Name in the shard, path of the file, its bytes, and when it changed, in ns.
Member = tuple[str, str, int, int]


# Members of shards


def plan_shards(
    inputs: Sequence[JobInput], prefix: str, *, shard_bytes: int, num_shards: int = 0
) -> dict[str, list[Member]]:
    """Divide videos over shards, in their order.

    Args:
        inputs: the videos; a name becomes that of the member.
        prefix: the start of the names of the shards.
        shard_bytes: a shard is closed before it grows larger, unless by its first video.
        num_shards: into so many shards with nearly equal numbers of videos instead; 0 not to.

    Returns:
        The members of each shard, by its file name.

    Raises:
        UserError: when videos are missing or empty; names all of them.
    """
    members = _members(inputs)
    if num_shards:
        ends = [len(members) * (i + 1) // num_shards for i in range(num_shards)]
        groups = [members[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    else:
        groups = [[]]
        size = 0
        for member in members:
            if groups[-1] and size + member[2] > shard_bytes:
                groups.append([])
                size = 0
            groups[-1].append(member)
            size += member[2]
    return {f"{prefix}-{i:06d}.tar": group for i, group in enumerate(groups) if group}


def _members(inputs: Sequence[JobInput]) -> list[Member]:
    members, problems = [], []
    for job in inputs:
        stamp = file_stamp(job)
        if stamp["bytes"] == 0:
            problems.append(f"{job.path} is missing or empty. Take it out of the list")
        members.append((job.name, str(job.path), stamp["bytes"], stamp["mtime_ns"]))
    if problems:
        raise UserError(in_one_message("videos", problems, limit=_SHOWN_PROBLEMS))
    return members


def shuffled(inputs: Sequence[JobInput], seed: int) -> list[JobInput]:
    """The videos in an order that depends on the seed and their number alone."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(inputs))
    return [inputs[i] for i in order]


# Writing a shard


@dataclass(frozen=True)
class ShardInput(JobInput):
    """A shard to write.

    Attributes:
        members: its members, in order.
    """

    members: Sequence[Member]


def pack(job: ShardInput, *, to: str) -> Record:
    """Write one shard and its index.

    Args:
        job: the shard.
        to: the folder of the shards.

    Returns:
        "bytes", "videos" and "sha256" of the shard.
    """
    shard = Path(to, job.name)
    index_path(shard).unlink(missing_ok=True)  # before the shard that it would not fit
    with atomic_path(shard) as temporary, open(temporary, "w+b") as file:
        offsets = list(_write_members(file, job.members))
        file.flush()
        found = list(shards.plain_members(file, temporary))
        if found != offsets:
            raise DecodeError("reads back otherwise than it was written", job.name)
        record = {
            "bytes": file.seek(0, os.SEEK_END),
            "videos": len(job.members),
            "sha256": sha256_of(file),
        }
    write_index(shard)
    return record


def _write_members(file: IO[bytes], members: Sequence[Member]) -> Iterator[tuple[str, int]]:
    """Append the files; no time, owner or right gets into the shard."""
    with tarfile.TarFile(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path, num_bytes, _ in members:
            with open_plain_file(Path(path)) as source:
                if source.seek(0, os.SEEK_END) != num_bytes:
                    raise DecodeError("has changed. Run the same command again", path)
                source.seek(0)
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = num_bytes, 0o644, 0
                yield name, archive.offset
                archive.addfile(info, source)


def stamp_of(job: ShardInput, folder: Path) -> dict[str, Any]:
    """A record is valid as long as the plan and the shard do not change, and its index exists."""
    shard = folder / job.name
    is_whole = shard.is_file() and index_path(shard).is_file()
    return {
        "bytes": shard.stat().st_size if is_whole else None,
        "plan_sha256": hashlib.sha256(json.dumps(job.members).encode()).hexdigest(),
    }


def write_index(shard: Path) -> int:
    """Write the index next to a shard; returns the number of its files.

    Raises:
        DecodeError: when it is no uncompressed tar file, damaged, or names a file twice.
    """
    with open_plain_file(shard) as file:
        members = list(shards.plain_members(file, shard))
        text = shards.index_text(members, os.fstat(file.fileno()).st_size, shard)
    write_atomically(index_path(shard), lambda file: file.write(text))
    return len(members)


def index_path(shard: Path) -> Path:
    """The file next to a shard that names its members."""
    return shard.with_name(f"{shard.name}{shards.INDEX_SUFFIX}")


# Labels of shards that webdataset wrote


def labelled_videos(shard: Path, json_field: str) -> Iterator[tuple[str, int | str]]:
    """Each video of a webdataset shard, with its label or the problem of its label.

    Args:
        shard: a tar file in which key.mp4 and key.cls, or key.json, have the same key.
        json_field: the field of key.json with the label.
    """
    with open_plain_file(shard) as file:
        names = {name: None for name, _ in shards.plain_members(file, shard)}
    for name in filter(is_video, names):
        yield name, _label_of(shard, name, names, json_field)


def _label_of(shard: Path, name: str, names: Collection[str], field: str) -> int | str:
    cls, in_json = (str(PurePosixPath(name).with_suffix(suffix)) for suffix in (".cls", ".json"))
    where = cls if cls in names else in_json
    if where not in names:
        return f"neither {cls} nor {in_json} gives the label of {name}"
    with open_plain_file(shard / where) as file:
        text = file.read(_MAX_LABEL_BYTES).decode("utf-8", "replace")
    if where == in_json:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return f"{where} is not JSON"
        if not isinstance(content, dict) or field not in content:
            return f"{where} has no field {field!r}. Name the field with --json-field"
        text, where = str(content[field]), f"{where}: {field}"
    text = text.strip()
    is_label = re.fullmatch("[0-9]{1,9}", text)
    return int(text) if is_label else f"{where} is {text[:40]!r}, not a class index"


# The command line


def _check_options(options: argparse.Namespace) -> None:
    wrong = [
        (not 0 < options.shard_mb < math.inf, f"--shard-mb {options.shard_mb}: expected above 0"),
        (options.shard_count < 0, f"--shard-count {options.shard_count}: expected 1 or more"),
        ((options.shuffle or 0) < 0, f"--shuffle {options.shuffle}: expected 0 or more"),
    ]
    problems = [problem for is_wrong, problem in wrong if is_wrong]
    if problems:
        raise UserError(in_one_message("options", problems))


def _pack_command(options: argparse.Namespace) -> int:
    _check_options(options)
    folder = options.to / "shards"
    inputs, rows = sources.inputs_below(options.videos, options.lists, to=options.to)
    groups = {Path(name).stem: [job for job, _ in listed] for name, listed in rows.items()}
    groups = groups or {"videos": inputs}
    plans: dict[str, dict[str, list[Member]]] = {}
    for prefix, videos in groups.items():
        once = list({job.name: job for job in videos}.values())
        if options.shuffle is not None:
            once = shuffled(once, options.shuffle)
        shard_bytes = int(options.shard_mb * 1e6)
        plans[prefix] = plan_shards(
            once, prefix, shard_bytes=shard_bytes, num_shards=options.shard_count
        )

    def write_lists(records: Sequence[Record]) -> None:
        packed = {record["path"] for record in records if record["status"] == "ok"}
        for name, listed in rows.items():
            places = {
                member[0]: f"shards/{shard}/{member[0]}"
                for shard, members in plans[Path(name).stem].items()
                if shard in packed
                for member in members
            }
            sources.write_lists({name: listed}, places, options.to, options.lists)
        _report_others(folder, plans)

    everything = {shard: members for plan in plans.values() for shard, members in plan.items()}
    work = Work(
        "pack_shards",
        pack,
        settings={"to": str(folder)},
        stamp=lambda job: stamp_of(job, folder),
        outputs=lambda job: [folder / job.name, index_path(folder / job.name)],
    )
    shard_inputs = [ShardInput(name, folder / name, group) for name, group in everything.items()]
    return command_line.run_command(options, shard_inputs, work, write_lists)


def _report_others(folder: Path, plans: Mapping[str, Mapping[str, Sequence[Member]]]) -> None:
    """Report shards of an earlier division: programs that read *.tar would read them too."""
    for prefix, plan in plans.items():
        others = sorted(p.name for p in folder.glob(f"{glob.escape(prefix)}-{'[0-9]' * 6}.tar"))
        others = [name for name in others if name not in plan]
        if others:
            print(f"{folder}: not of these, remove them: {', '.join(others[:_SHOWN_PROBLEMS])}")


def _index_command(options: argparse.Namespace) -> int:
    for shard in options.shards:
        print(f"{index_path(shard)}: {write_index(shard):,} files")
    return 0


def _list_command(options: argparse.Namespace) -> int:
    _index_command(options)
    lines = io.StringIO()
    problems = []
    for shard in options.shards:
        place = os.path.relpath(shard, options.csv.parent)
        for name, label in labelled_videos(shard, options.json_field):
            if isinstance(label, str):
                problems.append(f"{shard}: {label}")
            else:
                lines.write(list_line(f"{place}/{name}", label))
    if problems:
        raise UserError(in_one_message("labels", problems, limit=_SHOWN_PROBLEMS))
    write_text_atomically(options.csv, lines.getvalue())
    print(f"{options.csv}: {lines.getvalue().count(chr(10)):,} videos")
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    parser = command_line.parser_of(__doc__)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("pack", help="pack videos into shards")
    command.set_defaults(run=_pack_command)
    add = command.add_argument
    add("videos", type=Path, help="the folder of the videos")
    add("--to", type=Path, required=True, help="the folder for lists and shards")
    add("--list", dest="lists", type=Path, action="append", default=[], help="a list to pack")
    add("--shard-mb", type=float, default=1024.0, help="megabytes a shard (%(default)s)")
    add("--shard-count", type=int, default=0, metavar="N", help="N shards a list instead")
    add("--shuffle", type=int, metavar="SEED", help="mix the videos over the shards of a list")
    command_line.add_arguments(command)

    for name, run in (("index", _index_command), ("list", _list_command)):
        command = commands.add_parser(name, help=f"{name} tar files")
        command.set_defaults(run=run)
        command.add_argument("shards", type=Path, nargs="+", help="tar files")
    command.add_argument("--csv", type=Path, required=True, help="the list to write")
    command.add_argument("--json-field", default="label", help="in key.json (%(default)s)")

    options = command_line.parse(parser, __file__, words)
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(command_line.exit_status(main))
