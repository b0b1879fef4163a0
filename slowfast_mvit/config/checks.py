"""Checks between keys that are valid one by one.

``RULES`` are single conditions; the functions of ``CHECKS`` look at several. A fault is the keys,
separated by blanks, the first of which the message belongs to, and the message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from slowfast_mvit.config.config import KEYS, Config

Fault = tuple[str, str]


class Rule(NamedTuple):
    """A condition that no config may meet; ``c`` in the message is the config."""

    keys: str
    is_broken: Callable[[Config], bool]
    message: str


RULES: dict[str, Rule] = {
    "shard_id": Rule(
        "SHARD_ID NUM_SHARDS",
        lambda c: c.shard_id >= c.num_shards,
        "must be below NUM_SHARDS, {c.num_shards}, got {c.shard_id}",
    ),
    "precision": Rule(
        "TRAIN.PRECISION TRAIN.MIXED_PRECISION",
        lambda c: c.train.mixed_precision and c.train.precision != "fp16",
        "{c.train.precision!r} contradicts TRAIN.MIXED_PRECISION True, which is fp16; set that to "
        "False",
    ),
    "compilation": Rule(
        "MODEL.COMPILE TRAIN.STRATEGY",
        lambda c: c.model.compile and c.train.strategy == "fsdp",
        "the model is compiled as one graph, which TRAIN.STRATEGY fsdp would cut at each block; "
        "choose ddp, or set MODEL.COMPILE to False",
    ),
    "end_of_cosine": Rule(
        "SOLVER.COSINE_END_LR SOLVER.BASE_LR",
        lambda c: _trains_with(c, "cosine") and c.solver.cosine_end_lr >= c.solver.base_lr,
        "must be below SOLVER.BASE_LR, {c.solver.base_lr!r}, got {c.solver.cosine_end_lr!r}",
    ),
    "end_of_warmup": Rule(
        "SOLVER.WARMUP_EPOCHS SOLVER.MAX_EPOCH",
        lambda c: (
            _trains_with(c, "cosine")
            and c.solver.cosine_after_warmup
            and c.solver.warmup_epochs == c.solver.max_epoch
        ),
        "{c.solver.warmup_epochs:g} leaves no epoch after the warm-up; choose another "
        "SOLVER.MAX_EPOCH",
    ),
    "nesterov": Rule(
        "SOLVER.NESTEROV SOLVER.MOMENTUM SOLVER.DAMPENING",
        lambda c: (
            (c.train.enable and c.solver.optimizing_method == "sgd" and c.solver.nesterov)
            and (c.solver.momentum == 0 or c.solver.dampening != 0)
        ),
        "needs a SOLVER.MOMENTUM above 0 and a SOLVER.DAMPENING of 0; set it to False",
    ),
    "num_views": Rule(
        "TEST.NUM_ENSEMBLE_VIEWS",
        lambda c: c.test.num_ensemble_views == 0,
        "must be at least 1, or -1, got 0",
    ),
    "shifted_clips": Rule(
        "TEST.SEGMENT_CLIPS TEST.DATASET",
        lambda c: (
            (c.test.enable and c.test.segment_clips == "shifted")
            and c.test.dataset != "ssv2"
            and ":" not in c.test.dataset  # nothing is known of a user's data set
        ),
        "'shifted' is for SSv2, whose clips take one frame of each part of a video; the clips of "
        "TEST.DATASET {c.test.dataset} are at different times anyway; remove the key",
    ),
    "mixing": Rule(
        "MIXUP.ALPHA MIXUP.CUTMIX_ALPHA MIXUP.PROB",
        lambda c: (
            (c.mixup.enable and c.mixup.prob > 0)
            and (c.mixup.alpha == 0 and c.mixup.cutmix_alpha == 0)
        ),
        "with MIXUP.CUTMIX_ALPHA 0 too nothing can be mixed; set MIXUP.PROB to 0",
    ),
    "image_frames": Rule(
        "DATA.NUM_FRAMES MVIT.PATCH_2D",
        lambda c: c.mvit.patch_2d and c.data.num_frames != 1,
        "must be 1 with MVIT.PATCH_2D True, got {c.data.num_frames}",
    ),
    "heads": Rule(
        "MVIT.EMBED_DIM MVIT.NUM_HEADS",
        lambda c: (
            _is_known(c, "MVIT.EMBED_DIM", "MVIT.NUM_HEADS")
            and c.mvit.embed_dim % c.mvit.num_heads != 0
        ),
        "{c.mvit.embed_dim} is not a multiple of MVIT.NUM_HEADS, {c.mvit.num_heads}",
    ),
}


def _trains_with(config: Config, policy: str) -> bool:
    return config.train.enable and config.solver.lr_policy == policy


def _is_known(config: Config, *keys: str) -> bool:
    """Return whether ``MVIT.VARIANT`` leaves these keys as they are."""
    return not config.mvit.variant or all(config.is_set(key) for key in keys)


def rules(config: Config) -> Iterator[Fault]:
    for rule in RULES.values():
        if rule.is_broken(config):
            yield rule.keys, rule.message.format(c=config)


def batch_sizes(config: Config) -> Iterator[Fault]:
    for name, phase in (("TRAIN", config.train), ("TEST", config.test)):
        if phase.enable and config.num_gpus and phase.batch_size % config.num_gpus:
            yield (
                f"{name}.BATCH_SIZE NUM_GPUS",
                f"{phase.batch_size} is not a multiple of NUM_GPUS, {config.num_gpus}; "
                "each device takes an equal share",
            )


def steps(config: Config) -> Iterator[Fault]:
    if not _trains_with(config, "steps_with_relative_lrs"):
        return
    epochs, factors = config.solver.steps, config.solver.lrs
    keys = "SOLVER.STEPS SOLVER.LRS SOLVER.LR_POLICY"
    if not epochs or epochs[0] != 0:
        yield keys, f"must begin with epoch 0, got {list(epochs)}"
    elif list(epochs) != sorted(set(epochs)):
        yield keys, f"must rise, got {list(epochs)}"
    if len(epochs) != len(factors):
        yield (
            keys,
            f"needs one factor in SOLVER.LRS for each step, "
            f"got {len(epochs)} steps and {len(factors)} factors",
        )


def ranges(config: Config) -> Iterator[Fault]:
    scales, aspects = "DATA.TRAIN_JITTER_SCALES_RELATIVE", "DATA.TRAIN_JITTER_ASPECT_RELATIVE"
    for key in ("DATA.TRAIN_JITTER_SCALES", scales, aspects):
        pair = KEYS[key].value_in(config)
        if pair and (len(pair) != 2 or pair[0] > pair[1]):
            yield key, f"expected two numbers, from and to, got {list(pair)}"
    if bool(KEYS[scales].value_in(config)) != bool(KEYS[aspects].value_in(config)):
        yield (
            f"{scales} {aspects}",
            f"a random resized crop needs both this and {aspects}, or neither",
        )


def crop_sizes(config: Config) -> Iterator[Fault]:
    """A crop cannot be larger than the frame it is cut from.

    Only where the scales are set and used: random resized crops, SSv2, three-crop testing and
    single images scale to the crop itself, and a model may be built without scales.
    """
    data, test, low = config.data, config.test, config.data.train_jitter_scales[0]
    if config.mvit.patch_2d or not config.is_set("DATA.TRAIN_JITTER_SCALES"):
        return
    trains = config.train.enable and not data.train_jitter_scales_relative
    tests = test.enable and test.num_spatial_crops == 1 and test.dataset != "ssv2"
    for name, is_used, size in (
        ("TRAIN", trains, data.train_crop_size),
        ("TEST", tests, data.test_crop_size),
    ):
        if is_used and size > low:
            yield (
                f"DATA.{name}_CROP_SIZE DATA.TRAIN_JITTER_SCALES",
                f"must not be above the first of DATA.TRAIN_JITTER_SCALES, {low}, got {size}",
            )


def patches(config: Config) -> Iterator[Fault]:
    axes = 2 if config.mvit.patch_2d else 3
    for key in ("MVIT.PATCH_KERNEL", "MVIT.PATCH_STRIDE", "MVIT.PATCH_PADDING"):
        numbers = list(KEYS[key].value_in(config))
        if len(numbers) != axes:
            yield (
                f"{key} MVIT.PATCH_2D",
                f"expected {axes} numbers with MVIT.PATCH_2D {axes == 2}, got {numbers}",
            )


def blocks(config: Config) -> Iterator[Fault]:
    """Rows name blocks of the model; its depth is known unless the variant sets it."""
    depth, kernel = config.mvit.depth, config.mvit.pool_kvq_kernel
    # PySlowFast lets widths and heads grow after the last block too, for the head.
    for key, last in (
        ("MVIT.POOL_Q_STRIDE", depth - 1),
        ("MVIT.POOL_KV_STRIDE", depth - 1),
        ("MVIT.DIM_MUL", depth),
        ("MVIT.HEAD_MUL", depth),
    ):
        rows = KEYS[key].value_in(config)
        beyond = [row[0] for row in rows if row[0] > last]
        if beyond and _is_known(config, "MVIT.DEPTH"):
            yield (
                f"{key} MVIT.DEPTH",
                f"names block {beyond[0]}, but with MVIT.DEPTH {depth} "
                f"the last that it can name is {last}",
            )
        wrong = [list(row) for row in rows if min(row[1:]) <= 0]
        if wrong:
            yield key, f"strides and factors must be above 0, got {wrong[0]}"
    if kernel and any(size % 2 == 0 for size in kernel):
        yield "MVIT.POOL_KVQ_KERNEL", f"must be odd along each axis, got {list(kernel)}"


CHECKS = (rules, batch_sizes, steps, ranges, crop_sizes, patches, blocks)
