"""Config -> built objects. The only folder that knows both the keys and what they set up.

lists.py      from the lists of PySlowFast's MVIT keys to the records of blocks
model.py      the model, and from a checkpoint a model ready to predict
data.py       lists, loaders, view plans, normalisation
training.py   objective, optimizer, schedule, initial weights and frozen parameters

Every function reads the keys it needs and calls one constructor with plain arguments; no object
made here keeps the config.
"""

from slowfast_mvit.builders.data import (
    build_test_loader,
    build_train_loader,
    build_val_loader,
    build_videos,
    channel_statistics,
    clip_spec,
    config_of_plan,
    frames_seen,
    prepare_views,
    test_forward_batch,
    test_plans,
    val_forward_batch,
    videos_per_process,
    view_plan,
)
from slowfast_mvit.builders.model import (
    build_model,
    input_spec,
    model_arguments,
    model_of_checkpoint,
)
from slowfast_mvit.builders.training import (
    build_objective,
    build_optimizer,
    build_schedule,
    freeze_parameters,
    load_start_weights,
)

__all__ = [
    "build_model",
    "build_objective",
    "build_optimizer",
    "build_schedule",
    "build_test_loader",
    "build_train_loader",
    "build_val_loader",
    "build_videos",
    "channel_statistics",
    "clip_spec",
    "config_of_plan",
    "frames_seen",
    "freeze_parameters",
    "input_spec",
    "load_start_weights",
    "model_arguments",
    "model_of_checkpoint",
    "prepare_views",
    "test_forward_batch",
    "test_plans",
    "val_forward_batch",
    "videos_per_process",
    "view_plan",
]
