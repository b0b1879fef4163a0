"""What training does, from a config to the files in ``OUTPUT_DIR``."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from slowfast_mvit import build
from slowfast_mvit.cli.start import started, write_config
from slowfast_mvit.config import Config
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.loader import Loader
from slowfast_mvit.engine.test import validate
from slowfast_mvit.engine.train import TrainSettings, train
from slowfast_mvit.models import MViT
from slowfast_mvit.runtime.checkpoint import latest_checkpoint, training_epoch
from slowfast_mvit.runtime.distributed import pick_device
from slowfast_mvit.storage import local_copy

logger = logging.getLogger(__name__)


def train_job(config: Config) -> None:
    """Train, resuming where the run stopped; validate on the way."""
    with started(config) as output_dir:
        _train(config, output_dir)


def _train(config: Config, output_dir: Path) -> None:
    device = pick_device(config.num_gpus)
    videos = build.build_videos(config, "train")
    val_videos = build.build_videos(config, "val")
    loader = build.build_train_loader(config, videos)
    val_loader = build.build_val_loader(config, val_videos)

    torch.manual_seed(config.rng_seed)
    model = build.build_model(config)
    model.input_spec = build.input_spec(config, videos.class_names)
    resume_from = _starting_point(config, output_dir, model)
    model.to(device)
    objective = build.build_objective(config)
    _tell_plan(config, device, model, loader, videos, val_videos)
    write_config(config, output_dir)

    train(
        model,
        objective,
        optimizer=build.build_optimizer(config, model),
        lr_at=build.build_schedule(config),
        loader=loader,
        settings=TrainSettings(
            max_epoch=config.solver.max_epoch,
            seed=config.rng_seed,
            checkpoint_period=config.train.checkpoint_period,
            eval_period=config.train.eval_period,
            log_period=config.log_period,
            precision=config.train.precision,
            clip_value=config.solver.clip_grad_val,
            clip_norm=config.solver.clip_grad_l2norm,
            max_failed_fraction=config.data.max_failed_fraction,
        ),
        device=device,
        output_dir=output_dir,
        cfg_text=config.to_yaml(),
        extra={"input_spec": model.input_spec},
        validate=lambda epoch: validate(
            model,
            val_loader,
            build.prepare_views(config),
            objective.loss,
            device=device,
            forward_batch=build.val_forward_batch(config, val_videos),
            failed_path=output_dir / "failed_videos.csv",
            epoch=epoch,
        ),
        resume_from=resume_from,
    )


def _starting_point(config: Config, output_dir: Path, model: MViT) -> Path | None:
    """The checkpoint to go on from, or None after filling the model with weights to start from."""
    newest = latest_checkpoint(output_dir) if config.train.auto_resume else None
    path = config.train.checkpoint_file_path
    if newest is not None or not path:
        return newest
    if config.train.checkpoint_epoch_reset or training_epoch(path) is None:
        build.load_start_weights(config, model)
        return None
    return local_copy(path)


def _tell_plan(
    config: Config,
    device: torch.device,
    model: MViT,
    loader: Loader,
    videos: VideoList,
    val_videos: VideoList,
) -> None:
    """What is about to happen, in words, once."""
    if config.log_model_info:
        num_params = sum(parameter.numel() for parameter in model.parameters())
        logger.info("model: %d blocks, %s parameters", len(model.blocks), f"{num_params:,}")
    if config.num_gpus > 1:
        logger.warning(
            "NUM_GPUS is %d, but this process trains alone on one device (%s): all %d videos of "
            "TRAIN.BATCH_SIZE go through it, and the learning rate stays %r",
            config.num_gpus,
            device,
            config.train.batch_size,
            config.solver.base_lr,
        )
    logger.info(
        "training on %d videos (%s), validating on %d: %d epochs of %d steps, %d videos x %d views "
        "a step, clips of %s, on %s in %s",
        len(videos),
        config.train.dataset,
        len(val_videos),
        config.solver.max_epoch,
        len(loader),
        config.train.batch_size,
        config.aug.num_sample,
        build.clip_spec(config, config.train.dataset),
        device,
        config.train.precision,
    )
