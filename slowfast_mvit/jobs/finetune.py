"""Fine-tuning on one's own videos with one command; what is not said follows from what is there.

    folder  -> classes, training and held-out videos                        own_videos.py
    weights -> the model they are of, and its clips, or a published size    own_weights.py
    both, the recipe and the command's words -> Config -> train -> test -> results by class

All of it is an ordinary config in the end: ``OUTPUT_DIR/config.yaml`` says what was chosen, and
``slowfast-mvit train`` and ``test`` do the same with it.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slowfast_mvit import builders
from slowfast_mvit.annotations.class_names import folded
from slowfast_mvit.config import Config, load_config, load_config_text, trusted_configs
from slowfast_mvit.config.config import KEYS
from slowfast_mvit.errors import ConfigError, UserError, in_one_message
from slowfast_mvit.evaluation.results import load_results
from slowfast_mvit.jobs.pretrained_weights import model_of
from slowfast_mvit.jobs.report import REPORT_FILE, RESULTS_FILE
from slowfast_mvit.jobs.test import test_job
from slowfast_mvit.jobs.train import train_job
from slowfast_mvit.jobs.user_data import UserData, read_user_data
from slowfast_mvit.runtime.checkpoint import OUR_KEY
from slowfast_mvit.runtime.checkpoint_files import best_path, checkpoint_path, newest_first
from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.storage import is_remote, local_copy, read_torch

logger = logging.getLogger(__name__)

RECIPE = "Finetune/small.yaml"
MIXED_FROM = 1000  # training videos; with fewer, mixing them takes longer than a fine-tuning lasts
_DEPTH_OF_RECIPE = 16  # blocks of S
PROBE_RATE = 5  # times the rate of fine-tuning: a classifier alone can move faster

# Besides all of MVIT: what the weights were trained to see.
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
# What a run cannot change half-way.
_OF_THE_RUN = ("TRAIN.CHECKPOINT_FILE_PATH", "TRAIN.FREEZE", "MODEL.NUM_CLASSES")
# A class whose name holds one of these becomes another one in a mirror.
_SIDES = {
    *("left", "right", "leftwards", "rightwards"),
    *("clockwise", "anticlockwise", "counterclockwise"),
}
_EVERYTHING_BUT_HEAD = "[!h]*"  # no other parameter's name begins with an h

Words = dict[str, Any]


def finetune_config(arguments: argparse.Namespace) -> Config:
    """The config of a run: the recipe, what follows from videos and weights, and what was said.

    Args:
        arguments: of ``add_finetune_arguments``.

    Raises:
        UserError: what is wrong with the folder and with the weights, at once; or a value is out
            of range.
    """
    videos, source = _both(
        lambda: read_user_data(arguments.data),
        lambda: model_of(arguments.weights, arguments.variant),
    )
    recipe = load_config(RECIPE)
    words = {
        **_words_of_model(source),
        **_words_of_videos(videos),
        **_words_of_training(recipe, videos, epochs=arguments.epochs, batch=arguments.batch_size),
        "SOLVER.LAYER_DECAY": _layer_decay(recipe, source),
        "DATA.PATH_TO_DATA_DIR": arguments.data,
        "TRAIN.CHECKPOINT_FILE_PATH": arguments.weights,
        "TRAIN.FREEZE": arguments.freeze,
        "OUTPUT_DIR": arguments.out or f"runs/finetune/{Path(arguments.data).resolve().name}",
    }
    if arguments.linear_probe:
        words |= _words_of_probe(words)
    overrides = [f"{key}={value}" for key, value in words.items()] + arguments.overrides
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


def finetune_job(config: Config) -> None:
    """Train, test on the videos that were held out, and say the results by class."""
    train_job(config, then_tests=config.test.enable)
    if not config.test.enable:
        return
    test_job(config)
    if is_main() and len(builders.test_plans(config)) == 1:  # several have a folder each
        _tell(config)


def _both(
    look_at_videos: Callable[[], UserData], look_at_weights: Callable[[], Config]
) -> tuple[UserData, Config]:
    """Both answers, or both problems."""
    problems: list[UserError] = []
    videos = source = None
    try:
        videos = look_at_videos()
    except UserError as error:
        problems.append(error)
    try:
        source = look_at_weights()
    except UserError as error:
        problems.append(error)
    if videos is None or source is None:
        if len(problems) == 1:
            raise problems[0]
        raise UserError("\n".join(str(problem) for problem in problems))
    return videos, source


# What the weights tell


def _words_of_model(source: Config) -> Words:
    """The keys that describe a model and what it sees, but for those its variant is to fill."""
    return {
        name: key.value_in(source)
        for name, key in KEYS.items()
        if (key.section == "mvit" or name in _OF_THE_MODEL)
        and not (key.rule.from_variant and source.mvit.variant and not source.is_set(name))
    }


def _layer_decay(recipe: Config, source: Config) -> float:
    """The recipe's, which is S's; closer to 1 in a deeper model, so that its first block is not
    slower than that of S. It would stand still in L: 0.75 to the power of 48 is a millionth."""
    depth: int = builders.model_arguments(source)["depth"]
    decay: float = recipe.solver.layer_decay ** min(1.0, _DEPTH_OF_RECIPE / depth)
    return round(decay, 3)


# What the videos tell


def _words_of_videos(videos: UserData) -> Words:
    sided = [name for name in videos.class_names if _SIDES & set(folded(name).split())]
    if sided:
        logger.info(
            "videos are not mirrored (DATA.RANDOM_FLIP), since that would make another class of %s",
            ", ".join(map(repr, sided)),
        )
    return {
        "MODEL.NUM_CLASSES": len(videos.class_names),
        "TRAIN.DATASET": videos.dataset,
        "TEST.DATASET": videos.dataset,
        "DATA.RANDOM_FLIP": not sided,
        "MIXUP.PROB": float(videos.num_train >= MIXED_FROM),
    }


def _words_of_training(
    recipe: Config, videos: UserData, *, epochs: int | None, batch: int | None
) -> Words:
    """Epochs and batch, and what goes with them in proportion."""
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


def _words_of_probe(words: Words) -> Words:
    """The keys of a linear probe: fixed features, so no noise in them, and a faster classifier."""
    return {
        "TRAIN.FREEZE": [_EVERYTHING_BUT_HEAD],
        "SOLVER.BASE_LR": PROBE_RATE * words["SOLVER.BASE_LR"],
        "MVIT.DROPPATH_RATE": 0.0,
        "MODEL.DROPOUT_RATE": 0.0,
    }


# What is in OUTPUT_DIR


def _require_same_run(config: Config, class_names: Sequence[str]) -> None:
    """Refuse to go on with a run that was begun with other classes, weights or parameters.

    Raises:
        ConfigError: there is such a run in ``OUTPUT_DIR``; says in what it differs.
    """
    folder = config.output_dir
    if is_remote(folder) or not config.train.auto_resume or not newest_first(folder):
        return
    newest = newest_first(folder)[0]
    content = read_torch(newest)
    with trusted_configs():  # it is only compared
        before = load_config_text(content["cfg"], source=f"the config in {newest}")
    problems = [
        f"{name}: was {KEYS[name].value_in(before)!r}, is {KEYS[name].value_in(config)!r}"
        for name in _OF_THE_RUN
        if KEYS[name].value_in(before) != KEYS[name].value_in(config)
    ]
    names = content[OUR_KEY]["input_spec"]["class_names"]
    if names is not None and list(names) != list(class_names):
        problems.append(f"classes: were {', '.join(names)}; are {', '.join(class_names)}")
    if problems:
        raise ConfigError(
            in_one_message(f"{folder}: holds another run, which this one is not", problems)
            + "\nChoose another folder with --out, or take that one away"
        )


# What came out


def _tell(config: Config) -> None:
    folder = config.output_dir.rstrip("/")
    result = load_results(local_copy(f"{folder}/{RESULTS_FILE}"))
    width = max(map(len, result.per_class))
    lines = [
        f"  {name:<{width}}  {rate:6.1f} %"
        for name, rate in sorted(result.per_class.items(), key=lambda item: -item[1])
    ]
    logger.info(
        "%.1f %% of %d held-out videos are right; by class:\n%s\n"
        "report:  %s/%s\npredict: slowfast-mvit predict VIDEO --weights %s",
        result.top1,
        result.num_videos,
        "\n".join(lines),
        folder,
        REPORT_FILE,
        _tested_weights(config, folder),
    )


def _tested_weights(config: Config, folder: str) -> str:
    """Return what ``predict --weights`` needs to give the answers that were tested."""
    if config.test.weights == "best":
        return str(best_path(folder))
    # A run that stopped early has no checkpoint of the last epoch.
    last = checkpoint_path("", config.solver.max_epoch - 1)
    newest = f"{folder}/{last}" if is_remote(folder) else newest_first(folder)[0]
    return f"{newest} --ema" if config.test.weights == "ema" else str(newest)
