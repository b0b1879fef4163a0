"""Config -> built objects. The only room that knows both the keys and what they set up.

Every function reads the keys it needs and calls one constructor with plain arguments; no object
made here keeps the config.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from slowfast_mvit.config import Config, load_config, load_config_text
from slowfast_mvit.data import catalog
from slowfast_mvit.data.dataset import EvalVideos, TrainVideos, read_clips, views_of_clips
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.loader import Loader, eval_loader, train_loader
from slowfast_mvit.data.mixup import mix
from slowfast_mvit.data.transforms import TrainTransform, normalise, random_erase
from slowfast_mvit.errors import ConfigError, pick
from slowfast_mvit.models import MViT, mvit_from_lists, variant_lists
from slowfast_mvit.optim.objectives import LOSSES, Recognition
from slowfast_mvit.optim.params import build_optimizer as optimizer_over
from slowfast_mvit.optim.params import parameter_groups
from slowfast_mvit.optim.schedule import Schedule
from slowfast_mvit.optim.schedule import build_schedule as schedule_of
from slowfast_mvit.runtime.checkpoint import OUR_KEY
from slowfast_mvit.storage import read_torch
from slowfast_mvit.structures import ClipBatch, ClipSpec, VideoRecord, ViewPlan
from slowfast_mvit.weights import LoadReport, load_weights

logger = logging.getLogger(__name__)

CLIP_COUNTS_OF_MINUS_1 = (1, 3, 5, 7, 10)  # what PySlowFast tests for NUM_ENSEMBLE_VIEWS -1


# ---- the model ----


def build_model(config: Config, *, attention: str = "folded") -> MViT:
    """The model that the ``MVIT`` and ``MODEL`` keys describe, with fresh weights on the CPU.

    Args:
        config: from ``load_config``.
        attention: "folded" or "plain", the same function computed in two ways.

    Raises:
        ConfigError: the keys of the blocks do not fit together.
    """
    model = mvit_from_lists(attention=attention, **model_arguments(config))
    model.input_spec = input_spec(config)
    return model


def model_arguments(config: Config) -> dict[str, Any]:
    """The plain arguments of ``mvit_from_lists``, with what ``MVIT.VARIANT`` fills in."""
    mvit = config.mvit
    side_px = config.data.train_crop_size
    return {
        "input_size": (1 if mvit.patch_2d else config.data.num_frames, side_px, side_px),
        "num_classes": config.model.num_classes,
        "patch_kernel": mvit.patch_kernel,
        "patch_stride": mvit.patch_stride,
        "patch_padding": mvit.patch_padding,
        **_block_lists(config),
        "dim_mul_in_att": mvit.dim_mul_in_att,
        "mlp_ratio": mvit.mlp_ratio,
        "qkv_bias": mvit.qkv_bias,
        "cls_token": mvit.cls_embed_on,
        "abs_pos": _absolute_positions(mvit.use_abs_pos, mvit.sep_pos_embed),
        "rel_pos_spatial": mvit.rel_pos_spatial,
        "rel_pos_temporal": mvit.rel_pos_temporal,
        "rel_pos_zero_init": mvit.rel_pos_zero_init,
        "residual_pooling": mvit.residual_pooling,
        "mean_pooling": mvit.use_mean_pooling,
        "norm_stem": mvit.norm_stem,
        "dropout": mvit.dropout_rate,
        "drop_path": mvit.droppath_rate,
        "head_dropout": config.model.dropout_rate,
        "head_init_scale": mvit.head_init_scale,
        "detach_head": config.model.detach_final_fc,
        "activation_checkpointing": config.model.act_checkpoint,
    }


def _block_lists(config: Config) -> dict[str, Any]:
    """The per-block keys: those a file sets as they are, the others from ``MVIT.VARIANT``."""
    mvit = config.mvit
    lists = {
        name: getattr(mvit, name)
        for name in (
            "embed_dim",
            "num_heads",
            "depth",
            "dim_mul",
            "head_mul",
            "pool_q_stride",
            "pool_kv_stride",
            "pool_kv_stride_adaptive",
            "pool_kvq_kernel",
        )
    }
    if not mvit.variant:
        return lists
    image: dict[str, Any] = {"first_stride_kv": (1, 4, 4), "kernel": (1, 3, 3)}
    filled = variant_lists(mvit.variant, **(image if mvit.patch_2d else {}))
    if config.is_set("MVIT.POOL_KV_STRIDE"):
        del filled["pool_kv_stride_adaptive"]
    return lists | {
        name: value for name, value in filled.items() if not config.is_set(f"MVIT.{name.upper()}")
    }


def _absolute_positions(used: bool, separate: bool) -> str | None:
    if not used:
        return None
    return "separate" if separate else "joint"


def input_spec(config: Config, class_names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """How pixels are made for this model: plain values, kept in every checkpoint."""
    mean, std = channel_statistics(config)
    clip = clip_spec(config, config.test.dataset)
    plan = view_plan(config, num_clips=1, num_crops=1)
    return {
        "num_frames": clip.num_frames,
        "sampling_rate": clip.sampling_rate,
        "target_fps": clip.target_fps,
        "policy": clip.policy,
        "crop_px": plan.crop_px,
        "scale_px": plan.scale_px,
        "mean": list(mean),
        "std": list(std),
        "class_names": None if class_names is None else list(class_names),
    }


def channel_statistics(config: Config) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation for R, G and B.

    With ``REVERSE_INPUT_CHANNEL`` in reverse order: PySlowFast read frames as BGR, normalised them
    so, and then turned the channels round, so that red got the numbers meant for blue.
    """
    step = -1 if config.data.reverse_input_channel else 1
    return config.data.mean[::step], config.data.std[::step]


