"""Lists, loaders and view plans that the ``DATA``, ``AUG`` and ``TEST`` keys describe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
from torch import Tensor

from slowfast_mvit.config import Config
from slowfast_mvit.data.lists import VideoList, catalog
from slowfast_mvit.data.loading.items import EvalVideos, TrainVideos, read_views
from slowfast_mvit.data.loading.loader import Loader, eval_loader, train_loader
from slowfast_mvit.data.loading.worker_pool import WorkerSettings
from slowfast_mvit.data.video.readers import working_reader
from slowfast_mvit.data.views.geometry import GREY
from slowfast_mvit.data.views.pixels import normalise
from slowfast_mvit.data.views.train_views import TrainTransform
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.runtime.distributed import local_world_size, rank, world_size
from slowfast_mvit.structures import ClipBatch, ClipSpec, VideoRecord, ViewPlan

CLIP_COUNTS_OF_MINUS_1 = (1, 3, 5, 7, 10)  # what PySlowFast tests for NUM_ENSEMBLE_VIEWS -1

# Random crops of images unless a file sets them: timm's, which PySlowFast takes for ImageNet.
IMAGE_AREA_RANGE = (0.08, 1.0)
IMAGE_ASPECT_RANGE = (3 / 4, 4 / 3)

LOADER_MARGIN_S = 60.0  # for a worker that is ended and replaced after DATA_LOADER.TIMEOUT_S


def build_videos(config: Config, split: str) -> VideoList:
    """Read and check the list of a split: "train", "val" or "test"."""
    return catalog.open_list(
        config.test.dataset if split == "test" else config.train.dataset,
        split,
        data_dir=config.data.path_to_data_dir,
        path_prefix=config.data.path_prefix,
        separator=config.data.path_label_separator,
        num_classes=config.model.num_classes,
        class_names_path=config.data.class_names_path,
    )


def clip_spec(config: Config, dataset: str) -> ClipSpec:
    """Return the frame sampling of the clips of this data set."""
    return ClipSpec(
        num_frames=config.data.num_frames,
        sampling_rate=config.data.sampling_rate,
        target_fps=config.data.target_fps,
        policy=catalog.find_dataset(dataset).policy,
        jitter_fps=config.data.train_jitter_fps,
        offset_sampling=config.data.use_offset_sampling,
        segment_clips=config.test.segment_clips,
    )


def view_plan(config: Config, *, num_clips: int, num_crops: int) -> ViewPlan:
    """Return the views of a test.

    As in PySlowFast, three crops, and all crops of the "segments" policy, are cut from the smallest
    frame that contains them; a single crop from a larger one.
    """
    if config.mvit.patch_2d:
        crop_px = config.data.test_crop_size
        return _image_plan(config, crop_px, num_clips=num_clips, num_crops=num_crops)
    segments = catalog.find_dataset(config.test.dataset).policy == "segments"
    crop_px = config.data.test_crop_size
    small = segments or num_crops == 3
    scale_px = crop_px if small else max(config.data.train_jitter_scales[0], crop_px)
    return ViewPlan(num_clips=num_clips, num_crops=num_crops, scale_px=scale_px, crop_px=crop_px)


def _image_plan(
    config: Config, crop_px: int, *, num_clips: int = 1, num_crops: int = 1
) -> ViewPlan:
    """Return the views of an image: ``DATA.IN_VAL_CROP_RATIO``, or three along its longer side."""
    ratio = config.data.in_val_crop_ratio
    scale_px = crop_px if num_crops == 3 or not ratio else int(crop_px / ratio)
    return ViewPlan(
        num_clips=num_clips,
        num_crops=num_crops,
        scale_px=scale_px,
        crop_px=crop_px,
        resizing="image" if ratio else "whole image",
    )


def test_plans(config: Config) -> list[ViewPlan]:
    """Return the view plans of a test: one for each number of clips, all in one pass."""
    counts = config.test.num_temporal_clips or (config.test.num_ensemble_views,)
    if counts == (-1,):
        counts = CLIP_COUNTS_OF_MINUS_1
    crops = config.test.num_spatial_crops
    return [view_plan(config, num_clips=count, num_crops=crops) for count in dict.fromkeys(counts)]


def config_of_plan(config: Config, plan: ViewPlan) -> Config:
    """Return the config of a test with this plan alone."""
    test = replace(config.test, num_ensemble_views=plan.num_clips, num_temporal_clips=())
    return replace(config, test=test)


def build_train_loader(config: Config, videos: VideoList) -> Loader:
    """Load the training batches of this process: ``AUG.NUM_SAMPLE`` views of each video."""
    catalog.check_flip(config.train.dataset, config.data.random_flip)
    dataset = TrainVideos(
        videos,
        clip_spec(config, config.train.dataset),
        transform=_train_transform(config),
        num_views=config.aug.num_sample,
        seed=config.rng_seed,
        backend=working_reader(config.data.decoding_backend),
    )
    return train_loader(
        dataset,
        batch_size=videos_per_process(config),
        seed=config.rng_seed,
        rank=rank(),
        world_size=world_size(),
        workers=WorkerSettings(**asdict(config.data_loader)),
    )


def _train_transform(config: Config) -> TrainTransform:
    """Return the augmentation of clips, or of images.

    Images have timm's, which is PySlowFast's for ImageNet, unless a file sets another: a random
    resized crop, then RandAugment, filled with the mean colour where clips have grey.
    """
    data, aug, images = config.data, config.aug, config.mvit.patch_2d
    timms_order = images and not config.is_set("AUG.AA_METHOD")
    return TrainTransform(
        crop_px=data.train_crop_size,
        scales_px=data.train_jitter_scales,
        inverse_scales=data.inv_uniform_sample,
        area_range=data.train_jitter_scales_relative or (IMAGE_AREA_RANGE if images else ()),
        aspect_range=data.train_jitter_aspect_relative or (IMAGE_ASPECT_RANGE if images else ()),
        flip=data.random_flip,
        randaugment=aug.aa_type if aug.enable else "",
        interpolation=aug.interpolation,
        method="crop_first" if timms_order else aug.aa_method,
        colour_jitter=(aug.color_jitter or 0.0) if aug.enable else 0.0,
        resizing="image" if images else "clip",
        fill=_mean_colour(config) if images else GREY,
    )


def _mean_colour(config: Config) -> tuple[int, int, int]:
    red, green, blue = (min(255, round(255 * mean)) for mean in channel_statistics(config)[0])
    return red, green, blue


def hang_limit_s(config: Config) -> float:
    """Return the time limit of a rank without progress; the loader waits less for a video."""
    return max(config.dist_timeout_s, config.data_loader.timeout_s + LOADER_MARGIN_S)


def videos_per_process(config: Config) -> int:
    """Return the videos in a training batch of one process: its share of those of its node.

    Raises:
        ConfigError: the processes of a node cannot share them evenly.
    """
    num_videos, num_processes = config.train.batch_size, local_world_size()
    if num_videos % num_processes:
        raise ConfigError(
            f"TRAIN.BATCH_SIZE {num_videos} counts the videos of a node, and cannot be divided "
            f"evenly by its {num_processes} processes. Choose a multiple of {num_processes}"
        )
    return num_videos // num_processes


def build_val_loader(config: Config, videos: VideoList) -> Loader:
    """Load the centre view of each video of this rank's part, in the order of the list."""
    data = config.data
    if config.mvit.patch_2d:
        plan = _image_plan(config, data.train_crop_size)
    else:
        scale_px = max(data.train_jitter_scales[0], data.train_crop_size)
        plan = ViewPlan(num_clips=1, num_crops=1, scale_px=scale_px, crop_px=data.train_crop_size)
    # With offset sampling a single clip is in the middle; without, it would be the first.
    clip = replace(clip_spec(config, config.train.dataset), offset_sampling=True)
    return _eval_loader(config, videos, clip, plan, batch_size=val_forward_batch(config, videos))


