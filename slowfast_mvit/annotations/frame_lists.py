"""PySlowFast's lists of frames, for videos that were taken apart into images.

original_vido_id video_id frame_id path labels
7 0 0 frames/7/7_000001.jpg ""
7 0 1 frames/7/7_000002.jpg ""
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from slowfast_mvit.annotations.columns import Strings
from slowfast_mvit.annotations.files import IMAGE_SUFFIXES
from slowfast_mvit.annotations.records import Problem, path_problem, raise_problems
from slowfast_mvit.annotations.texts import numbered_lines, open_text
from slowfast_mvit.errors import ListError

_log = logging.getLogger(__name__)

_HEADER = "original_vido_id"  # the misspelling is the format's
_MAX_FRAMES = 500_000
_NUMBER = re.compile("[0-9]{1,18}")
_RUN = re.compile("([0-9]{1,18})(?:-([0-9]{1,18}))?")  # 000001-000012, or 000006
_PATTERN = re.compile(r"(.*)\[([0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*)\]([^\[\]/]*)")


def is_frame_list(file: Path) -> bool:
    """Return whether this is a list of frames, by its first line."""
    with open_text(file, errors="replace") as lines:
        return next(lines, "").startswith(_HEADER)


def read_frame_list(file: Path) -> dict[str, str]:
    """The frames of each video, as one path pattern (see ``frame_pattern``), by video id.

    Raises:
        ListError: all problems of the list at once.
    """
    patterns: dict[str, str] = {}
    problems: list[Problem] = []
    rows = ((line, text.split()) for line, text in numbered_lines(file))
    next(rows)  # the header
    for field, group in itertools.groupby(rows, key=lambda row: row[1][0]):
        video_id, frames = field.strip('"'), list(group)
        problem: str | None
        if any(len(row) < 4 for _, row in frames):
            problem = "expected video id, number, frame number, path, labels"
        elif video_id in patterns:
            problem = f"video {video_id!r} is continued here, after other videos"
        else:
            pattern = frame_pattern([row[3].strip('"') for _, row in frames])
            problem = f"the frames of {video_id!r} are not numbered files of one folder"
            if pattern is not None:
                problem = path_problem(pattern)
            patterns[video_id] = pattern or ""
        if problem:
            problems.append(Problem(file, frames[0][0], "frames", problem))
    raise_problems(problems)
    return patterns


def frame_pattern(paths: Sequence[str]) -> str | None:
    """The frames of a video in one short text: ``a/f_01.jpg a/f_02.jpg`` -> ``a/f_[01-02].jpg``.

    Millions of frame paths do not fit in memory; nearly all of them count upwards. None where the
    paths are not numbered files of one folder. ``frames_of_pattern`` is the way back.
    """
    first = re.fullmatch(r"(.*?)([0-9]{1,18})([^0-9]*)", paths[0]) if paths else None
    if first is None:
        return None
    before, _, after = first.groups()
    runs: list[tuple[str, str]] = []
    following = ""
    for path in paths:
        number = path[len(before) : len(path) - len(after)]
        if not (path.startswith(before) and path.endswith(after)) or not _NUMBER.fullmatch(number):
            return None
        if number == following:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
        following = str(int(number) + 1).zfill(len(number))
    written = ",".join(a if a == b else f"{a}-{b}" for a, b in runs)
    return f"{before}[{written}]{after}"


def frames_of_pattern(pattern: str) -> list[str] | None:
    """The paths that ``frame_pattern`` wrote in one text, or None for any other text.

    A list of any origin may contain such a name: one of no images, or of over 500,000, is a path.
    """
    match = _PATTERN.fullmatch(pattern)
    if match is None or not match[3].lower().endswith(IMAGE_SUFFIXES):
        return None
    runs = [_RUN.fullmatch(run) for run in match[2].split(",")]
    spans = [(run[1], int(run[1]), int(run[2] or run[1])) for run in runs if run]
    if len(spans) < len(runs) or sum(last - first + 1 for _, first, last in spans) > _MAX_FRAMES:
        return None
    return [
        f"{match[1]}{str(number).zfill(len(written))}{match[3]}"
        for written, first, last in spans
        for number in range(first, last + 1)
    ]


def check_frame_list(file: Path, frames: dict[str, str], split_file: Path, ids: Strings) -> None:
    """Refuse a frame list without frames, or of videos that the split does not name."""
    raise_problems(
        Problem(file, 0, "id", f"video {video_id!r} is not in {split_file.name}")
        for video_id in sorted(set(frames) - set(ids))
    )
    if not frames:
        raise ListError("the frame list names no frames", file)
    if len(frames) < len(ids):
        text = "%s: %d of the %d videos of %s have no frames in the list and are left out"
        _log.warning(text, file, len(ids) - len(frames), len(ids), split_file.name)
