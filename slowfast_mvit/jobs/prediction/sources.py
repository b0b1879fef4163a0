"""The videos that a command line names: files, folders, globs, lists, and lists on standard input.

Unlike in training, a list needs no labels. ``UNLABELLED`` is the label of such a video.
"""

from __future__ import annotations

import glob
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from slowfast_mvit.annotations.csv_lists import read_csv_file, separator_of
from slowfast_mvit.annotations.files import IMAGE_SUFFIXES, Passed, has_suffix, is_hidden, walk
from slowfast_mvit.annotations.frame_lists import frames_of_pattern
from slowfast_mvit.annotations.records import ListSource, not_found
from slowfast_mvit.annotations.texts import numbered_lines
from slowfast_mvit.data.lists.video_list import VideoList
from slowfast_mvit.errors import UserError
from slowfast_mvit.storage import leads_to_file
from slowfast_mvit.structures import VideoRecord

UNLABELLED = -1
LIST_SUFFIXES = (".csv", ".txt", ".tsv", ".list", ".lst")
_PROBED_LINES = 5


def videos_of(sources: Sequence[str]) -> list[VideoRecord]:
    """Return the videos that these sources name, each path once, in their order.

    Args:
        sources: videos, images, folders of videos or of frames, globs, lists, or ``-``.

    Raises:
        UserError: a source names nothing; a list has lines that cannot be used.
    """
    videos: dict[str, VideoRecord] = {}
    for source in sources:
        for video in _videos_of(source):
            known = videos.setdefault(os.path.normpath(video.path), video)
            if known.label == UNLABELLED:
                videos[os.path.normpath(video.path)] = replace(known, label=video.label)
    return list(videos.values())


def _videos_of(source: str) -> Iterator[VideoRecord]:
    path = Path(source)
    if source == "-":
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "standard_input.txt")
            file.write_bytes(sys.stdin.buffer.read())
            yield from _of_list(file, ".")
    elif os.path.isdir(path):
        yield from map(_unlabelled, _in_folder(path))
    elif path.suffix.lower() in LIST_SUFFIXES and os.path.isfile(path):
        yield from _of_list(path, "")
    elif leads_to_file(path):
        yield _unlabelled(source)
    elif matches := sorted(glob.glob(source, recursive=True)):
        for match in matches:
            yield from _videos_of(match)
    elif frames_of_pattern(source) is not None:
        yield _unlabelled(source)
    elif glob.has_magic(source):
        raise UserError(f"{source}: matches no file. Is the pattern right, and in quotes?")
    else:
        raise not_found(path)


def _unlabelled(path: str) -> VideoRecord:
    return VideoRecord(path, path, UNLABELLED)


def _in_folder(folder: Path) -> list[str]:
    """Return the videos below a folder, or the folder itself if it has frames and no videos."""
    passed = Passed()
    videos = sorted(walk(folder, passed))
    if videos:
        return [os.path.join(folder, video) for video in videos]
    names = () if passed.unreadable else os.listdir(folder)
    if any(name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name) for name in names):
        return [str(folder)]
    reason = passed.unreadable[0][1] if passed.unreadable else "no video, and no frames as images"
    raise UserError(f"{folder}: {reason}" + (f" ({passed})" if passed.counts else ""))


def _of_list(file: Path, prefix: str) -> Iterator[VideoRecord]:
    """Yield the videos of a list: paths alone, which may contain spaces, or as ``read_csv``."""
    head = [text for _, text in itertools.islice(numbered_lines(file), _PROBED_LINES)]
    folders = (Path(prefix or file.parent), Path())
    found = [folder for folder in folders if any(leads_to_file(folder / text) for text in head)]
    if found or (head and all(map(has_suffix, head))):
        folder = (*found, *folders)[0]
        for _, text in numbered_lines(file):
            yield _unlabelled(os.path.join("" if folder == Path() else folder, text))
        return
    source = ListSource(file.parent, "test", path_prefix=prefix, separator=separator_of(file))
    yield from VideoList.of(read_csv_file(file, source))
