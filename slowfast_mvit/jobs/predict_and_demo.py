"""The short jobs: a single video, the demo's data. Training and testing have files of their own."""

from __future__ import annotations

import logging
from pathlib import Path

from slowfast_mvit import builders
from slowfast_mvit.config import Config
from slowfast_mvit.demo.synthetic import write_motion_dataset
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.jobs.predict import predict
from slowfast_mvit.runtime.log import setup_logging


def predict_job(
    video: str, *, weights: str, config_file: str | None, ema: bool, top_k: int, num_clips: int
) -> None:
    """Print the best classes of one video."""
    setup_logging()
    logging.getLogger("slowfast_mvit").setLevel(logging.WARNING)  # only the answer is wanted
    model = builders.model_of_checkpoint(weights, config_file, ema=ema)
    if model.input_spec is None:
        raise ConfigError(
            f"{weights}: does not say what frames and pixels it takes. Name the config it was "
            "trained with, as in --cfg Kinetics/MVITv2_S_16x4.yaml"
        )
    for prediction in predict(model, video, top_k=top_k, num_clips=num_clips):
        print(f"{100 * prediction.prob:6.2f} %  {prediction.name}")


def make_demo_data(config: Config) -> None:
    """Write the motion videos where the demo's config looks for them."""
    setup_logging()
    folder = Path(config.data.path_to_data_dir)
    write_motion_dataset(folder)
