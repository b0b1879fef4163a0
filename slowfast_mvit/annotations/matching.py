"""Annotated videos of one split as columns: their classes by name, their files below a folder."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from slowfast_mvit.annotations.class_names import ClassIndex
from slowfast_mvit.annotations.columns import Strings, columns
from slowfast_mvit.annotations.files import Passed, best_first, walk
from slowfast_mvit.annotations.problems import Problem, raise_problems, without_problems
from slowfast_mvit.annotations.records import (
    Annotated,
    ListSource,
    Row,
    duplicates,
    split_named_in,
)
from slowfast_mvit.errors import ListError

_log = logging.getLogger(__name__)


def with_labels(
    rows: Iterable[Row | Problem],
    class_names: Sequence[str],
    file: Path,
    *,
    must_be_unique: bool,
    unit: str = "line",
    answers: str = "",
) -> tuple[Strings, array[int]]:
    """The videos of the rows and their class indices.

    Args:
        rows: of one file; read once, one at a time.
        class_names: in the order of the class indices.
        file: that of the rows, for messages.
        must_be_unique: whether a video may be listed only once; else a warning counts the others.
        unit: what a row is: "line" or "entry".
        answers: the file that gives the classes, where it is another.

    Raises:
        ListError: all problems of the rows at once, or there are no rows.
    """
    problems: list[Problem] = []
    classes = ClassIndex(class_names)

    def labelled() -> Iterator[tuple[int, str, int]]:
        for video, _, name, line in without_problems(rows, problems):
            label = None if name is None else classes.find(name)
            if label is not None:
                yield line, video, label
            elif name is None:
                where = f" in {answers}" if answers else ""
                message = f"{video!r} has no label{where}"
                problems.append(Problem(str(file), line, "label", message, unit))
            else:
                message = f"label {name!r} is not among the class names{classes.hint(name)}"
                problems.append(Problem(str(file), line, "class", message, unit))

    videos, labels, lines = columns(labelled())
    problems += duplicates(videos, lines, file, must_be_unique=must_be_unique, unit=unit)
    raise_problems(problems)
    if not videos:
        raise ListError(f"{file}: the list is empty. Copy the annotation file again")
    return videos, labels


def with_files(
    videos: Strings,
    labels: array[int],
    class_names: tuple[str, ...],
    file: Path,
    source: ListSource,
    *,
    root: Path,
    files_of: Callable[[Iterable[str]], Callable[[str], Sequence[str]]],
    overrides: Callable[[str], bool] = lambda path: False,
    suffix: str,
) -> Annotated:
    """The videos with their files; one without a file is left out of training.

    In testing such a video stays in the list: it fails when it is read, and so is counted.

    Args:
        videos: as the annotation names them.
        labels: their class indices.
        class_names: in the order of the class indices.
        file: the annotation file.
        source: where it is from.
        root: the folder of the files.
        files_of: makes, of all paths below ``root``, what finds the files of a video.
        overrides: whether a file replaces others of the same video.
        suffix: of a file that does not exist.

    Raises:
        ListError: when no video has a file.
    """
    passed = Passed()
    find_files = files_of(walk(root, passed))
    for folder, reason in passed.unreadable:  # a whole disk has a lost+found
        _log.warning("%s: %s; files in it are not found", folder, reason)
    split = split_named_in(file.stem)

    def best() -> Iterator[str]:
        for video, label in zip(videos, labels, strict=True):
            found = find_files(video)
            if len(found) > 1:
                name = class_names[label]
                found = best_first(
                    found, root=root, split=split, class_name=name, overrides=overrides
                )
            yield found[0] if found else ""

    paths = Strings(best())
    missing = [video for video, path in zip(videos, paths, strict=True) if not path]
    if len(missing) == len(videos):
        raise ListError(
            f"{file}: none of its {len(videos):,} videos is there. Looked for {videos[0]}{suffix} "
            f"and the like in {root} and all folders below. Set DATA.PATH_PREFIX to their folder"
        )
    if missing:
        in_training = source.split == "train"
        _log.warning(
            "%s: %d of %d videos have no file below %s (first: %s); they %s",
            file,
            len(missing),
            len(videos),
            root,
            missing[0],
            "are left out of training" if in_training else "count as failed",
        )
        if in_training:
            kept = [index for index, path in enumerate(paths) if path]
            videos, labels = Strings(videos[i] for i in kept), array("q", (labels[i] for i in kept))
            paths = Strings(path for path in paths if path)
        else:
            pairs = zip(videos, paths, strict=True)
            paths = Strings(path or f"{video}{suffix}" for video, path in pairs)
    return Annotated(videos, labels, paths, root, file, class_names)