# ---- the data ----


def build_videos(config: Config, split: str) -> VideoList:
    """The list of a split, "train", "val" or "test", read and checked."""
    return catalog.open_list(
        _dataset_name(config, split),
        split,
        data_dir=config.data.path_to_data_dir,
        path_prefix=config.data.path_prefix,
        separator=config.data.path_label_separator,
        num_classes=config.model.num_classes,
        class_names_path=config.data.class_names_path,
    )


def _dataset_name(config: Config, split: str) -> str:
    return config.test.dataset if split == "test" else config.train.dataset


def clip_spec(config: Config, dataset: str) -> ClipSpec:
    """Which frames make a clip of this data set."""
    return ClipSpec(
        num_frames=config.data.num_frames,
        sampling_rate=config.data.sampling_rate,
        target_fps=config.data.target_fps,
        policy=catalog.find_dataset(dataset).policy,
        jitter_fps=config.data.train_jitter_fps,
        offset_sampling=config.data.use_offset_sampling,
    )


def view_plan(config: Config, *, num_clips: int, num_crops: int) -> ViewPlan:
    """The views of a test. As in PySlowFast, three crops are cut from a picture as small as they
    allow, and so is every crop of the "segments" policy; a single crop from a larger one."""
    segments = catalog.find_dataset(config.test.dataset).policy == "segments"
    crop_px = config.data.test_crop_size
    small = segments or num_crops == 3
    scale_px = crop_px if small else config.data.train_jitter_scales[0]
    return ViewPlan(num_clips=num_clips, num_crops=num_crops, scale_px=scale_px, crop_px=crop_px)


def test_plans(config: Config) -> list[ViewPlan]:
    """The view plans that a test runs through, one after another."""
    counts = config.test.num_temporal_clips or (config.test.num_ensemble_views,)
    if counts == (-1,):
        counts = CLIP_COUNTS_OF_MINUS_1
    crops = config.test.num_spatial_crops
    return [view_plan(config, num_clips=count, num_crops=crops) for count in counts]


def build_train_loader(config: Config, videos: VideoList) -> Loader:
    """The training batches: ``AUG.NUM_SAMPLE`` augmented views of each video."""
    catalog.check_flip(config.train.dataset, config.data.random_flip)
    data, aug = config.data, config.aug
    transform = TrainTransform(
        crop_px=data.train_crop_size,
        scales_px=data.train_jitter_scales,
        inverse_scales=data.inv_uniform_sample,
        area_range=data.train_jitter_scales_relative,
        aspect_range=data.train_jitter_aspect_relative,
        flip=data.random_flip,
        randaugment=aug.aa_type if aug.enable else "",
        interpolation=aug.interpolation,
    )
    dataset = TrainVideos(
        videos,
        clip_spec(config, config.train.dataset),
        transform=transform,
        num_views=aug.num_sample,
        seed=config.rng_seed,
        backend=data.decoding_backend,
    )
    return train_loader(
        dataset,
        batch_size=config.train.batch_size,
        seed=config.rng_seed,
        num_workers=config.data_loader.num_workers,
        pin_memory=config.data_loader.pin_memory,
    )


def build_val_loader(config: Config, videos: VideoList) -> Loader:
    """The centre view of each video, in the order of the list."""
    data = config.data
    scale_px = max(data.train_jitter_scales[0], data.train_crop_size)
    plan = ViewPlan(num_clips=1, num_crops=1, scale_px=scale_px, crop_px=data.train_crop_size)
    return _eval_loader(config, videos, config.train.dataset, plan, config.train.batch_size)


