"""Fine-tuning on user videos with one command; what is not set follows from videos and weights.

    folder  -> classes, training and held-out videos
    weights -> their model and its clips, or a published size               pretrained_weights.py
    both, the recipe and the arguments -> Config -> train -> test -> results by class

All of it is an ordinary config in the end, written to ``OUTPUT_DIR/config.yaml``; with it
``slowfast-mvit train`` and ``test`` do the same.
"""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slowfast_mvit import builders
from slowfast_mvit.annotations.class_folders import find_class_folders
from slowfast_mvit.annotations.class_names import folded
from slowfast_mvit.annotations.csv_lists import separator_of
from slowfast_mvit.annotations.files import missing_and_shared
from slowfast_mvit.config import Config, load_config, load_config_text, trusted_configs
from slowfast_mvit.config.config import KEYS
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.lists.catalog import open_list
from slowfast_mvit.errors import ConfigError, ListError, UserError, in_one_message
from slowfast_mvit.evaluation.results import load_results
from slowfast_mvit.jobs.checkpoints import weights_named
from slowfast_mvit.jobs.pretrained_weights import model_of
from slowfast_mvit.jobs.report import REPORT_FILE, RESULTS_FILE
from slowfast_mvit.jobs.test import test_job
from slowfast_mvit.jobs.train import train_job
from slowfast_mvit.runtime.checkpoint import OUR_KEY, best_path, checkpoint_path, newest_first
from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.storage import is_remote, local_copy, read_torch

logger = logging.getLogger(__name__)

RECIPE = "Finetune/small.yaml"
MIXED_FROM = 1000  # training videos; with fewer, mixing takes longer than a fine-tuning lasts
PROBE_RATE = 5  # times the rate of fine-tuning: a classifier alone can learn faster
_DEPTH_OF_RECIPE = 16  # blocks of S
_NUM_PROBLEMS_SHOWN = 20

# Besides all of MVIT: the input of the weights.
_OF_THE_MODEL = (
    "MODEL.ACT_CHECKPOINT",
    "DATA.NUM_FRAMES",
    "DATA.SAMPLING_RATE",
    "DATA.TARGET_FPS",
    "DATA.TRAIN_JITTER_SCALES",
    "DATA.TRAIN_CROP_SIZE",
    "DATA.TEST_CROP_SIZE",
    "DATA.MEAN",
    "DATA.STD",
    "DATA.REVERSE_INPUT_CHANNEL",
)
# Keys that must not change when a run resumes.
_OF_THE_RUN = ("TRAIN.CHECKPOINT_FILE_PATH", "TRAIN.FREEZE", "MODEL.NUM_CLASSES")
# A class with one of these words in its name becomes another one in a mirror.
_SIDES = {
    *("left", "right", "leftwards", "rightwards"),
    *("clockwise", "anticlockwise", "counterclockwise"),
}
_EVERYTHING_BUT_HEAD = "[!h]*"  # no other parameter's name begins with an h


def finetune_config(arguments: argparse.Namespace) -> Config:
    """Build the config of a run: the recipe, the keys of videos and weights, the arguments.

    Args:
        arguments: of ``add_finetune_arguments``.

    Raises:
        UserError: the problems of the folder and of the weights, at once; or a value is out of
            range.
    """
    arguments.weights = weights_named(arguments.weights)
    videos, source = _read_inputs(arguments)
    recipe = load_config(RECIPE)
    keys = {
        **_keys_of_model(source),
        **_keys_of_videos(videos),
        **_keys_of_training(recipe, videos, epochs=arguments.epochs, batch=arguments.batch_size),
        "SOLVER.LAYER_DECAY": _layer_decay(recipe, source),
        "DATA.PATH_TO_DATA_DIR": arguments.data,
        "TRAIN.CHECKPOINT_FILE_PATH": arguments.weights,
        "TRAIN.FREEZE": arguments.freeze,
        "OUTPUT_DIR": arguments.out,
    }
    if arguments.linear_probe:
        keys |= {
            "TRAIN.FREEZE": [_EVERYTHING_BUT_HEAD],
            "SOLVER.BASE_LR": PROBE_RATE * keys["SOLVER.BASE_LR"],
            "MVIT.DROPPATH_RATE": 0.0,  # no noise in fixed features
            "MODEL.DROPOUT_RATE": 0.0,
        }
    overrides = [f"{key}={value}" for key, value in keys.items()] + arguments.overrides
    config = load_config(RECIPE, overrides)
    _require_same_run(config, videos.class_names)
    logger.info(
        "%d classes, %d videos to train on, %d held out: %s",
        len(videos.class_names),
        videos.num_train,
        videos.num_val,
        ", ".join(videos.class_names),
    )
    return config


def finetune_job(config: Config, *, takeover: bool = False) -> None:
    """Train, test on the held-out videos, and log the results by class."""
    train_job(config, then_tests=config.test.enable, takeover=takeover)
    if config.test.enable:
        test_job(config, takeover=takeover)
        if is_main() and len(builders.test_plans(config)) == 1:  # several have a folder each
            _log_results(config)


