"""The lists of Something-Something v2: JSON files beside the videos, or PySlowFast's frame lists.

    labels.json        {"Pushing something": "0", ...}
    train.json         [{"id": "78687", "template": "Pushing [something]", ...}, ...]
    validation.json    the same
    test.json          [{"id": "1420"}, ...], in the newer release with
    test-answers.csv   1420;Pushing something

and the videos themselves as ``<id>.webm`` (or .mp4, or a folder of frames named ``<id>``), or
``train.csv`` / ``val.csv`` with one line for each frame (a JPEG) of each video.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from slowfast_mvit.data.listing.class_names import ClassIndex, ordered_class_names
from slowfast_mvit.data.listing.csv_lists import read_csv
from slowfast_mvit.data.listing.frame_lists import (
    check_frame_list,
    is_frame_list,
    read_frame_list,
)
from slowfast_mvit.data.listing.strings import Strings, repeats
from slowfast_mvit.data.listing.texts import (
    nearest_path,
    numbered_lines,
    raise_problems,
    read_json,
)
from slowfast_mvit.data.lists import (
    ListSource,
    VideoList,
    columns,
    label_problem,
    path_problem,
    warn_of_missing,
)
from slowfast_mvit.errors import ListError

_log = logging.getLogger(__name__)

_RELEASE = "something-something-v2-"  # starts the names of the first release's files
_SPLIT_NAMES = {"train": ("train",), "val": ("validation", "val"), "test": ("validation", "val")}
_ANSWERS = "test-answers.csv"
_LACKS = 'lacks "id" or "template"'
_JSON_NAMES = ("labels", "train", "validation", "val", "test")
SSV2_FILES = (
    *(f"{start}{name}.json" for start in (_RELEASE, "") for name in _JSON_NAMES),
    *(_ANSWERS, "train.csv", "val.csv", "test.csv"),
)
_VIDEO_SUFFIXES = (".webm", ".mp4", ".mkv", ".avi", ".mov", "")  # "": a folder of frames
_VIDEO_FOLDERS = ("", "videos", "20bn-something-something-v2")


def read_ssv2(source: ListSource) -> VideoList:
    """Read the labels and one split of a folder in the form of Something-Something v2.

    Videos are looked for in ``source.path_prefix``, or else in the folder of the lists, and there
    in ``videos/`` and ``20bn-something-something-v2/``. With a frame list (see above) each video is
    made of the frames it names, and videos it does not name are left out, as in PySlowFast. A video
    named by the JSON file and found nowhere is left out of training; in testing it stays in the
    list: it fails when it is read, and so is counted. Testing reads test.json where its answers
    are there too, else the validation videos. A folder without JSON files is read as one with
    ``path label`` lists.

    Raises:
        ListError: all problems of the list at once; or none of its videos is there.
    """
    names = [f"{_RELEASE}labels.json", "labels.json"]
    labels_file = _first_existing(source.folder, names)
    split_file = _split_file(source)
    frame_list = _frame_list(source, split_file)
    if labels_file is None and split_file is None and frame_list is None:
        return read_csv(source)
    if labels_file is None or split_file is None:
        missing = " or ".join(names if labels_file is None else _split_file_names(source))
        raise ListError(
            f"{source.folder}: no {missing}."
            f"{nearest_path(source.folder / missing.split(' or ')[-1])}"
        )
    class_names = _read_labels(labels_file)
    if source.num_classes not in (None, len(class_names)):
        raise ListError(
            f"{labels_file}: {len(class_names)} classes, but MODEL.NUM_CLASSES is "
            f"{source.num_classes}. Set MODEL.NUM_CLASSES {len(class_names)}"
        )
    ids, labels = _read_split(split_file, class_names, source)
    if frame_list is None:
        folder, paths = _find_videos(split_file, ids, source)
    else:
        folder = Path(source.path_prefix or frame_list.parent)
        frames = read_frame_list(frame_list)
        check_frame_list(frame_list, frames, split_file, ids)
        paths = [frames.get(video_id, "") for video_id in ids]
    kept = [index for index, path in enumerate(paths) if path]
    return VideoList(
        (ids[index] for index in kept),
        (labels[index] for index in kept),
        paths=(paths[index] for index in kept),
        folder=folder,
        class_names=class_names,
        source=split_file,
    )


def _split_file_names(source: ListSource) -> list[str]:
    names = _SPLIT_NAMES[source.split]
    return [f"{start}{name}.json" for start in (_RELEASE, "") for name in names]


def _split_file(source: ListSource) -> Path | None:
    if source.split == "test" and (source.folder / _ANSWERS).is_file():
        tested = _first_existing(source.folder, [f"{_RELEASE}test.json", "test.json"])
        if tested is not None:
            _log.warning(
                "%s: testing reads %s, since %s is there. Published numbers are of the validation "
                "videos: to compare with them, move that file away",
                source.folder,
                tested.name,
                _ANSWERS,
            )
            return tested
    return _first_existing(source.folder, _split_file_names(source))


def _is_test(split_file: Path) -> bool:
    """Whether a split file names videos only, so that their classes stand in the answers."""
    return split_file.stem.rpartition("-")[2] == "test"


def _first_existing(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_labels(file: Path) -> tuple[str, ...]:
    """Class names in the order of their indices."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise ListError(f"{file}: expected an object of class names and indices")
    return ordered_class_names(file, content.items())


