"""Training, from a config to the files in ``OUTPUT_DIR``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
import yaml
from torch import nn

from slowfast_mvit import builders
from slowfast_mvit.config import Config
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.lists.check_records import report_damaged
from slowfast_mvit.engine.data_stall import DataStallHint
from slowfast_mvit.engine.reporter import ReportedLoader, Reporter
from slowfast_mvit.engine.settings import TrainSettings, steps_in_epoch
from slowfast_mvit.engine.state import Training, TrainingState
from slowfast_mvit.engine.test import validate
from slowfast_mvit.engine.train import train
from slowfast_mvit.engine.validation import Validate
from slowfast_mvit.fast import fast_paths_of
from slowfast_mvit.jobs.agreement import require_same_training, warn_of_labels
from slowfast_mvit.jobs.checkpoints import checkpoint_to_resume, explained_resume
from slowfast_mvit.jobs.model_info import log_model_info
from slowfast_mvit.jobs.run import Run, nodes_of_run, started, write_config
from slowfast_mvit.models import MViT
from slowfast_mvit.optim.averaging import MovingAverage, moving_average
from slowfast_mvit.optim.objectives import Loss
from slowfast_mvit.optim.schedule import Peak
from slowfast_mvit.runtime.compiling import compile_where_it_helps
from slowfast_mvit.runtime.distributed import (
    from_main,
    is_main,
    local_world_size,
    num_nodes,
    on_main,
    require_agreement,
    world_size,
)
from slowfast_mvit.runtime.launch_environment import available_cores, is_launched
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.runtime.metric_writers import MetricWriter, TensorBoard, Wandb
from slowfast_mvit.runtime.numerics import numerics_of
from slowfast_mvit.runtime.parallel import evaluation_model, parallelise
from slowfast_mvit.runtime.precision import lacks_instructions, loss_scaler

logger = logging.getLogger(__name__)

WITHOUT_INSTRUCTIONS = {
    "bf16": "it is no faster than fp32 and less exact, and ten times slower with dropout inside of "
    "the blocks (MVIT.DROPOUT_RATE) or MODEL.ACT_CHECKPOINT selective",
    "fp16": "its products take about a hundred times as long as those of fp32",
}


def train_job(config: Config, *, then_tests: bool = False, takeover: bool = False) -> None:
    """Train, resuming where the run stopped; validate on the way.

    Args:
        config: what to train.
        then_tests: a test follows. Its list is read before training starts, so that errors in it
            are reported at once.
        takeover: train although another process seems to train in ``OUTPUT_DIR``.
    """
    with started(config, "train", takeover=takeover, is_last_job=not then_tests) as run:
        _train(run, then_tests)


def _train(run: Run, then_tests: bool) -> None:
    config = run.config
    videos = builders.build_videos(config, "train")
    val_videos = builders.build_videos(config, "val")
    if then_tests:
        builders.build_videos(config, "test")
    require_agreement({"training list": videos.digest(), "validation list": val_videos.digest()})
    warn_of_labels(videos, val_videos, config.model.num_classes)
    data_dir = config.data.path_to_data_dir
    report_damaged(videos, data_dir, max_fraction=config.data.max_failed_fraction)
    report_damaged(val_videos, data_dir)
    loader = builders.build_train_loader(config, videos)
    settings = _settings(config)
    num_steps = steps_in_epoch(loader, settings.accum_steps)

    torch.manual_seed(config.rng_seed)  # every rank starts with the same weights
    model = builders.build_model(config)
    model.input_spec = builders.input_spec(config, videos.class_names)
    resume_from = checkpoint_to_resume(config, run.output_dir, model)
    numerics = from_main(
        {**numerics_of(run.device), "fast paths": fast_paths_of(model, run.device)}
    )
    if resume_from is not None:
        on_main(lambda: require_same_training(config, videos, resume_from, numerics))
    frozen = builders.freeze_parameters(config, model)
    if frozen:
        num_all, names = sum(1 for _ in model.parameters()), ", ".join(frozen)
        logger.info(
            "TRAIN.FREEZE: %d of %d parameters are not trained: %s", len(frozen), num_all, names
        )
    model.to(run.device)
    log_model_info(config, model, crop_px=config.data.train_crop_size)
    average = moving_average(model, config.train.ema_decay) if config.train.ema_decay else None
    if config.model.compile:
        compile_where_it_helps(model)
    module, evaluated = _parallel(run, model, average)
    objective = builders.build_objective(config)
    lr_at = builders.build_schedule(config, num_nodes(), num_steps)
    peak = builders.peak_rate(config, lr_at, num_steps)
    log_plan(run, peak, num_steps=num_steps, num_train=len(videos), num_val=len(val_videos))
    if is_main():
        write_config(config, run.output_dir)

    with (
        opened_reporter(run, steps_per_epoch=num_steps) as reporter,
        explained_resume(config, resume_from),
    ):
        optimizer = builders.build_optimizer(config, model)
        scaler = loss_scaler(run.device, settings.precision)
        train(
            Training(
                TrainingState(model, module, optimizer, scaler, average),
                objective,
                lr_at,
                loader,
                settings,
                run.device,
                run.output_dir,
                reporter,
                cfg_text=config.without_addresses().to_yaml(),
                extra={"input_spec": model.input_spec, "numerics": numerics},
                before_saving=run.require_lock,
            ),
            validate=_validation(run, val_videos, objective.loss, evaluated),
            resume_from=resume_from,
        )


def _validation(
    run: Run, videos: VideoList, loss: Loss, evaluated: Callable[[], nn.Module]
) -> Validate:
    """Return the validation of the loop; ``evaluated`` returns the model."""
    config, loader = run.config, builders.build_val_loader(run.config, videos)

    def validate_epoch(epoch: int, should_stop: Callable[[], None]) -> Mapping[str, float]:
        reported = ReportedLoader(
            loader,
            epoch_validated=epoch,
            max_epoch=config.solver.max_epoch,
            reporter=Reporter(StatsLog(run.output_dir)),
            log_period=config.log_period,
        )
        return validate(
            evaluated(),
            reported,
            builders.prepare_views(config),
            loss,
            device=run.device,
            forward_batch=builders.val_forward_batch(config, videos),
            failed_path=run.output_dir / "failed_videos.csv",
            epoch=epoch,
            should_stop=should_stop,
        )

    return validate_epoch


def _settings(config: Config) -> TrainSettings:
    return TrainSettings(
        max_epoch=config.solver.max_epoch,
        seed=config.rng_seed,
        checkpoint_period=config.train.checkpoint_period,
        checkpoint_steps=config.train.checkpoint_steps,
        eval_period=config.train.eval_period,
        early_stopping=config.train.early_stopping,
        log_period=config.log_period,
        accum_steps=config.train.grad_accum_steps,
        precision=config.train.precision,
        clip_value=config.solver.clip_grad_val,
        clip_norm=config.solver.clip_grad_l2norm,
        max_failed_fraction=config.data.max_failed_fraction,
        max_skipped_steps=config.train.max_skipped_steps,
    )


def _parallel(
    run: Run, model: MViT, average: MovingAverage | None
) -> tuple[nn.Module, Callable[[], nn.Module]]:
    """Return the module to train, and a function that returns the model to validate."""
    config = run.config
    parallel = partial(
        parallelise,
        strategy=config.train.strategy,
        device=run.device,
        precision=config.train.precision,
    )
    module = parallel(model, find_unused=config.model.detach_final_fc)
    if average is None:
        return module, partial(evaluation_model, module, model)
    if config.train.strategy == "fsdp":
        parallel(average.module)
    return module, partial(evaluation_model, average.module, average.module)


@contextlib.contextmanager
def opened_reporter(run: Run, *, steps_per_epoch: int) -> Iterator[Reporter]:
    """Open the JSON log, TensorBoard and Weights & Biases, as the config asks for.

    Args:
        run: whose records are reported.
        steps_per_epoch: steps of the optimizer.

    Raises:
        UserError: one of them is not installed.
    """
    config, output_dir = run.config, run.output_dir
    writers = list[MetricWriter]()
    if is_main():
        hint = DataStallHint(
            num_workers=config.data_loader.num_workers * local_world_size(),
            num_cores=available_cores(),
            can_fuse=config.aug.enable and config.aug.aa_method != "fused",
        )
        writers.append(hint)
    if is_main() and config.tensorboard.enable:
        board = TensorBoard(
            output_dir / (config.tensorboard.log_dir or "tensorboard"),
            steps_per_epoch=steps_per_epoch,
            config_text=config.to_yaml(),
        )
        writers.append(board)
    if is_main() and config.wandb.enable:
        wandb = Wandb(
            output_dir,
            project=config.wandb.project,
            config=yaml.safe_load(config.to_yaml()),
            steps_per_epoch=steps_per_epoch,
        )
        writers.append(wandb)
    with contextlib.ExitStack() as stack:
        for writer in writers:
            stack.callback(writer.close)
        yield Reporter(StatsLog(output_dir), writers)


# The plan of a run, logged before it starts, so that a wrong batch size or rate is noticed


def log_plan(run: Run, peak: Peak, *, num_steps: int, num_train: int, num_val: int) -> None:
    """Log ranks, effective batch size and learning rate, and how they are derived.

    Args:
        peak: the highest learning rate.
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
    logger.info("%s", _describe_processes(config, device))
    logger.info("%s", _describe_batch(config))
    logger.info("%s", _describe_rate(config, peak))
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


