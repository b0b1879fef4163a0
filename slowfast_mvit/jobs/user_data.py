"""Somebody's own videos: which classes there are, and what stands in the way of training on them.

A folder of class folders, or of ``train.csv`` and ``val.csv``, is read as training will read it
(``data/lists/catalog.py``), so that the number of classes need not be said.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.lists.catalog import open_list
from slowfast_mvit.errors import ListError, in_one_message

logger = logging.getLogger(__name__)

_SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class UserData:
    """The content of a folder of user videos.

    Attributes:
        dataset: row of the catalog that reads it.
        class_names: in the order of the labels; "class 3" where nobody named it.
        num_train: videos to train on.
        num_val: videos held out, for validation and testing.
    """

    dataset: str
    class_names: tuple[str, ...]
    num_train: int
    num_val: int


def read_user_data(folder: str) -> UserData:
    """Read the lists of a folder and look whether a classifier can be trained on them.

    Args:
        folder: of folders of classes, or of ``train.csv`` and ``val.csv``.

    Raises:
        ListError: all that is in the way, at once.
    """
    dataset = "csv" if (Path(folder) / "train.csv").is_file() else "folder"
    with _warnings_only():
        train = open_list(dataset, "train", data_dir=folder)
        held_out = open_list(dataset, "val", data_dir=folder)
    names = _class_names(train, held_out)
    in_train, in_val = (
        np.bincount(videos.labels, minlength=len(names)) for videos in (train, held_out)
    )
    has_splits = dataset == "csv" or (Path(folder) / "train").is_dir()
    problems = list(_problems(names, in_train.tolist(), in_val.tolist(), has_splits))
    if problems:
        hidden = len(problems) - _SHOWN_PROBLEMS
        more = [f"and {hidden} more"] if hidden > 0 else []
        raise ListError(in_one_message(folder, [*problems[:_SHOWN_PROBLEMS], *more]))
    for name in _untested(names, in_val.tolist()):
        logger.warning("%s: no video of class %r is held out: it is not tested", folder, name)
    return UserData(dataset, names, num_train=len(train), num_val=len(held_out))


@contextlib.contextmanager
def _warnings_only() -> Iterator[None]:
    """Training reads the same lists again, and tells then how."""
    readers = [logging.getLogger(f"slowfast_mvit.{name}") for name in ("annotations", "data")]
    before = [reader.level for reader in readers]
    for reader in readers:
        reader.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for reader, level in zip(readers, before, strict=True):
            reader.setLevel(level)


def _class_names(train: VideoList, held_out: VideoList) -> tuple[str, ...]:
    num_seen = int(max(train.labels.max(), held_out.labels.max())) + 1
    if train.class_names is not None and len(train.class_names) >= num_seen:
        return train.class_names
    logger.warning(
        "%s: the classes have no names. Write them into classes.txt beside it, one a line in the "
        "order of the labels",
        train.source,
    )
    return tuple(f"class {label}" for label in range(num_seen))


def _problems(
    names: Sequence[str], in_train: Sequence[int], in_val: Sequence[int], has_splits: bool
) -> Iterator[str]:
    if len(names) == 1:
        yield f"there is one class, {names[0]!r}: to tell classes apart, two or more are needed"
    for name, num_train, num_val in zip(names, in_train, in_val, strict=True):
        if not num_train + num_val:
            yield f"class {name!r} has no videos. Add some, or take the class away"
        elif not num_train:
            yield f"class {name!r} has no videos to train on, but {num_val} held out"
        elif not num_val and not has_splits:
            yield f"class {name!r} has a single video, so none can be held out. Add another"


def _untested(names: Sequence[str], in_val: Sequence[int]) -> list[str]:
    return [name for name, number in zip(names, in_val, strict=True) if not number]
