"""Something-Something v2: JSON files and videos anywhere below a folder, or lists of frames.

    labels.json        {"Pushing something": "0", ...}
    train.json         [{"id": "78687", "template": "Pushing [something]", ...}, ...]
    validation.json    the same
    test.json          [{"id": "1420"}, ...], in the newer release with
    test-answers.csv   1420;Pushing something

and the videos themselves as ``<id>.webm`` (or any other suffix, or a folder of frames named
``<id>``), or PySlowFast's ``train.csv`` / ``val.csv`` with one line for each frame of each video.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from slowfast_mvit.annotations import records
from slowfast_mvit.annotations.class_names import read_class_names
from slowfast_mvit.annotations.columns import KeyIndex
from slowfast_mvit.annotations.csv_lists import read_csv
from slowfast_mvit.annotations.files import stem, with_files, with_labels
from slowfast_mvit.annotations.frame_lists import check_frame_list, is_frame_list, read_frame_list
from slowfast_mvit.annotations.records import Annotated, ListSource, Problem, Row
from slowfast_mvit.annotations.texts import json_entries, numbered_lines
from slowfast_mvit.errors import ListError

_log = logging.getLogger(__name__)

ANSWERS = ("test-answers.csv",)
LABELS = ("labels.json",)
SPLITS = {
    "train": ("train.json",),
    "val": ("validation.json", "val.json"),
    "test": ("test.json",),
}
_RELEASES = ("something-something-v2-", "")  # start the names of a release's files
SSV2_FILES = (
    *(
        f"{start}{name}"
        for start in _RELEASES
        for names in (LABELS, *SPLITS.values())
        for name in names
    ),
    *(*ANSWERS, "train.csv", "val.csv", "test.csv"),
)


def find_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of these files that is in a folder, under its older or newer name."""
    files = (folder / f"{start}{name}" for name in names for start in _RELEASES)
    return next((file for file in files if file.is_file()), None)


def read_rows(file: Path, split: str, answers: Mapping[str, str]) -> Iterator[Row | Problem]:
    """The videos of a JSON file, or the problem of an entry, one at a time.

    Args:
        file: one of train.json, validation.json, test.json.
        split: the list that its videos belong to.
        answers: classes of videos whose entries give none, by id.
    """
    for number, entry in enumerate(json_entries(file), start=1):
        video_id = entry.get("id") if isinstance(entry, dict) else None
        problem: str | None = 'lacks "id", the name of the video'
        if isinstance(video_id, (int, str)):
            problem = records.path_problem(str(video_id))
        if problem:
            yield Problem(file, number, "id", problem)
        else:
            template = str(entry.get("template") or answers.get(str(video_id)) or "")
            # Brackets mark what the person held; the class is the template without them.
            name = re.sub(r"[\[\]]", "", template).strip().strip('"')
            yield Row(str(video_id), split, name or None, number)


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
            message = f"expected a video id, ';' and a template, got {text[:60]!r}"
            problems.append(Problem(file, line, "columns", message))
    records.raise_problems(problems)
    return answers


# Training


def read_ssv2(source: ListSource) -> Annotated:
    """Read the labels and one split of a folder in the form of Something-Something v2.

    Videos are searched below ``source.path_prefix``, or else below the folder of the lists. With a
    frame list (see above) each video is made of the frames that it names, and videos that it does
    not name are left out, as in PySlowFast. Testing reads test.json where its answers are there
    too, else the validation videos. A folder without JSON files is read as one with
    ``path label`` lists.

    Raises:
        ListError: all problems of the list at once; or none of its videos exists.
    """
    labels_file, split_file = find_file(source.folder, LABELS), _split_file(source)
    frame_list = _frame_list(source, split_file)
    if labels_file is None and split_file is None and frame_list is None:
        return read_csv(source)
    if labels_file is None or split_file is None:
        names = LABELS if labels_file is None else _names_of_split(source)
        missing = [f"{start}{name}" for name in names for start in _RELEASES]
        text = f"no such file, and no {' or '.join(missing[:-1])}"
        raise records.not_found(source.folder / missing[-1], text)
    class_names = read_class_names(labels_file)
    if source.num_classes not in (None, len(class_names)):
        raise ListError(
            f"{len(class_names)} classes, but MODEL.NUM_CLASSES is {source.num_classes}. Set "
            f"MODEL.NUM_CLASSES {len(class_names)}",
            labels_file,
        )
    answers = find_file(source.folder, ANSWERS) if _is_test(split_file) else None
    videos = with_labels(
        read_rows(split_file, source.split, read_answers(answers) if answers else {}),
        class_names,
        split_file,
        source,
        answers=answers.name if answers else "",
    )
    if frame_list is not None:
        frames = read_frame_list(frame_list)
        check_frame_list(frame_list, frames, split_file, videos.video_ids)
        return videos.with_paths(frames.get(video_id, "") for video_id in videos.video_ids)
    return with_files(
        videos,
        in_training=source.split == "train",
        files_of=lambda paths: KeyIndex(paths, stem).find,
        suffix=".webm",
    )


def _is_test(split_file: Path) -> bool:
    """Return whether the entries of a split file give no classes: these are in the answers."""
    return split_file.stem.rpartition("-")[2] == "test"


def _names_of_split(source: ListSource) -> tuple[str, ...]:
    return SPLITS["train" if source.split == "train" else "val"]


def _split_file(source: ListSource) -> Path | None:
    if source.split == "test" and find_file(source.folder, ANSWERS):
        tested = find_file(source.folder, SPLITS["test"])
        if tested is not None:
            text = (
                f"testing reads {tested.name}, since {ANSWERS[0]} is there. Published numbers are "
                "of the validation videos: to compare with them, move that file away"
            )
            _log.warning("%s: %s", source.folder, text)
            return tested
    return find_file(source.folder, _names_of_split(source))


def _frame_list(source: ListSource, split_file: Path | None) -> Path | None:
    """The frame list of this split, if the folder has one."""
    name = "train" if source.split == "train" else "val"
    if split_file is not None and _is_test(split_file):
        name = "test"
    file = source.folder / f"{name}.csv"
    return file if file.is_file() and is_frame_list(file) else None
