"""Objective, optimizer, schedule, initial and frozen weights that the training keys describe."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from slowfast_mvit.builders.data import prepare_views
from slowfast_mvit.config import Config
from slowfast_mvit.data.views.batch_augmentation import mix, random_erase
from slowfast_mvit.errors import pick
from slowfast_mvit.models import MViT
from slowfast_mvit.optim.objectives import LOSSES, Recognition
from slowfast_mvit.optim.params import build_optimizer as optimizer_over
from slowfast_mvit.optim.params import freeze, parameter_groups
from slowfast_mvit.optim.schedule import Peak, Schedule, peak_of
from slowfast_mvit.optim.schedule import build_schedule as schedule_of
from slowfast_mvit.runtime.parallel import plain_name
from slowfast_mvit.structures import ClipBatch
from slowfast_mvit.weights import LoadReport, load_weights

logger = logging.getLogger(__name__)

LOW_PEAK = 0.9  # share of the base rate that a run is expected to reach


def build_objective(config: Config) -> Recognition:
    """Return the objective: normalise, erase and mix on the device, then the loss."""
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
    """Return the optimizer over PySlowFast's parameter groups.

    Args:
        config: from ``load_config``.
        model: without a wrapper; already prepared for its device and ranks, as that may replace its
            parameters.
    """
    solver = config.solver
    groups = parameter_groups(
        ((plain_name(name), parameter) for name, parameter in model.named_parameters()),
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


def build_schedule(config: Config, num_nodes: int = 1, num_steps: int = 1000) -> Schedule:
    """Return the schedule: the learning rate at a fractional epoch.

    A run whose steps do not reach the learning rate of the config logs a warning.

    Args:
        config: from ``load_config``.
        num_nodes: nodes that take part, by which ``SOLVER.BASE_LR_SCALE_NUM_SHARDS`` multiplies;
            ``NUM_SHARDS`` is the requested number and does not count.
        num_steps: steps in an epoch; for the warning alone.
    """
    solver = config.solver
    factor = num_nodes if solver.base_lr_scale_num_shards else 1
    lr_at = schedule_of(
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
    _warn_of_peak(config, peak_rate(config, lr_at, num_steps), solver.base_lr * factor)
    return lr_at


def peak_rate(config: Config, lr_at: Schedule, num_steps: int) -> Peak:
    """Return the highest learning rate of the steps of a run, ``num_steps`` in an epoch."""
    solver = config.solver
    return peak_of(
        lr_at,
        max_epoch=solver.max_epoch,
        num_steps=num_steps,
        warmup_epochs=solver.warmup_epochs,
    )


def _warn_of_peak(config: Config, peak: Peak, base_lr: float) -> None:
    """Warn of a warm-up that falls or does not end, and of a peak below ``LOW_PEAK``."""
    solver = config.solver
    falls = solver.warmup_epochs > 0 and solver.warmup_start_lr > solver.base_lr
    if peak.is_warmed_up and peak.lr >= LOW_PEAK * base_lr and not falls:
        return
    warmup = f"the warm-up of {solver.warmup_epochs:g} epochs (SOLVER.WARMUP_EPOCHS)"
    if falls:
        why = f"{warmup} starts above it, at SOLVER.WARMUP_START_LR, and falls"
        remedy = "Set SOLVER.WARMUP_START_LR below SOLVER.BASE_LR"
    elif not peak.is_warmed_up:
        why = f"the last step of the run is inside {warmup}"
        remedy = "Shorten the warm-up, or train for more epochs"
    elif solver.lr_policy == "cosine":
        why = f"the cosine has fallen to that at the end of {warmup}"
        remedy = "Shorten the warm-up"
        if not solver.cosine_after_warmup:
            remedy += ", or set SOLVER.COSINE_AFTER_WARMUP True, to fall from its end on"
    else:
        why = (
            f"SOLVER.LRS {list(solver.lrs)} from epochs SOLVER.STEPS {list(solver.steps)} on"
            f"{f', after {warmup},' if solver.warmup_epochs else ''} give no higher one"
        )
        remedy = "Set a first factor of 1 and a shorter warm-up, or another SOLVER.BASE_LR"
    logger.warning(
        "the highest learning rate that this run reaches is %.4g, in epoch %d of %d, %.0f %% of "
        "SOLVER.BASE_LR (%.4g): %s. %s",
        peak.lr,
        int(peak.epoch) + 1,
        solver.max_epoch,
        100 * peak.lr / base_lr,
        base_lr,
        why,
        remedy,
    )


def freeze_parameters(config: Config, model: MViT) -> list[str]:
    """Freeze the parameters of ``TRAIN.FREEZE``, in place; returns their names.

    Raises:
        ConfigError: a pattern matches nothing, or all parameters are frozen.
    """
    return freeze(model, config.train.freeze)


def load_initial_weights(config: Config, model: MViT) -> LoadReport:
    """Fill the model from ``TRAIN.CHECKPOINT_FILE_PATH``, inflating an image model's weights."""
    train = config.train
    inflate = "repeat" if train.checkpoint_in_init else "center"
    return load_weights(
        model,
        train.checkpoint_file_path,
        inflate="mean" if train.checkpoint_inflate else inflate,
        head="new" if train.checkpoint_new_head else "auto",
        clear_name_patterns=train.checkpoint_clear_name_pattern,
        min_filled=train.checkpoint_min_filled,
    )
