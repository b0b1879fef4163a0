"""Agreement of the data, the config and the weights of a job: what differs is logged or refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slowfast_mvit.annotations.class_names import ClassIndex, class_name_file, read_class_names
from slowfast_mvit.builders.data import channel_statistics
from slowfast_mvit.config import Config, load_config_text, trusted_configs
from slowfast_mvit.config.config import KEYS
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.errors import ResumeError, UserError, WeightsError, in_one_message
from slowfast_mvit.runtime.numerics import changes_of
from slowfast_mvit.storage import read_torch
from slowfast_mvit.weights.files import OUR_KEY

logger = logging.getLogger(__name__)

_SHOWN = 5  # names in a message


def with_names_next_to_it(videos: VideoList, data_dir: str) -> VideoList:
    """Give a list without class names those in its folder.

    Lists are read without them where they are not as many as the model has classes, as for a test
    on some of its classes.
    """
    file = None if videos.class_names else class_name_file(Path(data_dir))
    if file is not None:
        names = read_class_names(file)
        if len(names) > videos.labels.max():
            videos.class_names = names
    return videos


def in_order_of_weights(videos: VideoList, names: Sequence[str] | None, path: str) -> VideoList:
    """Return a list whose class indices are those of the weights, matched by class name.

    Args:
        videos: the list.
        names: classes of the weights, in the order of the model's outputs; None where unknown.
        path: of the weights, for messages.

    Raises:
        WeightsError: a class of a video is not among those of the weights.
    """
    ours = videos.class_names
    if names is None or ours is None or list(ours) == list(names):
        return videos
    known = ClassIndex(names)
    order = [known.find(name) for name in ours]
    if order == list(range(len(names))):
        return videos
    unknown = [ours[label] for label in np.unique(videos.labels) if order[label] is None]
    if unknown:
        raise WeightsError(
            f"{path}: {len(unknown)} of the classes of {videos.source} are not among the "
            f"{len(names)} of these weights: {_some(unknown)}. The weights have {_some(names)}. "
            "Test on data of these classes, or fine-tune. If the labels mean the same classes, "
            "set DATA.CLASS_NAMES_PATH to a file with the names that the weights use"
        )
    moved = [name for index, name in enumerate(ours) if order[index] not in (index, None)]
    if moved:
        logger.warning(
            "%s: its classes are in another order than those of %s; labels are matched by class "
            "name (%s)",
            path,
            videos.source,
            _some(moved),
        )
    return videos.with_classes([-1 if i is None else i for i in order], tuple(names))


def warn_of_preprocessing(config: Config, spec: Mapping[str, Any] | None, path: str) -> None:
    """Log a warning where mean, std or channel order differ from those of the weights.

    Args:
        config: of the job.
        spec: the input spec of the weights, if they have one.
        path: of the weights, for the message.
    """
    if spec is None:
        return
    for name, value in zip(("mean", "std"), channel_statistics(config), strict=True):
        if not np.allclose(value, spec[name], atol=1e-4):
            logger.warning(
                "%s: was trained with pixels of the %s %s, but this config has %s (DATA.MEAN, "
                "DATA.STD, DATA.REVERSE_INPUT_CHANNEL; in the order red, green, blue)",
                path,
                name,
                list(spec[name]),
                list(value),
            )


def require_same_training(
    config: Config, videos: VideoList, checkpoint: Path, numerics: Mapping[str, str]
) -> None:
    """Refuse to resume with other classes, and log every other setting that has changed.

    Args:
        config: of the run.
        videos: to train on.
        checkpoint: to resume from.
        numerics: of the run, see ``runtime.numerics``.

    Raises:
        ResumeError: the checkpoint was trained on other classes; or the numerics have changed, and
            ``TRAIN.RESUME_STRICT`` is set.
    """
    content = read_torch(checkpoint)
    if OUR_KEY not in content:  # PySlowFast's have no class names
        return
    changed = changes_of(content[OUR_KEY].get("numerics") or {}, numerics)
    if changed:
        headline = f"{checkpoint}: the numerics have changed since"
        if config.train.resume_strict:
            raise ResumeError(
                in_one_message(headline, changed) + "\nResume where they are the same, or set "
                "TRAIN.RESUME_STRICT False to resume with rounding errors of another kind"
            )
        logger.warning(
            "%s\nThe resumed run equals an uninterrupted one but for rounding errors",
            in_one_message(headline, changed),
        )
    before = (content[OUR_KEY].get("input_spec") or {}).get("class_names")
    if before and videos.class_names and list(before) != list(videos.class_names):
        gone = [name for name in before if name not in videos.class_names]
        added = [name for name in videos.class_names if name not in before]
        raise ResumeError(
            f"{checkpoint}: was trained on other classes than {videos.source} has, or in another "
            f"order: {len(before)}, now {len(videos.class_names)}; gone: {_some(gone)}; new: "
            f"{_some(added)}. Choose another OUTPUT_DIR to train on these classes"
        )
    try:
        with trusted_configs():  # it is only compared
            old = load_config_text(content.get("cfg") or "", source=f"the config in {checkpoint}")
    except UserError:  # of another version
        return
    old, new = old.without_addresses(), config.without_addresses()  # as in checkpoints
    changes = [
        f"{name}: was {key.value_in(old)!r}, is {key.value_in(new)!r}"
        for name, key in KEYS.items()
        if key.value_in(old) != key.value_in(new)
        and (key.rule.decides_numbers or name == "DATA.PATH_TO_DATA_DIR")
        and not name.startswith("TEST.")
    ]
    if changes:
        logger.warning(in_one_message(f"{checkpoint}: the config has changed since", changes))


def warn_of_labels(videos: VideoList, val_videos: VideoList, num_classes: int) -> None:
    """Log classes of validation that training lacks, and labels that seem to start at 1."""
    labels, val_labels = np.unique(videos.labels), np.unique(val_videos.labels)
    only_val = np.setdiff1d(val_labels, labels)
    if len(only_val):
        names = videos.class_names
        texts = [names[i] if names else f"class {i}" for i in only_val]
        logger.warning(
            "%s: %d classes have videos for validation and none for training, so that they cannot "
            "be learned: %s",
            val_videos.source,
            len(only_val),
            _some(texts),
        )
    both = np.union1d(labels, val_labels)
    if both[0] == 1 and both[-1] == num_classes - 1 and len(both) == num_classes - 1 > 1:
        logger.warning(
            "%s: labels are 1 to %d and no video has the label 0. If they were counted from 1, "
            "subtract 1 from each and set MODEL.NUM_CLASSES %d",
            videos.source,
            num_classes - 1,
            num_classes - 1,
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(map(repr, names[:_SHOWN])) + more) or "none"