def _read_inputs(arguments: argparse.Namespace) -> tuple[UserData, Config]:
    """Read videos and weights, and report the problems of both at once."""
    inputs, problems = list[Any](), list[UserError]()
    for read in (
        lambda: read_user_data(arguments.data),
        lambda: model_of(arguments.weights, arguments.variant),
    ):
        try:
            inputs.append(read())
        except UserError as error:
            problems.append(error)
    if problems:
        raise problems[0] if len(problems) == 1 else UserError("\n".join(map(str, problems)))
    return inputs[0], inputs[1]


# Videos


class UserData(NamedTuple):
    """The content of a folder of user videos.

    Attributes:
        dataset: row of the catalog that reads it.
        separator: of paths and labels in lists.
        class_names: in the order of the labels; "class 3" where it has no name.
        num_train: videos to train on.
        num_val: videos held out, for validation and testing.
    """

    dataset: str
    separator: str
    class_names: tuple[str, ...]
    num_train: int
    num_val: int


def read_user_data(folder: str) -> UserData:
    """Read the lists of a folder, as training will, and check them for training a classifier.

    Args:
        folder: of folders of classes, or of ``train.csv`` and ``val.csv``.

    Raises:
        ListError: all problems, at once.
    """
    list_file = Path(folder) / "train.csv"
    dataset = "csv" if list_file.is_file() else "folder"
    separator = separator_of(list_file) if dataset == "csv" else " "
    logging.disable(logging.INFO)  # training reads the same lists again and logs the rest
    try:
        train = open_list(dataset, "train", data_dir=folder, separator=separator)
        held_out = open_list(dataset, "val", data_dir=folder, separator=separator)
    finally:
        logging.disable(logging.NOTSET)
    names = _class_names(train, held_out)
    in_train, in_val = (
        np.bincount(videos.labels, minlength=len(names)) for videos in (train, held_out)
    )
    has_splits = dataset == "csv" or bool(find_class_folders(Path(folder)).splits)
    problems = list(_problems(names, in_train.tolist(), in_val.tolist(), has_splits))
    if problems:
        raise ListError(in_one_message(folder, problems, limit=_NUM_PROBLEMS_SHOWN))
    for name, num_val in zip(names, in_val, strict=True):
        if not num_val and dataset == "csv":  # folders log it
            logger.warning("%s: no video of class %r is held out: it is not tested", folder, name)
    _check_files(folder, train, held_out)
    return UserData(dataset, separator, names, num_train=len(train), num_val=len(held_out))


def _check_files(folder: str, train: VideoList, held_out: VideoList) -> None:
    """Refuse lists without a single file; log missing files, and those of two classes or splits."""
    videos = [(v.path, (v.label, n)) for n, of in enumerate((train, held_out)) for v in of]
    missing, shared = missing_and_shared(videos)
    if len(missing) == len(videos):
        text = f"none of its {len(videos):,} videos is there (first: {missing[0]})"
        raise ListError(f"{text}. Paths in lists start from the folder of the list", folder)
    if missing:
        text = "%s: %d of %d videos are not there (first: %s)"
        logger.warning(text, folder, len(missing), len(videos), missing[0])
    if shared:
        text = "%s: %d videos are in both splits or in two classes (first: %s = %s)"
        logger.warning(text, folder, len(shared), *shared[0])


def _class_names(train: VideoList, held_out: VideoList) -> tuple[str, ...]:
    num_seen = int(max(train.labels.max(), held_out.labels.max())) + 1
    if train.class_names is not None and len(train.class_names) >= num_seen:
        return train.class_names
    logger.warning(
        "%s: the classes have no names. Write them into classes.txt in its folder, one a line in "
        "the order of the labels",
        train.source,
    )
    return tuple(f"class {label}" for label in range(num_seen))


def _problems(
    names: Sequence[str], in_train: Sequence[int], in_val: Sequence[int], has_splits: bool
) -> Iterator[str]:
    if names[0] == "class 0" and not in_train[0] + in_val[0] and min(in_train[1:], default=0):
        yield "labels count from 1, but must count from 0. Subtract 1 from each"
        return
    if len(names) == 1:
        yield f"there is one class, {names[0]!r}: a classifier needs two or more"
    for name, num_train, num_val in zip(names, in_train, in_val, strict=True):
        if not num_train + num_val:
            yield f"class {name!r} has no videos. Add some, or remove the class"
        elif not num_train:
            yield f"class {name!r} has no videos to train on, but {num_val} held out"
        elif not num_val and not has_splits:
            yield f"class {name!r} has a single video, so none can be held out. Add another"


# Weights


def _keys_of_model(source: Config) -> dict[str, Any]:
    """Return the keys of a model and its input, except those that its variant fills."""
    return {
        name: key.value_in(source)
        for name, key in KEYS.items()
        if (key.section == "mvit" or name in _OF_THE_MODEL)
        and not (key.rule.from_variant and source.mvit.variant and not source.is_set(name))
    }