def build_test_loader(config: Config, videos: VideoList, plan: ViewPlan) -> Loader:
    """Every view of each video, in the order of the list; a video is decoded once.

    A batch holds as many videos as fill a forward pass of ``TEST.BATCH_SIZE`` views.
    """
    num_videos = max(config.test.batch_size // plan.num_views, 1)
    return _eval_loader(config, videos, config.test.dataset, plan, num_videos)


def _eval_loader(
    config: Config, videos: VideoList, dataset: str, plan: ViewPlan, batch_size: int
) -> Loader:
    views = EvalVideos(
        videos, clip_spec(config, dataset), plan, backend=config.data.decoding_backend
    )
    return eval_loader(
        views,
        batch_size=batch_size,
        num_workers=config.data_loader.num_workers,
        pin_memory=config.data_loader.pin_memory,
    )


def frames_seen(config: Config, video: VideoRecord, plan: ViewPlan) -> list[np.ndarray]:
    """The frames of the middle view of a test video as the model sees them: T of (S, S, 3) uint8.

    Raises:
        DecodeError: the video cannot be read.
    """
    spec = clip_spec(config, config.test.dataset)
    clips = read_clips(video, spec, plan.num_clips, backend=config.data.decoding_backend)
    view = views_of_clips(clips, plan)[plan.num_views // 2]  # (3, T, S, S)
    return list(view.permute(1, 2, 3, 0).numpy())


def prepare_views(config: Config) -> Callable[[ClipBatch], Tensor]:
    """Normalisation on the device: a batch -> (B*V, 3, T, S, S) float32."""
    mean, std = channel_statistics(config)
    return lambda batch: normalise(batch.pixels, mean, std)


# ---- what training needs ----


def build_objective(config: Config) -> Recognition:
    """Normalise, erase and mix on the device, then the loss."""
    return Recognition(_prepare_training(config), pick(LOSSES, config.model.loss_func, "loss"))


def _prepare_training(
    config: Config,
) -> Callable[[ClipBatch, np.random.Generator], tuple[Tensor, Tensor]]:
    views = prepare_views(config)
    aug, mixup, num_classes = config.aug, config.mixup, config.model.num_classes

    def prepare(batch: ClipBatch, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        inputs = views(batch)  # (B*V, 3, T, S, S)
        labels = batch.labels.repeat_interleave(len(batch.views))
        if aug.enable and aug.re_prob > 0:
            inputs = random_erase(
                inputs, rng, prob=aug.re_prob, mode=aug.re_mode, max_count=aug.re_count
            )
        if not mixup.enable:
            return inputs, labels
        return mix(
            inputs,
            labels,
            rng,
            num_classes=num_classes,
            alpha=mixup.alpha,
            cutmix_alpha=mixup.cutmix_alpha,
            prob=mixup.prob,
            switch_prob=mixup.switch_prob,
            label_smoothing=mixup.label_smooth_value,
        )

    return prepare


def build_optimizer(config: Config, model: MViT) -> Optimizer:
    """The optimizer over PySlowFast's parameter groups."""
    solver = config.solver
    groups = parameter_groups(
        model.named_parameters(),
        weight_decay=solver.weight_decay,
        zero_wd_1d=solver.zero_wd_1d_param,
        no_decay_names=model.no_weight_decay_names() if config.mvit.zero_decay_pos_cls else (),
        layer_decay=solver.layer_decay,
        depth=len(model.blocks),
    )
    return optimizer_over(
        groups,
        method=solver.optimizing_method,
        lr=solver.base_lr,
        momentum=solver.momentum,
        dampening=solver.dampening,
        nesterov=solver.nesterov,
        betas=solver.betas,
    )


def build_schedule(config: Config) -> Schedule:
    """The learning rate at a fractional epoch; scaled by the nodes if the config says so."""
    solver = config.solver
    factor = config.num_shards if solver.base_lr_scale_num_shards else 1
    return schedule_of(
        solver.lr_policy,
        base_lr=solver.base_lr * factor,
        end_lr=solver.cosine_end_lr * factor,
        max_epoch=solver.max_epoch,
        warmup_epochs=solver.warmup_epochs,
        warmup_start_lr=solver.warmup_start_lr * factor,
        cosine_after_warmup=solver.cosine_after_warmup,
        steps=solver.steps,
        lrs=solver.lrs,
    )


def load_start_weights(config: Config, model: MViT) -> LoadReport:
    """Fill the model from ``TRAIN.CHECKPOINT_FILE_PATH``, inflating an image model's weights."""
    train = config.train
    inflate = "repeat" if train.checkpoint_in_init else "center"
    return load_weights(
        model,
        train.checkpoint_file_path,
        inflate="mean" if train.checkpoint_inflate else inflate,
        clear_name_patterns=train.checkpoint_clear_name_pattern,
    )


def model_of_checkpoint(path: str | Path, config_file: str | Path | None = None) -> MViT:
    """A trained model, ready to predict, from a checkpoint of this project or of PySlowFast.

    Args:
        path: the checkpoint.
        config_file: the config it was trained with; None to take the one inside the checkpoint.

    Raises:
        WeightsError: the file cannot be read or does not fit the config.
        ConfigError: the checkpoint holds no config and none is given.
    """
    content = read_torch(path) if config_file is None else {}
    if config_file is not None:
        config = load_config(config_file)
    elif isinstance(content, dict) and isinstance(content.get("cfg"), str):
        config = load_config_text(content["cfg"], source=f"the config in {path}")
    else:
        raise ConfigError(f"{path}: holds no config. Name the one it was trained with (--cfg)")
    model = build_model(config)
    load_weights(model, path, head="keep")
    model.input_spec = content.get(OUR_KEY, {}).get("input_spec") or model.input_spec
    return model.eval()
