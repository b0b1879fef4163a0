"""The input videos of a script: a folder, lists, or paths that another program writes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.jobs import JobInput
from data_prep.planning import SHOWN, list_tree
from slowfast_mvit.annotations.csv_lists import list_line, read_csv_file, separator_of
from slowfast_mvit.annotations.files import is_video
from slowfast_mvit.annotations.records import ListSource
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.errors import UserError, in_one_message
from slowfast_mvit.storage import leads_to_file, write_text_atomically

Row = tuple[JobInput, int]  # a video of a list, named by its path below a folder, and its label


def inputs_in_folder(folder: Path) -> list[JobInput]:
    """The video files below a folder, as for the scripts for lists, sorted by name."""
    found = sorted(list_tree(folder)[0], key=os.fsencode)
    return [JobInput(name, folder / name) for name in found if is_video(name)]


def inputs_from_paths(lines: Iterable[str], folder: Path) -> list[JobInput]:
    """A file for each line that is not blank; relative paths start from ``folder``."""
    names = [line.rstrip("\r\n") for line in lines]
    return [JobInput(name, folder / name) for name in names if name]


def inputs_of(sources: Sequence[str]) -> list[JobInput]:
    """The videos of folders, of lists (``.csv``), or of the lines of standard input (``-``).

    A video that several sources name is taken once. Names are paths as the source gives them: of a
    folder, those below it.

    Raises:
        UserError: when a source does not exist or is of another kind, or a list has problems.
    """
    inputs: dict[str, JobInput] = {}
    for source in sources:
        for job in _inputs_of_one(source):
            if inputs.setdefault(job.name, job).path != job.path:
                raise UserError(
                    f"{source}: {job.name!r} names another file than in the sources before. "
                    "Give the folder above them, or run once for each"
                )
    if not inputs:
        raise UserError(f"{', '.join(sources) or 'no sources'}: no videos there")
    return list(inputs.values())


def _inputs_of_one(source: str) -> list[JobInput]:
    path = Path(source)
    if source == "-":
        return inputs_from_paths(map(os.fsdecode, sys.stdin.buffer), Path())
    if path.is_dir():
        return inputs_in_folder(path)
    if path.suffix == ".csv":
        return [JobInput(video.video_id, Path(video.path)) for video in _read_list(path)]
    if path.is_file():
        return [JobInput(source, path)]
    raise UserError(f"{source}: no such file or folder")


def rows_of_list(file: Path, videos: Path) -> list[Row]:
    """The videos of a list with their labels, named by their paths below the folder ``videos``.

    Raises:
        UserError: when a video is elsewhere.
    """
    rows: list[Row] = []
    outside = []
    for video in _read_list(file, videos):
        name = os.path.relpath(os.path.abspath(video.path), os.path.abspath(videos))
        if name.startswith(".."):
            outside.append(f"{video.path} is not below {videos}")
        rows.append((JobInput(Path(name).as_posix(), Path(video.path)), video.label))
    if outside:
        raise UserError(in_one_message(str(file), outside, limit=SHOWN))
    return rows


def inputs_below(
    videos: Path, lists: Sequence[Path], *, to: Path
) -> tuple[list[JobInput], dict[str, list[Row]]]:
    """The videos of lists, each once, or all below a folder where there are no lists.

    Args:
        videos: the folder of the videos.
        lists: lists of videos in it.
        to: the folder into which ``write_lists`` will write them again.

    Returns:
        The videos, and the rows of each list by the list's file name.

    Raises:
        UserError: when the folder does not exist or contains no videos, a list has problems, or
            the lists cannot be written into one folder.
    """
    if not videos.is_dir():
        raise UserError(f"{videos}: no such folder. Give the folder of the videos")
    problems = _problems_of_lists(lists, to)
    if problems:
        raise UserError(in_one_message("--list", problems))
    rows = {file.name: rows_of_list(file, videos) for file in lists}
    inputs = {job.name: job for listed in rows.values() for job, _ in listed}
    found = list(inputs.values()) if rows else inputs_in_folder(videos)
    if not found:
        raise UserError(f"{videos}: no videos there")
    return found, rows


def _problems_of_lists(lists: Sequence[Path], to: Path) -> list[str]:
    """Problems that prevent lists from being written again into one folder."""
    problems = []
    first: dict[str, Path] = {}
    classes: dict[bytes, Path] = {}
    for file in lists:
        earlier = first.setdefault(file.stem, file)
        if earlier is not file:
            problems.append(f"{earlier} and {file} would both become {file.stem}. Rename one")
        target = to / file.name
        if target.exists() and file.exists() and target.samefile(file):
            problems.append(f"{file} would be overwritten. Give a --to that does not contain it")
        named = file.with_name("classes.txt")
        if named.is_file():
            classes.setdefault(named.read_bytes(), named)
    if len(classes) > 1:
        shown = " and ".join(map(str, classes.values()))
        problems.append(f"labels have more than one meaning: {shown} differ")
    return problems


def write_lists(
    rows: dict[str, list[Row]], new_paths: dict[str, str], folder: Path, lists: Iterable[Path]
) -> None:
    """Write each list again with the new paths of its videos, and copy classes.txt.

    Videos without a new path are left out and counted on standard output.

    Args:
        rows: the rows of each list by its file name.
        new_paths: the new path of each video, by its name.
        folder: the folder for the lists.
        lists: the old lists, for the classes.txt next to them.
    """
    for name, listed in rows.items():
        kept = [(new_paths[job.name], label) for job, label in listed if job.name in new_paths]
        write_text_atomically(folder / name, "".join(list_line(*row) for row in kept))
        print(f"{folder / name}: {len(kept):,} of {len(listed):,} videos")
    for file in lists:
        classes = file.with_name("classes.txt")
        if classes.is_file():
            write_text_atomically(folder / "classes.txt", classes.read_text(encoding="utf-8"))


def _read_list(file: Path, videos: Path | None = None) -> VideoList:
    """A list; its relative paths start from the folder of the list or the working folder, or else
    ``videos``.

    Raises:
        UserError: when none of its videos is there: most likely they start from another folder.
    """
    # "train", in which videos may repeat.
    source = ListSource(file.parent, "train", separator=separator_of(file))
    starts = [source] if videos is None else [source, replace(source, path_prefix=str(videos))]
    for start in starts:
        found = VideoList.of(read_csv_file(file, start))
        if any(leads_to_file(Path(video.path)) for video in found):
            return found
    folders = [str(file.parent), "the working folder", *([] if videos is None else [str(videos)])]
    raise UserError(
        f"{file}: none of its {len(found):,} videos is there (first: {found[0].video_id!r}). Paths "
        f"start from {' or '.join(folders)}; run this from the folder that they start from"
    )
