"""Join the parts of a test that several jobs have scored, into what a single job would write."""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from slowfast_mvit import builders
from slowfast_mvit.config import load_config
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.loading.loader import part_of
from slowfast_mvit.errors import UserError, in_one_message
from slowfast_mvit.evaluation.records import (
    DIGEST_LENGTH,
    Outcome,
    Part,
    Records,
    differences,
    join_records,
    part_numbers,
    records_in,
)
from slowfast_mvit.jobs.report import CONFIG_FILE
from slowfast_mvit.jobs.test import all_views, require_every_video, write_test
from slowfast_mvit.runtime.log import setup_logging
from slowfast_mvit.storage import output_folder, register_path_handlers

logger = logging.getLogger(__name__)


def merge_job(output_dirs: Sequence[str]) -> None:
    """Write the results of a test whose parts lie in one or several folders, into the first.

    The records are left where they are.

    Args:
        output_dirs: each the ``OUTPUT_DIR`` of one or several jobs; may be remote.

    Raises:
        UserError: there are no records, or those of different tests.
        MissingViewsError: videos are missing, or have two different results.
    """
    setup_logging()
    with contextlib.ExitStack() as stack:
        _merge([stack.enter_context(output_folder(path)) for path in dict.fromkeys(output_dirs)])


def _merge(output_dirs: Sequence[Path]) -> None:
    tests = [test for folder in output_dirs for test in _tests_in(folder)]
    _require_same(tests)
    first, fingerprint = output_dirs[0], tests[0].fingerprint
    config = load_config(first / CONFIG_FILE)
    register_path_handlers(config.path_handlers)
    videos = builders.build_videos(config, "test")
    today = {"config": config.digest(), "list": videos.digest()[:DIGEST_LENGTH]}
    _require_unchanged(first, today, {name: fingerprint[name] for name in today})

    plans = builders.test_plans(config)
    folders = [test.folder for test in tests]
    outcomes = join_records(folders, all_views(plans))
    require_every_video(outcomes, videos, _what_to_run(first, folders, videos, outcomes))
    logger.info(
        "joined the records of %d videos from %d files of parts", len(outcomes), len(folders)
    )
    write_test(config, videos, outcomes, weights=tests[0].weights, output_dir=first)
    logger.info(
        "the records are kept; when they are no longer needed, delete %s",
        ", ".join(str(folder.parent) for folder in folders),
    )


def _tests_in(output_dir: Path) -> list[Records]:
    tests = records_in(output_dir)
    if not tests:
        raise UserError(
            f"{output_dir}: no records of a test there. Give the OUTPUT_DIR of jobs that were "
            "started with slowfast-mvit test --part; a test of the whole list needs no merge"
        )
    return tests


def _require_same(tests: Sequence[Records]) -> None:
    first, expected = tests[0], tests[0].fingerprint
    problems = [
        f"{test.folder} differs in {name}: {test.fingerprint.get(name)}, not {expected.get(name)}"
        for test in tests[1:]
        for name in differences(expected, test.fingerprint)
    ]
    if problems:
        headline = f"{first.folder} and others hold records of different tests, never joined"
        raise UserError(
            in_one_message(headline, problems) + "\nDelete the folders of the test that is not "
            "wanted, or run its parts again with equal settings"
        )


def _require_unchanged(output_dir: Path, today: Mapping[str, str], then: Mapping[str, str]) -> None:
    changed = differences(then, today)
    if changed:
        raise UserError(
            f"{output_dir / CONFIG_FILE}: the {' and the '.join(changed)} it gives is not the one "
            "that was tested. Put the config and the list back as they were, or test again"
        )


def _what_to_run(
    output_dir: Path,
    folders: Sequence[Path],
    videos: VideoList,
    outcomes: Mapping[str, Outcome],
) -> str:
    """The commands that score what is missing."""
    missing = {i for i, video in enumerate(videos) if video.video_id not in outcomes}
    command = f"slowfast-mvit test --cfg {shlex.quote(str(output_dir / CONFIG_FILE))}"
    numbers = {part.num_parts for part in part_numbers(folders)}
    if len(numbers) != 1 or numbers == {
        1
    }:  # whoever tests the whole list goes on with what is missing
        return f"Run: {command}"
    num_parts = numbers.pop()
    wanted = [
        Part(number + 1, num_parts)
        for number in range(num_parts)
        if missing.intersection(range(len(videos))[part_of(len(videos), number, num_parts)])
    ]
    lines = [f"  {command} --part {part.number}/{part.num_parts}" for part in wanted]
    return "\n".join(["Run these, then merge again:", *lines])
