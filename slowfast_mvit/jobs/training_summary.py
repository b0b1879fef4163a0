"""The plan of a training run, logged once, so that a wrong batch or rate is seen at step 0."""

from __future__ import annotations

import logging

import torch

from slowfast_mvit import builders
from slowfast_mvit.config import Config
from slowfast_mvit.jobs.run import Run
from slowfast_mvit.models import MViT
from slowfast_mvit.runtime.distributed import is_launched, local_world_size, num_nodes, world_size
from slowfast_mvit.runtime.precision import lacks_instructions

logger = logging.getLogger(__name__)

WITHOUT_INSTRUCTIONS = {
    "bf16": "it is no faster than fp32 and less exact, and ten times slower with dropout inside of "
    "the blocks (MVIT.DROPOUT_RATE) or MODEL.ACT_CHECKPOINT selective",
    "fp16": "its products take about a hundred times as long as those of fp32",
}


def log_model(config: Config, model: MViT) -> None:
    """Log the size of the model."""
    if config.log_model_info:
        num_params = sum(parameter.numel() for parameter in model.parameters())
        logger.info("model: %d blocks, %s parameters", len(model.blocks), f"{num_params:,}")


def log_plan(run: Run, *, num_steps: int, num_train: int, num_val: int) -> None:
    """Log ranks, effective batch and learning rate, and what they derive from.

    Args:
        num_steps: steps of the optimizer in an epoch.
        num_train: videos in the training list.
        num_val: videos in the validation list.
    """
    config, device = run.config, run.device
    logger.info(
        "training on %s videos (%s), validating on %s: %d epochs of %s steps, clips of %s",
        f"{num_train:,}",
        config.train.dataset,
        f"{num_val:,}",
        config.solver.max_epoch,
        f"{num_steps:,}",
        builders.clip_spec(config, config.train.dataset),
    )
    logger.info("%s", describe_processes(config, device))
    logger.info("%s", describe_batch(config))
    logger.info("%s", describe_rate(config))
    if config.num_gpus > 0 and device.type == "cpu":
        logger.warning(
            "NUM_GPUS is %d, but torch sees no GPU here (no driver, or a torch built for CPUs?), "
            "so the CPU does the work. NUM_GPUS 0 asks for that",
            config.num_gpus,
        )
    if lacks_instructions(device, config.train.precision):
        logger.warning(
            "TRAIN.PRECISION is %s, for which this CPU has no instructions: %s. Take "
            "TRAIN.PRECISION fp32",
            config.train.precision,
            WITHOUT_INSTRUCTIONS[config.train.precision],
        )
    if config.num_gpus > 1 and not is_launched():
        logger.warning(
            "NUM_GPUS is %d, but this process trains alone on one device (%s): all %d videos of "
            "TRAIN.BATCH_SIZE go through it, and the learning rate stays %r",
            config.num_gpus,
            device,
            config.train.batch_size,
            config.solver.base_lr,
        )


def describe_processes(config: Config, device: torch.device) -> str:
    """Return how many processes compute what, and how they hold the model."""
    if world_size() == 1:
        return f"one process, on {device} in {config.train.precision}"
    strategy = {"ddp": "each with the whole model", "fsdp": "each with a part of the weights"}
    return (
        f"{world_size()} processes ({_count(num_nodes(), 'node')} x {local_world_size()}), "
        f"{strategy[config.train.strategy]} ({config.train.strategy}), on {device.type} in "
        f"{config.train.precision}"
    )


def describe_batch(config: Config) -> str:
    """The effective batch: what one step of the optimizer sees."""
    accum, views = config.train.grad_accum_steps, config.aug.num_sample
    num_videos = builders.videos_per_process(config) * world_size() * accum
    factors = [f"{builders.videos_per_process(config)} videos a process"]
    if world_size() > 1:
        factors.append(f"{world_size()} processes")
    if accum > 1:
        factors.append(f"{accum} batches a step (TRAIN.GRAD_ACCUM_STEPS)")
    clips = f", {num_videos * views} clips (AUG.NUM_SAMPLE {views})" if views > 1 else ""
    return (
        f"effective batch: {num_videos} videos{clips} a step = {' x '.join(factors)}; "
        f"TRAIN.BATCH_SIZE {config.train.batch_size} counts the videos of a node"
    )


def describe_rate(config: Config) -> str:
    """The highest learning rate, and whether it grew with the number of nodes."""
    solver = config.solver
    if not solver.base_lr_scale_num_shards:
        return f"learning rate: {solver.base_lr!r} (SOLVER.BASE_LR, whatever the number of nodes)"
    return (
        f"learning rate: {solver.base_lr * num_nodes()!r} = SOLVER.BASE_LR {solver.base_lr!r} x "
        f"{_count(num_nodes(), 'node')} (SOLVER.BASE_LR_SCALE_NUM_SHARDS)"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