def _read_split(
    file: Path, class_names: tuple[str, ...], source: ListSource
) -> tuple[Strings, Sequence[int]]:
    """Ids and labels; of each entry no more than these is ever in memory."""
    answers = read_answers(source.folder / _ANSWERS) if _is_test(file) else None
    row_of = _entry_reader(ClassIndex(class_names), answers)
    entries = read_json(file, object_hook=row_of)
    if not isinstance(entries, list) or not entries:
        raise ListError(f'{file}: expected entries such as {{"id": "1", "template": "..."}}')
    problems: list[tuple[int, str]] = []
    ids, labels, numbers = columns(_good_entries(entries, source.num_classes, problems))
    problems += [(numbers[i], f"id {ids[i]!r} is listed twice") for i, _ in repeats(ids)]
    raise_problems(file, problems, what="entry")
    return ids, labels


def _entry_reader(
    classes: ClassIndex, answers: dict[str, str] | None
) -> Callable[[dict[str, Any]], tuple[str, int | str]]:
    """What turns an entry of a split into (id, label), or into (id, what is wrong with it)."""

    def row_of(entry: dict[str, Any]) -> tuple[str, int | str]:
        video_id = str(entry.get("id", ""))
        if answers is not None:
            if video_id not in answers:
                return video_id, f"id {video_id!r} is not in {_ANSWERS}"
            template = answers[video_id]
        elif "id" not in entry or "template" not in entry:
            return video_id, _LACKS
        else:
            template = str(entry["template"])
        name = template.replace("[", "").replace("]", "").strip().strip('"')
        label = classes.find(name)
        if label is None:
            hint = classes.hint(name)
            return video_id, f"template {template!r} is not among the class names{hint}"
        return video_id, path_problem(video_id) or label

    return row_of


def _good_entries(
    entries: list[object], num_classes: int | None, problems: list[tuple[int, str]]
) -> Iterator[tuple[int, str, int]]:
    for number, entry in enumerate(entries, start=1):
        video_id, label = entry if isinstance(entry, tuple) else ("", _LACKS)
        problem = label if isinstance(label, str) else label_problem(label, num_classes)
        if problem:
            problems.append((number, problem))
        else:
            yield number, video_id, label


def read_answers(file: Path) -> dict[str, str]:
    """The template of each test video, from lines ``id;template``.

    Raises:
        ListError: all lines that are not of this form.
    """
    answers: dict[str, str] = {}
    problems = []
    for line, text in numbered_lines(file):
        match = re.fullmatch(r'\s*"?(\d+)"?\s*[;,\t]\s*"?(.*?)"?\s*', text)
        if match is not None:
            answers[match[1]] = match[2]
        elif line > 1:  # the first may be a header
            problems.append((line, f"expected a video id, ';' and a template, got {text[:60]!r}"))
    raise_problems(file, problems)
    return answers


# Finding the videos


def _find_videos(file: Path, ids: Strings, source: ListSource) -> tuple[Path, list[str]]:
    """The folder of the videos and their paths in it, "" for one that is not there and not needed;
    each folder is listed once."""
    root = Path(source.path_prefix) if source.path_prefix else source.folder
    present = {name: _names_in(root / name) for name in _VIDEO_FOLDERS}
    found = [_find_video(video_id, present) for video_id in ids]
    missing = [video_id for video_id, path in zip(ids, found, strict=True) if path is None]
    if len(missing) == len(ids):
        looked_in = ", ".join(str(root / name) for name in _VIDEO_FOLDERS)
        raise ListError(
            f"{file}: none of its {len(ids):,} videos is there. Looked for {ids[0]}.webm, "
            f"{ids[0]}.mp4 and the like in {looked_in}. Set DATA.PATH_PREFIX to their folder"
        )
    if not missing:
        return root, [path or "" for path in found]
    warn_of_missing(file, len(missing), len(ids), root, missing[0], source.split)
    if source.split == "train":
        return root, [path or "" for path in found]
    main_folder = next(os.path.dirname(path) for path in found if path is not None)
    return root, [
        path or os.path.join(main_folder, f"{video_id}.webm")
        for path, video_id in zip(found, ids, strict=True)
    ]


def _names_in(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _find_video(video_id: str, present: dict[str, set[str]]) -> str | None:
    for folder, names in present.items():
        for suffix in _VIDEO_SUFFIXES:
            if video_id + suffix in names:
                return os.path.join(folder, video_id + suffix)
    return None


def _frame_list(source: ListSource, split_file: Path | None) -> Path | None:
    """The frame list of this split, if the folder has one."""
    name = {"train": "train", "val": "val", "test": "val"}[source.split]
    if split_file is not None and _is_test(split_file):
        name = "test"
    file = source.folder / f"{name}.csv"
    return file if file.is_file() and is_frame_list(file) else None
