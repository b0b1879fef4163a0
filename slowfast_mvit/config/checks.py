"""Checks between keys, once each of them is right by itself.

Each check yields the keys at fault, the one to point at first, and what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from slowfast_mvit.config.config import Config

Fault = tuple[tuple[str, ...], str]


def batches_divide_over_devices(config: Config) -> Iterator[Fault]:
    for name, phase in (("TRAIN", config.train), ("TEST", config.test)):
        if phase.enable and config.num_gpus and phase.batch_size % config.num_gpus:
            yield (
                (f"{name}.BATCH_SIZE", "NUM_GPUS"),
                f"{phase.batch_size} is not a multiple of NUM_GPUS, {config.num_gpus}; "
                "each device takes an equal share",
            )


def shard_is_one_of_the_shards(config: Config) -> Iterator[Fault]:
    if config.shard_id >= config.num_shards:
        yield (
            ("SHARD_ID", "NUM_SHARDS"),
            f"must be below NUM_SHARDS, {config.num_shards}, got {config.shard_id}",
        )


def precision_is_said_once(config: Config) -> Iterator[Fault]:
    if config.train.mixed_precision and config.train.precision != "fp16":
        yield (
            ("TRAIN.PRECISION", "TRAIN.MIXED_PRECISION"),
            f"{config.train.precision!r} contradicts TRAIN.MIXED_PRECISION True, which is fp16; "
            "set that to False",
        )


def a_compiled_model_has_whole_weights(config: Config) -> Iterator[Fault]:
    if config.model.compile and config.train.strategy == "fsdp":
        yield (
            ("MODEL.COMPILE", "TRAIN.STRATEGY"),
            "the model is compiled as one graph, which TRAIN.STRATEGY fsdp would cut at each "
            "block; choose ddp, or set MODEL.COMPILE to False",
        )


def learning_rate_falls(config: Config) -> Iterator[Fault]:
    solver = config.solver
    if not config.train.enable or solver.lr_policy != "cosine":
        return
    if solver.cosine_end_lr >= solver.base_lr:
        yield (
            ("SOLVER.COSINE_END_LR", "SOLVER.BASE_LR"),
            f"must be below SOLVER.BASE_LR, {solver.base_lr!r}, got {solver.cosine_end_lr!r}",
        )
    if solver.cosine_after_warmup and solver.warmup_epochs == solver.max_epoch:
        yield (
            ("SOLVER.WARMUP_EPOCHS", "SOLVER.MAX_EPOCH"),
            f"{solver.warmup_epochs:g} leaves no epoch after the warm-up; "
            "choose another SOLVER.MAX_EPOCH",
        )


def steps_fit_their_rates(config: Config) -> Iterator[Fault]:
    solver = config.solver
    if not config.train.enable or solver.lr_policy != "steps_with_relative_lrs":
        return
    keys = ("SOLVER.STEPS", "SOLVER.LRS", "SOLVER.LR_POLICY")
    if not solver.steps or solver.steps[0] != 0:
        yield keys, f"must begin with epoch 0, got {list(solver.steps)}"
    elif list(solver.steps) != sorted(set(solver.steps)):
        yield keys, f"must rise, got {list(solver.steps)}"
    if len(solver.steps) != len(solver.lrs):
        yield (
            keys,
            f"needs one factor in SOLVER.LRS for each step, "
            f"got {len(solver.steps)} steps and {len(solver.lrs)} factors",
        )


def nesterov_has_momentum(config: Config) -> Iterator[Fault]:
    solver = config.solver
    used = config.train.enable and solver.optimizing_method == "sgd" and solver.nesterov
    if used and (solver.momentum == 0 or solver.dampening != 0):
        yield (
            ("SOLVER.NESTEROV", "SOLVER.MOMENTUM", "SOLVER.DAMPENING"),
            "needs a SOLVER.MOMENTUM above 0 and a SOLVER.DAMPENING of 0; set it to False",
        )


def ranges_run_upwards(config: Config) -> Iterator[Fault]:
    data = config.data
    scales, aspects = data.train_jitter_scales_relative, data.train_jitter_aspect_relative
    pairs = {
        "DATA.TRAIN_JITTER_SCALES": data.train_jitter_scales,
        "DATA.TRAIN_JITTER_SCALES_RELATIVE": scales,
        "DATA.TRAIN_JITTER_ASPECT_RELATIVE": aspects,
    }
    for key, pair in pairs.items():
        if pair and (len(pair) != 2 or pair[0] > pair[1]):
            yield (key,), f"expected two numbers, from and to, got {list(pair)}"
    if bool(scales) != bool(aspects):
        yield (
            ("DATA.TRAIN_JITTER_SCALES_RELATIVE", "DATA.TRAIN_JITTER_ASPECT_RELATIVE"),
            "a random resized crop needs both this and DATA.TRAIN_JITTER_ASPECT_RELATIVE, "
            "or neither",
        )


def crops_fit_the_picture(config: Config) -> Iterator[Fault]:
    """A crop cannot be larger than the picture it is cut from.

    Only where the scales are given and used: random resized crops, SSv2, three-crop testing and
    single images scale to the crop itself, and a model may be built without saying how pictures
    are scaled.
    """
    data, low = config.data, config.data.train_jitter_scales[0]
    if config.mvit.patch_2d or not config.is_set("DATA.TRAIN_JITTER_SCALES"):
        return
    words = "must not be above the first of DATA.TRAIN_JITTER_SCALES, {}, got {}"
    random_crop = not data.train_jitter_scales_relative
    if config.train.enable and random_crop and data.train_crop_size > low:
        yield (
            ("DATA.TRAIN_CROP_SIZE", "DATA.TRAIN_JITTER_SCALES"),
            words.format(low, data.train_crop_size),
        )
    one_crop = config.test.num_spatial_crops == 1 and config.test.dataset != "ssv2"
    if config.test.enable and one_crop and data.test_crop_size > low:
        yield (
            ("DATA.TEST_CROP_SIZE", "DATA.TRAIN_JITTER_SCALES"),
            words.format(low, data.test_crop_size),
        )


def views_are_counted(config: Config) -> Iterator[Fault]:
    if config.test.num_ensemble_views == 0:
        yield ("TEST.NUM_ENSEMBLE_VIEWS",), "must be at least 1, or -1, got 0"


def shifted_clips_are_of_segments(config: Config) -> Iterator[Fault]:
    test = config.test
    is_ours = ":" not in test.dataset  # of somebody's own data set nothing is known
    if test.enable and is_ours and test.segment_clips == "shifted" and test.dataset != "ssv2":
        yield (
            ("TEST.SEGMENT_CLIPS", "TEST.DATASET"),
            f"'shifted' is for SSv2, whose clips take one frame of each part of a video; the clips "
            f"of TEST.DATASET {test.dataset} lie at different times anyway; remove the key",
        )


def mixing_is_possible(config: Config) -> Iterator[Fault]:
    mixup = config.mixup
    if mixup.enable and mixup.prob > 0 and mixup.alpha == 0 and mixup.cutmix_alpha == 0:
        yield (
            ("MIXUP.ALPHA", "MIXUP.CUTMIX_ALPHA", "MIXUP.PROB"),
            "with MIXUP.CUTMIX_ALPHA 0 too nothing can be mixed; set MIXUP.PROB to 0",
        )


def patches_fit_the_clip(config: Config) -> Iterator[Fault]:
    mvit = config.mvit
    axes = 2 if mvit.patch_2d else 3
    for key, numbers in {
        "MVIT.PATCH_KERNEL": mvit.patch_kernel,
        "MVIT.PATCH_STRIDE": mvit.patch_stride,
        "MVIT.PATCH_PADDING": mvit.patch_padding,
    }.items():
        if len(numbers) != axes:
            yield (
                (key, "MVIT.PATCH_2D"),
                f"expected {axes} numbers with MVIT.PATCH_2D {mvit.patch_2d}, got {list(numbers)}",
            )
    if mvit.patch_2d and config.data.num_frames != 1:
        yield (
            ("DATA.NUM_FRAMES", "MVIT.PATCH_2D"),
            f"must be 1 with MVIT.PATCH_2D True, got {config.data.num_frames}",
        )


def blocks_exist(config: Config) -> Iterator[Fault]:
    """Rows name blocks of the model; its depth is known unless the variant is to say it."""
    mvit = config.mvit
    if mvit.variant and not config.is_set("MVIT.DEPTH"):
        return
    # PySlowFast lets widths and heads grow behind the last block too, for the head.
    for key, rows, last in (
        ("MVIT.POOL_Q_STRIDE", mvit.pool_q_stride, mvit.depth - 1),
        ("MVIT.POOL_KV_STRIDE", mvit.pool_kv_stride, mvit.depth - 1),
        ("MVIT.DIM_MUL", mvit.dim_mul, mvit.depth),
        ("MVIT.HEAD_MUL", mvit.head_mul, mvit.depth),
    ):
        beyond = [row[0] for row in rows if row[0] > last]
        if beyond:
            yield (
                (key, "MVIT.DEPTH"),
                f"names block {beyond[0]}, but with MVIT.DEPTH {mvit.depth} "
                f"the last that it can name is {last}",
            )


def block_rows_are_possible(config: Config) -> Iterator[Fault]:
    mvit = config.mvit
    for key, rows in (
        ("MVIT.POOL_Q_STRIDE", mvit.pool_q_stride),
        ("MVIT.POOL_KV_STRIDE", mvit.pool_kv_stride),
        ("MVIT.DIM_MUL", mvit.dim_mul),
        ("MVIT.HEAD_MUL", mvit.head_mul),
    ):
        wrong = [list(row) for row in rows if min(row[1:]) <= 0]
        if wrong:
            yield (key,), f"strides and factors must be above 0, got {wrong[0]}"
    if mvit.pool_kvq_kernel and any(size % 2 == 0 for size in mvit.pool_kvq_kernel):
        yield (
            ("MVIT.POOL_KVQ_KERNEL",),
            f"must be odd along each axis, got {list(mvit.pool_kvq_kernel)}",
        )


def heads_divide_the_width(config: Config) -> Iterator[Fault]:
    mvit = config.mvit
    keys = ("MVIT.EMBED_DIM", "MVIT.NUM_HEADS")
    known = not mvit.variant or all(config.is_set(key) for key in keys)
    if known and mvit.embed_dim % mvit.num_heads:
        yield keys, f"{mvit.embed_dim} is not a multiple of MVIT.NUM_HEADS, {mvit.num_heads}"


CHECKS: tuple[Callable[[Config], Iterator[Fault]], ...] = (
    batches_divide_over_devices,
    shard_is_one_of_the_shards,
    precision_is_said_once,
    a_compiled_model_has_whole_weights,
    learning_rate_falls,
    steps_fit_their_rates,
    nesterov_has_momentum,
    ranges_run_upwards,
    crops_fit_the_picture,
    views_are_counted,
    shifted_clips_are_of_segments,
    mixing_is_possible,
    patches_fit_the_clip,
    blocks_exist,
    block_rows_are_possible,
    heads_divide_the_width,
)
