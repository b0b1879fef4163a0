"""The known data sets: sampling policy, flip, and the function that reads each.

To add one, add a row to ``DATASETS``. A data set from outside is named ``package.module:name`` and
is a ``DataSet`` too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from slowfast_mvit.annotations.class_folders import read_folders
from slowfast_mvit.annotations.class_names import (
    CLASS_NAME_FILES,
    class_names_of,
    kinetics400_names,
    require_one_line,
)
from slowfast_mvit.annotations.csv_lists import read_csv
from slowfast_mvit.annotations.imagenet import IMAGENET_FILES, read_imagenet
from slowfast_mvit.annotations.kinetics import read_kinetics
from slowfast_mvit.annotations.records import SPLIT_NAMES, Annotated, ListSource, not_readable
from slowfast_mvit.annotations.ssv2 import SSV2_FILES, read_ssv2
from slowfast_mvit.data.lists.remote_lists import local_lists
from slowfast_mvit.data.lists.video_list import VideoList
from slowfast_mvit.errors import ConfigError, ListError, pick
from slowfast_mvit.storage import is_remote

_log = logging.getLogger(__name__)

_CSV_FILES = tuple(dict.fromkeys(f"{name}.csv" for names in SPLIT_NAMES.values() for name in names))


@dataclass(frozen=True)
class DataSet:
    """One row of the catalog.

    Attributes:
        policy: of choosing frames: "interval" or "segments" (see ``data/views/sampling.py``).
        flip_keeps_class: False where mirroring a video changes its class ("from left to
            right").
        read: turns the files of one split into a list.
        files: that ``read`` looks for in a folder of lists; fetched where that folder is remote.
        num_classes: their number; None where copies differ.
        class_names: gives their names in the order of the class indices, where they are known.
    """

    policy: str
    flip_keeps_class: bool
    read: Callable[[ListSource], Annotated | VideoList]
    files: tuple[str, ...] = ()
    num_classes: int | None = None
    class_names: Callable[[], tuple[str, ...]] | None = None


_KINETICS = DataSet(policy="interval", flip_keeps_class=True, read=read_kinetics, files=_CSV_FILES)

DATASETS: dict[str, DataSet] = {
    "kinetics": _KINETICS,
    "kinetics400": replace(_KINETICS, num_classes=400, class_names=kinetics400_names),
    "kinetics600": replace(_KINETICS, num_classes=600),
    "kinetics700": replace(_KINETICS, num_classes=700),
    "kinetics700_2020": replace(_KINETICS, num_classes=700),
    "ssv2": DataSet(policy="segments", flip_keeps_class=False, read=read_ssv2, files=SSV2_FILES),
    "imagenet": DataSet(
        policy="interval", flip_keeps_class=True, read=read_imagenet, files=IMAGENET_FILES
    ),
    "csv": DataSet(policy="interval", flip_keeps_class=True, read=read_csv, files=_CSV_FILES),
    "folder": DataSet(policy="interval", flip_keeps_class=True, read=read_folders),
}

_SHORT_NAMES = {f"k{number}": f"kinetics{number}" for number in ("400", "600", "700", "700_2020")}


def find_dataset(name: str) -> DataSet:
    """The row of a data set; as in PySlowFast ``Kinetics`` and ``kinetics`` are the same.

    Raises:
        ConfigError: when there is none of that name; names those that exist.
    """
    if ":" in name:
        return pick(DATASETS, name, "data set")
    name = name.lower().replace("-", "_")
    return pick(DATASETS, _SHORT_NAMES.get(name, name), "data set")


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
        data_dir: ``DATA.PATH_TO_DATA_DIR``, the folder of the lists; anything that iopath reaches.
        path_prefix: ``DATA.PATH_PREFIX``, what paths in the list start from; "" for the folder of
            the list, or else the working folder.
        separator: ``DATA.PATH_LABEL_SEPARATOR``.
        num_classes: ``MODEL.NUM_CLASSES``; labels must be below it.
        class_names_path: a file with the class names; "" to look next to the list for
            classes.txt, labels.json or class_names.json.

    Raises:
        ListError: when the list is missing, empty or wrong; all its problems at once.
        ConfigError: when there is no such data set, it has another number of classes, or no
            usable folder or separator is set.
        UserError: when the lists are remote and cannot be fetched.
    """
    if split not in SPLIT_NAMES:
        raise ValueError(f"split must be one of {tuple(SPLIT_NAMES)}, got {split!r}")
    dataset = find_dataset(name)
    _check_folders(str(data_dir), path_prefix, dataset)
    if not separator or separator in '"\r\n':
        raise ConfigError(
            f"DATA.PATH_LABEL_SEPARATOR is {separator!r}, which cannot separate a path and a "
            "label. Choose ' ', ',' or any other text"
        )
    num_classes = _num_classes(name, dataset, num_classes)
    files = (*dataset.files, *CLASS_NAME_FILES) if dataset.files else ()
    with local_lists(data_dir, files) as (folder, address_of):
        source = ListSource(
            folder=folder,
            split=split,
            path_prefix=path_prefix,
            separator=separator,
            num_classes=num_classes,
            class_names_path=str(class_names_path),
            public_names=dataset.class_names,
        )
        try:
            found = dataset.read(source)
        except OSError as error:  # a folder that may not be listed, or a disk that is gone
            raise not_readable(error.filename, error) from None
        videos = found if isinstance(found, VideoList) else VideoList.of(found)
        if class_names_path or videos.class_names is None:
            videos.class_names = class_names_of(source)
        videos.source = address_of(videos.source)
    videos.class_names = _names_of_all_labels(videos, str(class_names_path))
    require_one_line(videos.class_names or (), class_names_path or videos.source)
    return videos


def check_flip(name: str, random_flip: bool) -> None:
    """Refuse to mirror videos of a data set whose classes change under it.

    Raises:
        ConfigError: when ``random_flip`` is set and the data set forbids it.
    """
    if random_flip and not find_dataset(name).flip_keeps_class:
        raise ConfigError(
            f"DATA.RANDOM_FLIP is True, but classes of {name!r} change when a video is mirrored "
            "(left becomes right). Set DATA.RANDOM_FLIP False"
        )


def _check_folders(data_dir: str, path_prefix: str, dataset: DataSet) -> None:
    if not data_dir:
        raise ConfigError("DATA.PATH_TO_DATA_DIR is empty. Set it to the folder of the lists")
    if is_remote(path_prefix):
        raise ConfigError(
            f"DATA.PATH_PREFIX is {path_prefix}: videos are read from a mounted file system. Copy "
            "them, or mount their storage, and give that folder"
        )
    if is_remote(data_dir) and not dataset.files:
        raise ConfigError(
            f"DATA.PATH_TO_DATA_DIR is {data_dir}, but a data set that is read from folders of "
            "classes must be on a mounted file system. Give a local folder"
        )
    if is_remote(data_dir) and not path_prefix:
        raise ConfigError(
            f"DATA.PATH_TO_DATA_DIR is {data_dir}, where only lists are read from. Set "
            "DATA.PATH_PREFIX to the local folder of the videos"
        )


def _num_classes(name: str, dataset: DataSet, num_classes: int | None) -> int | None:
    if dataset.num_classes is None or num_classes in (None, dataset.num_classes):
        return dataset.num_classes if num_classes is None else num_classes
    raise ConfigError(
        f"{name} has {dataset.num_classes} classes, but MODEL.NUM_CLASSES is {num_classes}. Set it "
        f"to {dataset.num_classes}, or name the data set 'kinetics', which may have any number"
    )


def _names_of_all_labels(videos: VideoList, class_names_path: str) -> tuple[str, ...] | None:
    """The class names, or None where an unrelated file next to the list has too few."""
    names, needed = videos.class_names, int(videos.labels.max()) + 1
    if names is None or len(names) >= needed:
        return names
    if class_names_path:
        raise ListError(f"names {len(names)} classes, expected {needed}", class_names_path)
    text = "%s: has %d classes, but there are %d names next to it: they are not used"
    _log.warning(text, videos.source, needed, len(names))
    return None