def _describe_processes(config: Config, device: torch.device) -> str:
    """Describe the processes, their device, precision and strategy."""
    if world_size() == 1:
        return f"one process, on {device} in {config.train.precision}"
    strategy = {"ddp": "each with the whole model", "fsdp": "each with a part of the weights"}
    return (
        f"{world_size()} processes ({nodes_of_run()} x {local_world_size()}), "
        f"{strategy[config.train.strategy]} ({config.train.strategy}), on {device.type} in "
        f"{config.train.precision}"
    )


def _describe_batch(config: Config) -> str:
    """Describe the effective batch of one step of the optimizer."""
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


def _describe_rate(config: Config, peak: Peak) -> str:
    """Describe the highest learning rate, which may scale with the number of nodes."""
    solver = config.solver
    source = f"SOLVER.BASE_LR {solver.base_lr!r}"
    if solver.base_lr_scale_num_shards:
        source += f" x {nodes_of_run()} (SOLVER.BASE_LR_SCALE_NUM_SHARDS)"
    else:
        source += ", whatever the number of nodes"
    if solver.layer_decay < 1:
        source += f"; that of the head, less in each layer below (x {solver.layer_decay:g})"
    return (
        f"learning rate: at most {peak.lr:.4g}, in epoch {int(peak.epoch) + 1} of "
        f"{solver.max_epoch}; {source}"
    )
