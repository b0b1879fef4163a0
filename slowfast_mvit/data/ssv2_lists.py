"""The lists of Something-Something v2: JSON files beside the videos, or PySlowFast's frame lists.

    labels.json       {"Pushing something": "0", ...}
    train.json        [{"id": "78687", "template": "Pushing [something]", ...}, ...]
    validation.json   the same; testing reads it too, since the test videos have no public labels

and the videos themselves as ``<id>.webm`` (or .mp4, or a folder of frames named ``<id>``), or
``train.csv`` / ``val.csv`` with one line for each frame (a JPEG) of each video.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from slowfast_mvit.data.lists import (
    ListSource,
    VideoList,
    label_problems,
    nearest_path,
    path_problem,
    raise_problems,
    read_csv,
    read_json,
)
from slowfast_mvit.errors import ListError, in_one_message

_log = logging.getLogger(__name__)

_RELEASE = "something-something-v2-"  # starts the names of the first release's files
_SPLIT_NAMES = {"train": ("train",), "val": ("validation", "val"), "test": ("validation", "val")}
_VIDEO_SUFFIXES = (".webm", ".mp4", ".mkv", ".avi", ".mov", "")  # "": a folder of frames
_VIDEO_FOLDERS = ("", "videos", "20bn-something-something-v2")
_FRAME_LIST_HEADER = "original_vido_id"  # the misspelling is the format's


def read_ssv2(source: ListSource) -> VideoList:
    """Read the labels and one split of a folder in the form of Something-Something v2.

    Videos are looked for in ``source.path_prefix``, or else in the folder of the lists, and there
    in ``videos/`` and ``20bn-something-something-v2/``. With a frame list (see above) each video is
    made of the frames it names, and videos it does not name are left out, as in PySlowFast. A video
    named by the JSON file and found nowhere stays in the list: it fails when it is read, and so is
    counted. A folder without JSON files is read as one with ``path label`` lists.

    Raises:
        ListError: all problems of the list at once; or none of its videos is there.
    """
    names = [f"{_RELEASE}labels.json", "labels.json"]
    labels_file = _first_existing(source.folder, names)
    split_file = _split_file(source)
    if labels_file is None and split_file is None and _frame_list(source) is None:
        return read_csv(source)
    if labels_file is None or split_file is None:
        missing = " or ".join(names if labels_file is None else _split_file_names(source))
        raise ListError(
            f"{source.folder}: no {missing}."
            f"{nearest_path(source.folder / missing.split(' or ')[-1])}"
        )
    class_names = _read_labels(labels_file)
    ids, labels = _read_split(split_file, class_names, source)
    frame_list = _frame_list(source)
    if frame_list is None:
        folder, paths = _find_videos(split_file, ids, source)
    else:
        folder = Path(source.path_prefix or frame_list.parent)
        frames = _read_frame_list(frame_list)
        _check_frame_list(frame_list, frames, split_file, ids)
        kept = [i for i, video_id in enumerate(ids) if video_id in frames]
        ids, labels = [ids[i] for i in kept], [labels[i] for i in kept]
        paths = [frames[video_id] for video_id in ids]
    return VideoList(
        ids, labels, paths=paths, folder=folder, class_names=class_names, source=split_file
    )


def _split_file_names(source: ListSource) -> list[str]:
    names = _SPLIT_NAMES[source.split]
    return [f"{start}{name}.json" for start in (_RELEASE, "") for name in names]


def _split_file(source: ListSource) -> Path | None:
    return _first_existing(source.folder, _split_file_names(source))


def _first_existing(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_labels(file: Path) -> tuple[str, ...]:
    """Class names in the order of their indices."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise ListError(f"{file}: expected an object of class names and indices")
    return ordered_class_names(file, content)


def ordered_class_names(file: Path, index_of: dict[str, object]) -> tuple[str, ...]:
    """The keys of {name: index} in the order of the indices, which must be 0, 1, 2, ...

    Raises:
        ListError: when an index is no whole number, missing or given twice.
    """
    try:
        by_index = {int(str(index)): name for name, index in index_of.items()}
    except ValueError as error:
        raise ListError(f"{file}: a class index is not a whole number ({error})") from None
    if sorted(by_index) != list(range(len(index_of))):
        raise ListError(
            f"{file}: the class indices must be 0 to {len(index_of) - 1}, each given once"
        )
    return tuple(by_index[index].strip().strip('"') for index in sorted(by_index))


def _read_split(
    file: Path, class_names: tuple[str, ...], source: ListSource
) -> tuple[list[str], list[int]]:
    entries = read_json(file)
    if not isinstance(entries, list) or not entries:
        raise ListError(f'{file}: expected entries such as {{"id": "1", "template": "..."}}')
    index_of = {name: index for index, name in enumerate(class_names)}
    ids: list[str] = []
    labels: list[int] = []
    problems: list[tuple[int, str]] = []
    seen: set[str] = set()
    for number, entry in enumerate(entries, start=1):
        problem = _entry_problem(entry, index_of)
        if problem is None and str(entry["id"]) in seen:
            problem = f"id {entry['id']!r} is listed twice"
        if problem:
            problems.append((number, problem))
            continue
        ids.append(str(entry["id"]))
        seen.add(ids[-1])
        labels.append(index_of[_class_of(entry)])
    problems += label_problems(labels, range(1, len(labels) + 1), source.num_classes)
    raise_problems(file, problems, what="entry")
    return ids, labels


