"""The command line of the scripts for lists: options, the check of the listed files, the report."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep import command_line
from data_prep.check_videos import check_listed
from data_prep.jobs import JobInput, Work, run_jobs
from data_prep.journal import Record, merge, read_records
from data_prep.plan_write import describe, refuse_foreign_lists, write_plan
from data_prep.planning import NOT_CHECKED, UNREADABLE, LeftOut, Listed, Plan
from slowfast_mvit.errors import UserError

_RECORDS = "check.jsonl"


def run_script(
    make_plan: Callable[..., Plan],
    description: str | None,
    add_options: Callable[[argparse.ArgumentParser], None],
    arguments: Sequence[str] | None,
    *,
    videos: str = "videos",
) -> int:
    """Make the plan of a command line, check its files where --verify is set, write and report it.

    Args:
        make_plan: takes the folder and the options of ``add_options`` by their names.
        description: the docstring of the script.
        add_options: adds the options of the annotation.
        arguments: the words of the command line; None for those of the process.
        videos: the name of the option that gives the folder.

    Returns:
        The exit status, 0.

    Raises:
        UserError: when the options do not go together, or nothing can be listed.
    """
    shared = _shared_options()
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
    )
    parser.add_argument(f"--{videos}", type=Path, required=True, help="the folder, in any layout")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.records and options.verify:
        raise UserError("give --records or --verify, not both")
    if (options.part or options.merge) and not options.verify:
        raise UserError("--part and --merge divide the work of --verify. Add --verify")
    refuse_foreign_lists(options.out)
    folder: Path = getattr(options, videos)
    names = vars(options).keys() - vars(shared.parse_args(["--out", ""])).keys()
    plan = make_plan(**{name: getattr(options, name) for name in names})
    records: Iterable[Record] | None = None
    if options.verify and plan.listed:
        if not options.merge and not _check_listed(plan, folder, options):
            return 0
        records = merge(options.out / _RECORDS)
    elif options.records:
        records = (record for file in options.records for record in read_records(file))
    if records is not None:
        plan = drop_unreadable(plan, records, videos=folder)
    summary = write_plan(plan, options.out, videos=folder, absolute=options.absolute)
    print(describe(summary, options.out))
    return 0


def files_option(parser: argparse.ArgumentParser, name: str, metavar: str, text: str) -> None:
    """Add an option that takes several paths."""
    parser.add_argument(name, type=Path, nargs="+", default=(), metavar=metavar, help=text)


def _shared_options() -> argparse.ArgumentParser:
    """The options that all scripts have."""
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the folder for the lists and reports")
    add("--absolute", action="store_true", help="write whole paths, not those below the folder")
    text = "records of check_videos.py: list only files that are ok"
    files_option(parser, "--records", "FILE", text)
    add(
        "--verify",
        action="store_true",
        help="check each file first, and list only files that are ok",
    )
    command_line.add_part_arguments(parser, "with --verify: ")
    return parser


# Checked files


def _check_listed(plan: Plan, videos: Path, options: argparse.Namespace) -> bool:
    """Check the listed files of a part, except folders of frames, as ``check_videos.py`` does.

    Files that were checked before and have not changed since are not checked again.

    Returns:
        Whether this part is the only one, so that the lists can be written.
    """
    part = command_line.part_of(options)
    files = sorted({item.path for item in plan.listed if item.num_bytes is not None})
    counts = run_jobs(
        [JobInput(path, videos / path) for path in files],
        Work("check_videos", check_listed),
        options.out / _RECORDS,
        part=part,
        num_workers=options.workers,
        timeout_s=options.timeout_s,
    )
    print(f"checked: {command_line.as_text(counts)}")
    if part.count > 1:
        print(command_line.ADVICE_TO_MERGE)
    return part.count == 1


def drop_unreadable(plan: Plan, records: Iterable[Record], *, videos: Path) -> Plan:
    """Leave out videos whose record is not "ok", or that have none, or changed since.

    Args:
        plan: the matched videos.
        records: as ``check_videos.py`` writes them, their paths absolute or below ``videos``.
        videos: the folder of the paths in the plan.

    Raises:
        UserError: when no record is of a file of the plan.
    """
    by_path = {record["path"]: record for record in records}
    same: dict[str, list[Listed]] = {}
    folders = ("", str(videos), str(videos.absolute()))
    listed, left_out, num_matched = [], list(plan.left_out), 0
    for item in plan.listed:
        names = (os.path.join(folder, item.path) for folder in folders)
        record = next((by_path[name] for name in names if name in by_path), None)
        problem = _problem(item, record)
        if record is not None and item.num_bytes is not None:
            num_matched += 1
            same.setdefault(record.get("sha256", item.path), []).append(item)
        if problem:
            left_out.append(LeftOut.of(item, *problem, item.path))
        else:
            listed.append(item)
    if len(listed) < len(plan.listed) and not num_matched:
        raise UserError(
            f"the records are of other files: they name {next(iter(by_path), 'nothing')!r}, for "
            f"example, and the videos are named as {plan.listed[0].path!r}. Run "
            f"data_prep/check_videos.py on {videos}"
        )
    notes = [*plan.notes, *_notes_on_copies(same.values())]
    return replace(plan, listed=listed, left_out=left_out, notes=notes)


def _notes_on_copies(groups: Iterable[list[Listed]]) -> Iterator[str]:
    """Videos of the same content that would be trained on and tested, or belong to two classes."""
    groups = [group for group in groups if len({(i.split, i.class_name) for i in group}) > 1]
    if groups:
        example = " = ".join(item.path for item in groups[0])
        content = "videos whose content is also in another split or class"
        yield f"{content}: {len(groups):,} ({example}, for example)"


def _problem(item: Listed, record: Record | None) -> tuple[str, str] | None:
    """Reason and detail; None for a folder of frames or a good video that has not changed since."""
    if item.num_bytes is None:
        return None
    if record is None:
        return NOT_CHECKED, "no record names it"
    if record.get("status") != "ok":
        return UNREADABLE, f"{record.get('status')}: {record.get('reason', '')}"
    if record.get("bytes") != item.num_bytes:
        return NOT_CHECKED, f"{record.get('bytes')} bytes when checked, {item.num_bytes} now"
    return None
