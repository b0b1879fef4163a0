"""The data sets this project knows: how each is sampled, whether it may be flipped, how it is read.

To add one, add a row to ``DATASETS``. A data set from outside is named ``package.module:name`` and
is a ``DataSet`` too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slowfast_mvit.data.lists import (
    ListSource,
    VideoList,
    nearest_path,
    read_class_folders,
    read_csv,
    read_json,
)
from slowfast_mvit.data.ssv2_lists import ordered_class_names, read_ssv2
from slowfast_mvit.errors import ConfigError, ListError, pick

_log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")

_CLASS_NAME_FILES = ("classes.txt", "labels.json", "class_names.json")


@dataclass(frozen=True)
class DataSet:
    """One row of the catalog.

    Attributes:
        policy: how frames are chosen: "interval" or "segments" (see ``data/sampling.py``).
        flip_keeps_class: False where mirroring a video changes what it shows ("from left to
            right").
        read: turns the files of one split into a list.
    """

    policy: str
    flip_keeps_class: bool
    read: Callable[[ListSource], VideoList]


DATASETS: dict[str, DataSet] = {
    "kinetics": DataSet(policy="interval", flip_keeps_class=True, read=read_csv),
    "ssv2": DataSet(policy="segments", flip_keeps_class=False, read=read_ssv2),
    "imagenet": DataSet(policy="interval", flip_keeps_class=True, read=read_class_folders),
}


def find_dataset(name: str) -> DataSet:
    """The row of a data set; as in PySlowFast ``Kinetics`` and ``kinetics`` are the same.

    Raises:
        ConfigError: when there is none of that name; says which there are.
    """
    return pick(DATASETS, name if ":" in name else name.lower(), "data set")


def open_list(
    name: str,
    split: str,
    *,
    data_dir: str | Path,
    path_prefix: str = "",
    separator: str = " ",
    num_classes: int | None = None,
    class_names_path: str | Path = "",
) -> VideoList:
    """Read and check the list of one split.

    Args:
        name: data set, a row of ``DATASETS``.
        split: "train", "val", or "test" (the same videos as "val" where there is no test list).
        data_dir: ``DATA.PATH_TO_DATA_DIR``, the folder of the lists.
        path_prefix: ``DATA.PATH_PREFIX``, what paths in the list start from; "" for the folder of
            the list, or else the working folder.
        separator: ``DATA.PATH_LABEL_SEPARATOR``.
        num_classes: ``MODEL.NUM_CLASSES``; labels must be below it.
        class_names_path: a file with the class names; "" to look beside the list for
            classes.txt, labels.json or class_names.json.

    Raises:
        ListError: when the list is missing, empty or wrong; all its problems at once.
        ConfigError: when there is no such data set, or no folder was given.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    if not str(data_dir):
        raise ConfigError("DATA.PATH_TO_DATA_DIR is empty. Set it to the folder of the lists")
    source = ListSource(Path(data_dir), split, path_prefix, separator, num_classes)
    videos = find_dataset(name).read(source)
    if class_names_path:
        videos.class_names = read_class_names(Path(class_names_path))
        _check_class_names(videos, Path(class_names_path), num_classes)
    elif videos.class_names is None:
        videos.class_names = _class_names_beside(source)
    return videos


def check_flip(name: str, random_flip: bool) -> None:
    """Refuse to mirror videos of a data set whose classes change under it.

    Raises:
        ConfigError: when ``random_flip`` is asked for and the data set forbids it.
    """
    if random_flip and not find_dataset(name).flip_keeps_class:
        raise ConfigError(
            f"DATA.RANDOM_FLIP is True, but classes of {name!r} change when a video is mirrored "
            "(left becomes right). Set DATA.RANDOM_FLIP False"
        )


def read_class_names(file: Path) -> tuple[str, ...]:
    """Class names in the order of their indices: one a line, or JSON ([names] or {name: index}).

    Raises:
        ListError: when the file is missing or holds something else.
    """
    if not file.is_file():
        raise ListError(f"{file}: no such file.{nearest_path(file)}")
    if file.suffix != ".json":
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        return tuple(line.strip() for line in lines if line.strip())
    content = read_json(file)
    if isinstance(content, dict):
        return ordered_class_names(file, content)
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return tuple(content)
    raise ListError(f"{file}: expected a list of class names, or an object of names and indices")


def _check_class_names(videos: VideoList, file: Path, num_classes: int | None) -> None:
    given = len(videos.class_names or ())
    needed = num_classes if num_classes is not None else int(videos.labels.max()) + 1
    if given != needed:
        raise ListError(f"{file}: names {given} classes, expected {needed}")


def _class_names_beside(source: ListSource) -> tuple[str, ...] | None:
    file = next((f for name in _CLASS_NAME_FILES if (f := source.folder / name).is_file()), None)
    if file is None:
        return None
    names = read_class_names(file)
    if source.num_classes is not None and len(names) != source.num_classes:
        _log.warning(
            "%s names %d classes, but MODEL.NUM_CLASSES is %d: classes are shown by number",
            file,
            len(names),
            source.num_classes,
        )
        return None
    return names