def _entry_problem(entry: object, index_of: dict[str, int]) -> str | None:
    if not isinstance(entry, dict) or "id" not in entry or "template" not in entry:
        return 'lacks "id" or "template"'
    if _class_of(entry) not in index_of:
        return f"template {entry['template']!r} is not among the class names"
    return path_problem(str(entry["id"]))


def _class_of(entry: dict[str, object]) -> str:
    return str(entry["template"]).replace("[", "").replace("]", "").strip().strip('"')


# Finding the videos


def _find_videos(file: Path, ids: Sequence[str], source: ListSource) -> tuple[Path, list[str]]:
    """The folder of the videos and their paths in it; each folder is listed once."""
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
    if missing:
        _log.warning(
            "%s: %d of %d videos have no file below %s (first: %s); they count as failed",
            file,
            len(missing),
            len(ids),
            root,
            missing[0],
        )
    main_folder = next(os.path.dirname(path) for path in found if path is not None)
    paths = [
        path if path is not None else os.path.join(main_folder, f"{video_id}.webm")
        for path, video_id in zip(found, ids, strict=True)
    ]
    return root, paths


def _names_in(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _find_video(video_id: str, present: dict[str, set[str]]) -> str | None:
    for folder, names in present.items():
        for suffix in _VIDEO_SUFFIXES:
            if video_id + suffix in names:
                return os.path.join(folder, video_id + suffix)
    return None


# PySlowFast's frame lists


def _frame_list(source: ListSource) -> Path | None:
    """The frame list of this split, if the folder has one."""
    file = source.folder / ("train.csv" if source.split == "train" else "val.csv")
    if not file.is_file():
        return None
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        return file if next(lines, "").startswith(_FRAME_LIST_HEADER) else None


def _read_frame_list(file: Path) -> dict[str, str]:
    """The frames of each video, as one path pattern (see ``frame_pattern``), by video id."""
    patterns: dict[str, str] = {}
    problems = []
    with open(file, encoding="utf-8-sig") as lines:
        rows = ((number, line.split()) for number, line in enumerate(lines, start=1))
        filled = ((number, row) for number, row in rows if row and number > 1)
        for video_id, group in itertools.groupby(filled, key=lambda row: row[1][0]):
            frames = list(group)
            first = frames[0][0]
            if any(len(row) < 4 for _, row in frames):
                problems.append((first, "expected video id, number, frame number, path, labels"))
            elif video_id in patterns:
                problems.append((first, f"video {video_id!r} goes on here, after other videos"))
            else:
                pattern = frame_pattern([row[3] for _, row in frames])
                if pattern is None:
                    problems.append(
                        (first, f"the frames of {video_id!r} are not numbered files of one folder")
                    )
                patterns[video_id] = pattern or ""
    raise_problems(file, problems)
    return patterns


def frame_pattern(paths: Sequence[str]) -> str | None:
    """The frames of a video in one short text: ``a/f_01.jpg a/f_02.jpg`` -> ``a/f_[01-02].jpg``.

    Millions of frame paths do not fit in memory; nearly all of them count upwards. None where the
    paths are not numbered files of one folder. ``frames_of_pattern`` is the way back.
    """
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*)", path) for path in paths]
    matches = [part for part in parts if part is not None]
    if len(matches) < len(paths) or len({(m[1], m[3]) for m in matches}) != 1:
        return None
    runs: list[list[str]] = []
    for match in matches:
        number = match[2]
        if runs and number == str(int(runs[-1][1]) + 1).zfill(len(runs[-1][0])):
            runs[-1][1] = number
        else:
            runs.append([number, number])
    written = ",".join(a if a == b else f"{a}-{b}" for a, b in runs)
    return f"{matches[0][1]}[{written}]{matches[0][3]}"


def frames_of_pattern(pattern: str) -> list[str] | None:
    """The paths that ``frame_pattern`` wrote in one text, or None for any other text."""
    match = re.fullmatch(r"(.*)\[([\d,-]+)\]([^\[\]/]*)", pattern)
    if match is None:
        return None
    numbers = itertools.chain.from_iterable(_numbers_of_run(run) for run in match[2].split(","))
    return [f"{match[1]}{number}{match[3]}" for number in numbers]


def _numbers_of_run(run: str) -> Iterator[str]:
    first, _, last = run.partition("-")
    for number in range(int(first), int(last or first) + 1):
        yield str(number).zfill(len(first))


def _check_frame_list(
    file: Path, frames: dict[str, str], split_file: Path, ids: Sequence[str]
) -> None:
    unknown = sorted(set(frames) - set(ids))
    if unknown:
        problems = [f"video {video_id!r} is not in {split_file.name}" for video_id in unknown[:20]]
        raise ListError(in_one_message(str(file), problems))
    if not frames:
        raise ListError(f"{file}: the frame list names no frames")
    if len(frames) < len(ids):
        _log.warning(
            "%s: %d of the %d videos of %s have no frames in the list and are left out",
            file,
            len(ids) - len(frames),
            len(ids),
            split_file.name,
        )
