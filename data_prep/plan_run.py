"""The options that all scripts for lists have, and what happens once the plan is made."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from data_prep.command_line import num_cores, whole_number
from data_prep.parts import Shard
from data_prep.plan import Plan, drop_unusable
from data_prep.plan_records import check_listed, checked_records, drop_unreadable, records_of
from data_prep.plan_write import describe, refuse_foreign_files, write_plan
from slowfast_mvit.errors import UserError


def add_plan_arguments(parser: argparse.ArgumentParser, videos: str = "--videos") -> None:
    """The options of reading and writing; those of the annotation are the script's own.

    Args:
        parser: they are added to it.
        videos: what the option that names the folder is called.
    """
    add = parser.add_argument
    add(videos, dest="videos", type=Path, required=True, help="the folder, in any layout")
    add("--out", type=Path, required=True, help="the folder for the lists and reports")
    add(
        "--absolute",
        action="store_true",
        help="write whole paths instead of those below the folder",
    )
    add(
        "--records",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="records of check_videos.py: list only what is ok",
    )
    add("--verify", action="store_true", help="check each file first, and list only what is ok")
    add("--shard", default="", help="with --verify: check part i of N, written i/N, and stop")
    add("--merge", action="store_true", help="with --verify: all shards are done; write the lists")
    add(
        "--workers",
        type=whole_number,
        default=num_cores(),
        help="with --verify: processes (%(default)s)",
    )
    add(
        "--timeout-s",
        type=whole_number,
        default=600,
        help="with --verify: for one file (%(default)s)",
    )


def run_plan(options: argparse.Namespace, make_plan: Callable[[], Plan]) -> int:
    """Make the plan, check its files if asked to, write it and say what it is.

    Args:
        options: those of ``add_plan_arguments``.
        make_plan: the script's own part.

    Returns:
        The exit status, 0.

    Raises:
        UserError: when the options do not go together, or nothing can be listed.
    """
    _check_options(options)
    refuse_foreign_files(options.out)
    plan = drop_unusable(make_plan())
    if options.verify and plan.listed and not options.merge:
        shard = Shard.parse(options.shard) if options.shard else Shard.from_environment(os.environ)
        counts = check_listed(
            plan,
            options.out,
            videos=options.videos,
            shard=shard,
            num_workers=options.workers,
            timeout_s=options.timeout_s,
        )
        print(f"checked: {counts}")
        if shard.count > 1:
            print("When all shards are done, run the same command with --merge for --shard.")
            return 0
    if options.verify and plan.listed:
        plan = drop_unreadable(plan, checked_records(options.out), videos=options.videos)
    elif options.records:
        plan = drop_unreadable(plan, records_of(options.records), videos=options.videos)
    summary = write_plan(plan, options.out, videos=options.videos, absolute=options.absolute)
    print(describe(summary, options.out))
    return 0


def _check_options(options: argparse.Namespace) -> None:
    if options.records and options.verify:
        raise UserError("give --records or --verify, not both")
    if (options.shard or options.merge) and not options.verify:
        raise UserError("--shard and --merge divide the work of --verify. Add --verify")