def build_test_loader(
    config: Config, videos: VideoList, *plans: ViewPlan, indices: Sequence[int] | None = None
) -> Loader:
    """Load every view of each video, plan by plan, in the order of the list.

    A video is decoded once. A rank has its contiguous part of ``indices``, all of the list if None.
    A batch contains as many videos as fill a forward pass.
    """
    num_views = sum(plan.num_views for plan in plans)
    num_videos = max(test_forward_batch(config, videos) // num_views, 1)
    clip = clip_spec(config, config.test.dataset)
    return _eval_loader(config, videos, clip, *plans, batch_size=num_videos, indices=indices)


def test_forward_batch(config: Config, videos: VideoList) -> int:
    """Return the views in each forward pass of a test.

    It is the share of ``TEST.BATCH_SIZE`` of one device of a node in the config, and never more
    than there are videos. The last bits of a score depend on this size, so it must not depend on
    the number of processes.
    """
    return _forward_batch(config, config.test.batch_size, videos)


def val_forward_batch(config: Config, videos: VideoList) -> int:
    """Return the views in each forward pass of validation, of ``TRAIN.BATCH_SIZE``."""
    return _forward_batch(config, config.train.batch_size, videos)


def _forward_batch(config: Config, batch_size: int, videos: VideoList) -> int:
    return min(max(batch_size // max(config.num_gpus, 1), 1), len(videos))


def _eval_loader(
    config: Config,
    videos: VideoList,
    clip: ClipSpec,
    *plans: ViewPlan,
    batch_size: int,
    indices: Sequence[int] | None = None,
) -> Loader:
    views = EvalVideos(videos, clip, *plans, backend=working_reader(config.data.decoding_backend))
    return eval_loader(
        views,
        batch_size=batch_size,
        indices=indices,
        rank=rank(),
        world_size=world_size(),
        workers=WorkerSettings(**asdict(config.data_loader)),
    )


def frames_seen(config: Config, video: VideoRecord, plan: ViewPlan) -> list[np.ndarray]:
    """Return the frames of the middle view of a test video: T of (S, S, 3) uint8.

    Raises:
        DecodeError: the video cannot be read.
    """
    spec, backend = clip_spec(config, config.test.dataset), config.data.decoding_backend
    views, places = read_views(video, spec, plan, backend=working_reader(backend))
    view = views[places[plan.num_views // 2]]  # (3, T, S, S)
    return list(view.permute(1, 2, 3, 0).numpy())


def prepare_views(config: Config) -> Callable[[ClipBatch], Tensor]:
    """Return the normalisation on the device: a batch -> (B*V, 3, T, S, S) float32."""
    mean, std = channel_statistics(config)
    return lambda batch: normalise(batch.pixels, mean, std)


def channel_statistics(config: Config) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of R, G and B.

    With ``REVERSE_INPUT_CHANNEL`` in reverse order: PySlowFast read frames as BGR, normalised them,
    and then reversed the channels, so that red was normalised with the numbers of blue.
    """
    step = -1 if config.data.reverse_input_channel else 1
    return config.data.mean[::step], config.data.std[::step]
