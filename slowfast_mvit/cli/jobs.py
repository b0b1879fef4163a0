"""What one command does, from a config to the files in ``OUTPUT_DIR``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from slowfast_mvit import build
from slowfast_mvit.cli.reporting import CONFIG_FILE, write_clip_counts, write_results
from slowfast_mvit.config import Config
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.loader import Loader
from slowfast_mvit.data.synthetic import write_motion_dataset
from slowfast_mvit.engine.failures import record_failed_videos
from slowfast_mvit.engine.test import score_videos, validate
from slowfast_mvit.engine.train import TrainSettings, train
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.evaluation.ensemble import ensemble, views_of_plan
from slowfast_mvit.models import MViT
from slowfast_mvit.prediction import predict
from slowfast_mvit.runtime.checkpoint import latest_checkpoint, training_epoch
from slowfast_mvit.runtime.distributed import pick_device
from slowfast_mvit.runtime.log import progress, setup_logging
from slowfast_mvit.storage import (
    local_copy,
    output_folder,
    register_path_handlers,
    write_text_atomically,
)
from slowfast_mvit.structures import EvalResult, FailedVideo, ViewPlan, ViewScores
from slowfast_mvit.weights import load_weights

logger = logging.getLogger(__name__)


def train_job(config: Config) -> None:
    """Train, resuming where the run stopped; validate on the way."""
    with _started(config) as output_dir:
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
    _write_config(config, output_dir)

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
            failed_path=output_dir / "failed_videos.csv",
            epoch=epoch,
        ),
        resume_from=resume_from,
    )


def test_job(config: Config) -> None:
    """Score every view of every video and write results, scores and report.

    For several numbers of clips the videos are read and scored in one pass, and each number gets
    the files that a test of it alone would write, in ``OUTPUT_DIR/test_<n>_clips``.
    """
    with _started(config) as output_dir:
        _test(config, output_dir)


def _test(config: Config, output_dir: Path) -> None:
    device = pick_device(config.num_gpus)
    videos = build.build_videos(config, "test")
    torch.manual_seed(config.rng_seed)  # or a test without weights would differ each time
    model = build.build_model(config)
    weights = _load_test_weights(config, output_dir, model)
    model.to(device)
    _write_config(config, output_dir)

    plans = build.test_plans(config)
    outcomes = _score(config, plans, model=model, videos=videos, device=device, weights=weights)
    write = partial(
        _write_test, outcomes=outcomes, videos=videos, weights=weights, output_dir=output_dir
    )
    if len(plans) == 1:
        write(config, plans, 0, folder=output_dir)
        return
    results = list[EvalResult]()
    for number, plan in enumerate(plans):
        folder = output_dir / f"test_{plan.num_clips}_clips"
        alone = build.config_of_plan(config, plan)
        _write_config(alone, folder)
        results.append(write(alone, plans, number, folder=folder))
    write_clip_counts(plans, results, output_dir)


def _score(
    config: Config,
    plans: Sequence[ViewPlan],
    *,
    model: MViT,
    videos: VideoList,
    device: torch.device,
    weights: str,
) -> list[ViewScores | FailedVideo]:
    """The scores of the views of all plans, from one pass over the videos."""
    loader = build.build_test_loader(config, videos, *plans)
    in_words = " and ".join(map(str, plans))
    logger.info("testing %d videos, %s each, %s", len(videos), in_words, weights)
    scored = score_videos(
        model,
        loader,
        build.prepare_views(config),
        device=device,
        forward_batch=config.test.batch_size,
    )
    return list(progress(scored, total=len(videos), what="testing", log_period=200))


def _write_test(
    config: Config,
    plans: Sequence[ViewPlan],
    number: int,
    *,
    outcomes: Sequence[ViewScores | FailedVideo],
    videos: VideoList,
    weights: str,
    output_dir: Path,
    folder: Path,
) -> EvalResult:
    """Write what the test with plan ``number`` of ``plans`` leaves."""
    plan = plans[number]
    failed = [outcome for outcome in outcomes if isinstance(outcome, FailedVideo)]
    record_failed_videos(folder / "failed_videos.csv", failed)
    missing = {video.video_id for video in failed}
    video_scores = ensemble(
        views_of_plan(outcomes, plans, number),
        views=plan.views().numpy(),
        video_ids=[video.video_id for video in videos if video.video_id not in missing],
        method=config.data.ensemble_method,
    )
    return write_results(
        config,
        plan,
        scores=video_scores,
        failed=failed,
        videos=videos,
        folder=folder,
        run_dir=output_dir,
        weights=weights,
    )


def predict_job(
    video: str, *, weights: str, config_file: str | None, top_k: int, num_clips: int
) -> None:
    """Print the best classes of one video."""
    setup_logging()
    logging.getLogger("slowfast_mvit").setLevel(logging.WARNING)  # only the answer is wanted
    model = build.model_of_checkpoint(weights, config_file)
    for prediction in predict(model, video, top_k=top_k, num_clips=num_clips):
        print(f"{100 * prediction.prob:6.2f} %  {prediction.name}")


def make_demo_data(config: Config) -> None:
    """Write the motion videos where the demo's config looks for them."""
    setup_logging()
    folder = Path(config.data.path_to_data_dir)
    write_motion_dataset(folder)


@contextlib.contextmanager
def _started(config: Config) -> Iterator[Path]:
    """Open the log of the run; gives the local folder to write to."""
    if config.num_shards > 1:
        raise ConfigError(
            f"NUM_SHARDS is {config.num_shards}: several nodes need a process group, and this "
            "version trains on one. Set NUM_SHARDS 1 (and scale SOLVER.BASE_LR to your batch)"
        )
    register_path_handlers(config.path_handlers)
    with output_folder(config.output_dir) as output_dir:
        setup_logging(output_dir)
        yield output_dir


def _write_config(config: Config, output_dir: Path) -> None:
    """Write the resolved config beside the checkpoints; last, so that a typing error in the data
    or the weights does not replace that of a finished run."""
    write_text_atomically(output_dir / CONFIG_FILE, config.to_yaml())


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


def _load_test_weights(config: Config, output_dir: Path, model: MViT) -> str:
    """Fill the model as PySlowFast chooses weights to test; returns in words what they are."""
    path = (
        config.test.checkpoint_file_path
        or latest_checkpoint(output_dir)
        or config.train.checkpoint_file_path
    )
    if not path:
        logger.warning(
            "no weights to test: neither TEST.CHECKPOINT_FILE_PATH nor a checkpoint in %s. "
            "The weights are random, and so will the result be",
            output_dir,
        )
        return "random weights: no checkpoint was given or found"
    load_weights(model, path, head="keep")
    return f"weights of {Path(path).name}"


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
