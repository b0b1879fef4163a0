"""Training, from a config to the files in ``OUTPUT_DIR``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
import yaml
from torch import nn
from torch.optim.swa_utils import AveragedModel

from slowfast_mvit import builders
from slowfast_mvit.config import Config
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.engine.data_stall import DataStallHint
from slowfast_mvit.engine.reporter import ReportedLoader, Reporter
from slowfast_mvit.engine.resume import RunState
from slowfast_mvit.engine.settings import TrainSettings, steps_in_epoch
from slowfast_mvit.engine.test import validate
from slowfast_mvit.engine.train import Training, train
from slowfast_mvit.engine.validation import Validate
from slowfast_mvit.jobs.initial_checkpoint import (
    LOAD_REPORT,
    explained_resume,
    require_epochs_left,
    write_load_report,
)
from slowfast_mvit.jobs.run import Run, started, write_config
from slowfast_mvit.jobs.training_summary import log_model, log_plan
from slowfast_mvit.models import MViT
from slowfast_mvit.optim.averaging import moving_average
from slowfast_mvit.optim.objectives import Loss
from slowfast_mvit.runtime.checkpoint import latest_checkpoint, training_epoch
from slowfast_mvit.runtime.checkpoint_files import newest_first
from slowfast_mvit.runtime.compiling import compile_where_it_helps
from slowfast_mvit.runtime.distributed import (
    is_main,
    local_world_size,
    num_nodes,
    on_main,
    require_agreement,
)
from slowfast_mvit.runtime.launch_environment import available_cores
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.runtime.metric_writers import MetricWriter, TensorBoard, Wandb
from slowfast_mvit.runtime.parallel import evaluation_model, parallelise
from slowfast_mvit.runtime.precision import loss_scaler
from slowfast_mvit.storage import local_copy

logger = logging.getLogger(__name__)


def train_job(config: Config, *, then_tests: bool = False) -> None:
    """Train, resuming where the run stopped; validate on the way.

    Args:
        config: what to train.
        then_tests: whether a test follows. Its list is read before training begins, so that nobody
            hears of a mistake in it when training is done.
    """
    with started(config, is_last_job=not then_tests) as run:
        _train(run, then_tests)


def _train(run: Run, then_tests: bool) -> None:
    config = run.config
    videos = builders.build_videos(config, "train")
    val_videos = builders.build_videos(config, "val")
    if then_tests:
        builders.build_videos(config, "test")
    require_agreement({"training list": videos.digest(), "validation list": val_videos.digest()})
    loader = builders.build_train_loader(config, videos)
    settings = _settings(config)
    num_steps = steps_in_epoch(loader, settings.accum_steps)

    torch.manual_seed(config.rng_seed)  # every rank begins with the same weights
    model = builders.build_model(config)
    model.input_spec = builders.input_spec(config, videos.class_names)
    resume_from = _starting_point(run, model)
    _freeze(config, model)
    model.to(run.device)
    average = moving_average(model, config.train.ema_decay) if config.train.ema_decay else None
    if config.model.compile:
        compile_where_it_helps(model)
    module, evaluated = _parallel(run, model, average)
    objective = builders.build_objective(config)
    log_model(config, model)
    log_plan(run, num_steps=num_steps, num_train=len(videos), num_val=len(val_videos))
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
                RunState(model, module, optimizer, scaler, average),
                objective,
                builders.build_schedule(config, num_nodes()),
                loader,
                settings,
                run.device,
                run.output_dir,
                reporter,
                cfg_text=config.to_yaml(),
                extra={"input_spec": model.input_spec},
            ),
            validate=_validation(run, val_videos, objective.loss, evaluated),
            resume_from=resume_from,
        )


def _validation(
    run: Run, videos: VideoList, loss: Loss, evaluated: Callable[[], nn.Module]
) -> Validate:
    """Return what the loop calls to validate; ``evaluated`` gives the model."""
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
    )


def _freeze(config: Config, model: MViT) -> None:
    frozen = builders.freeze_parameters(config, model)
    if frozen:
        logger.info(
            "TRAIN.FREEZE: %d of %d parameters are not trained: %s",
            len(frozen),
            sum(1 for _ in model.parameters()),
            ", ".join(frozen),
        )


def _parallel(
    run: Run, model: MViT, average: AveragedModel | None
) -> tuple[nn.Module, Callable[[], nn.Module]]:
    """The module that training calls, and what gives the model that is validated."""
    config = run.config
    parallel = partial(
        parallelise,
        strategy=config.train.strategy,
        device=run.device,
        precision=config.train.precision,
    )
    module = parallel(model, find_unused=config.model.detach_final_fc)
    if average is None:
        return module, lambda: evaluation_model(module, model)
    if config.train.strategy == "fsdp":
        parallel(average.module)
    return module, lambda: evaluation_model(average.module, average.module)


def _starting_point(run: Run, model: MViT) -> Path | None:
    """The checkpoint to resume from, or None after loading the initial weights into the model."""
    config, output_dir = run.config, run.output_dir
    newest = on_main(lambda: _newest(config, output_dir))
    path = config.train.checkpoint_file_path
    if newest is not None or not path:
        return newest
    last_epoch = None if config.train.checkpoint_epoch_reset else training_epoch(path)
    if last_epoch is None:
        report = builders.load_initial_weights(config, model)
        write_load_report(report, output_dir / LOAD_REPORT)
        return None
    require_epochs_left(config, last_epoch)
    return local_copy(path)


def _newest(config: Config, output_dir: Path) -> Path | None:
    """The most recent checkpoint of this run."""
    if config.train.auto_resume:
        return latest_checkpoint(output_dir)
    left = newest_first(output_dir)
    if left:
        logger.warning(
            "TRAIN.AUTO_RESUME is False, but %s holds %d checkpoints of a run before, up to "
            "%s. This run begins anew beside them; a later resume would take those that are "
            "furthest on. Choose another OUTPUT_DIR, or move them away",
            output_dir,
            len(left),
            left[0].name,
        )
    return None


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
    if not is_main():
        yield Reporter(StatsLog(output_dir))
        return
    with contextlib.ExitStack() as stack:
        writers: list[MetricWriter] = [_hint(config)]
        if config.tensorboard.enable:
            board = TensorBoard(
                output_dir / (config.tensorboard.log_dir or "tensorboard"),
                steps_per_epoch=steps_per_epoch,
                config_text=config.to_yaml(),
            )
            writers.append(board)
        if config.wandb.enable:
            wandb = Wandb(
                output_dir,
                project=config.wandb.project,
                config=yaml.safe_load(config.to_yaml()),
                steps_per_epoch=steps_per_epoch,
            )
            writers.append(wandb)
        for writer in writers:
            stack.callback(writer.close)
        yield Reporter(StatsLog(output_dir), writers)


def _hint(config: Config) -> DataStallHint:
    return DataStallHint(
        num_workers=config.data_loader.num_workers * local_world_size(),
        num_cores=available_cores(),
        can_fuse=config.aug.enable and config.aug.aa_method != "fused",
    )