def _layer_decay(recipe: Config, source: Config) -> float:
    """Return the recipe's decay, which is for S; closer to 1 in a deeper model.

    So its first block learns as fast as that of S; in L it would not: 0.75 to the power of 48 is a
    millionth.
    """
    depth: int = builders.model_arguments(source)["depth"]
    decay: float = recipe.solver.layer_decay ** min(1.0, _DEPTH_OF_RECIPE / depth)
    return round(decay, 3)


def _keys_of_videos(videos: UserData) -> dict[str, Any]:
    sided = [name for name in videos.class_names if _SIDES & set(folded(name).split())]
    if sided:
        logger.info(
            "videos are not mirrored (DATA.RANDOM_FLIP), since that would change the class of %s",
            ", ".join(map(repr, sided)),
        )
    return {
        "MODEL.NUM_CLASSES": len(videos.class_names),
        "TRAIN.DATASET": videos.dataset,
        "TEST.DATASET": videos.dataset,
        **({"DATA.PATH_LABEL_SEPARATOR": videos.separator} if videos.separator != " " else {}),
        "DATA.RANDOM_FLIP": not sided,
        "MIXUP.PROB": float(videos.num_train >= MIXED_FROM),
    }


def _keys_of_training(
    recipe: Config, videos: UserData, *, epochs: int | None, batch: int | None
) -> dict[str, Any]:
    """Return epochs, batch, and the keys in proportion to them."""
    for flag, number in (("--epochs", epochs), ("--batch-size", batch)):
        if number is not None and number < 1:
            raise ConfigError(f"{flag} {number}: expected a whole number of at least 1")
    solver = recipe.solver
    epochs = epochs or solver.max_epoch
    batch = min(batch or recipe.train.batch_size, videos.num_train)
    factor = batch / recipe.train.batch_size
    return {
        "TRAIN.BATCH_SIZE": batch,
        "SOLVER.BASE_LR": solver.base_lr * factor,
        "SOLVER.COSINE_END_LR": solver.cosine_end_lr * factor,
        "SOLVER.WARMUP_START_LR": solver.warmup_start_lr * factor,
        "SOLVER.WARMUP_EPOCHS": solver.warmup_epochs * epochs / solver.max_epoch,
        "SOLVER.MAX_EPOCH": epochs,
    }


# OUTPUT_DIR


def _require_same_run(config: Config, class_names: Sequence[str]) -> None:
    """Refuse to resume a run that was started with other classes, weights or parameters.

    Raises:
        ConfigError: there is such a run in ``OUTPUT_DIR``; lists the differences.
    """
    folder = config.output_dir
    if is_remote(folder) or not config.train.auto_resume or not newest_first(folder):
        return
    newest = newest_first(folder)[0]
    content = read_torch(newest)
    with trusted_configs():  # it is only compared
        before = load_config_text(content["cfg"], source=f"the config in {newest}")
    before, now = before.without_addresses(), config.without_addresses()  # as in checkpoints
    problems = [
        f"{name}: was {KEYS[name].value_in(before)!r}, is {KEYS[name].value_in(now)!r}"
        for name in _OF_THE_RUN
        if KEYS[name].value_in(before) != KEYS[name].value_in(now)
    ]
    names = content[OUR_KEY]["input_spec"]["class_names"]
    if names is not None and list(names) != list(class_names):
        problems.append(f"classes: were {', '.join(names)}; are {', '.join(class_names)}")
    if problems:
        raise ConfigError(
            in_one_message(f"{folder}: contains a run that this one cannot resume", problems)
            + "\nChoose another folder with --out, or remove that one"
        )


def _log_results(config: Config) -> None:
    folder = config.output_dir.rstrip("/")
    result = load_results(local_copy(f"{folder}/{RESULTS_FILE}"))
    width = max(map(len, result.per_class))
    lines = [
        f"  {name:<{width}}  {rate:6.1f} %"
        for name, rate in sorted(result.per_class.items(), key=lambda item: -item[1])
    ]
    logger.info(
        "%.1f %% of %d held-out videos are correct; by class:\n%s\nreport:  %s/%s\npredict: %s",
        result.top1,
        result.num_videos,
        "\n".join(lines),
        folder,
        REPORT_FILE,
        shlex.join(
            ["slowfast-mvit", "predict", "VIDEO", "--weights", *_evaluated_weights(config, folder)]
        ),
    )


def _evaluated_weights(config: Config, folder: str) -> list[str]:
    """Return the arguments of ``predict --weights`` for the weights that were tested."""
    if config.test.weights == "best":
        return [str(best_path(folder))]
    # A run that stopped early has no checkpoint of the last epoch.
    last = checkpoint_path("", config.solver.max_epoch - 1)
    newest = f"{folder}/{last}" if is_remote(folder) else newest_first(folder)[0]
    return [str(newest), *(["--ema"] if config.test.weights == "ema" else [])]
