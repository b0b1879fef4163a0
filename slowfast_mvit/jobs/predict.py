"""Prediction: named probabilities and timelines of videos, from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slowfast_mvit import builders
from slowfast_mvit.data.loading.items import read_views
from slowfast_mvit.data.views.pixels import normalise
from slowfast_mvit.engine.test import evaluation_mode
from slowfast_mvit.errors import ConfigError, DecodeError
from slowfast_mvit.jobs.checkpoints import weights_named
from slowfast_mvit.jobs.prediction.output import best_of
from slowfast_mvit.jobs.prediction.reading import NUM_CLIPS, Reading, reading_of
from slowfast_mvit.jobs.prediction.scoring import Scored, score
from slowfast_mvit.jobs.prediction.sources import UNLABELLED
from slowfast_mvit.jobs.prediction.timeline import Timeline, timeline_of
from slowfast_mvit.models import MViT
from slowfast_mvit.structures import FailedVideo, VideoRecord

CPU_BATCH, GPU_BATCH = 5, 32


@dataclass(frozen=True)
class Prediction:
    """One class of a video.

    Attributes:
        label: its index.
        name: its name, or "class 17" where the model has no names.
        prob: its probability, 0 to 1.
    """

    label: int
    name: str
    prob: float


@dataclass(frozen=True)
class Predictor:
    """A model with the preprocessing that it was trained with. Made by ``load``.

    Attributes:
        model: with an ``input_spec``; runs where it is.
    """

    model: MViT

    @property
    def input_spec(self) -> dict[str, Any]:
        """The preprocessing, and the class names.

        Raises:
            ConfigError: the model has none.
        """
        if self.model.input_spec is None:
            raise ConfigError(
                "this model has no input_spec (frames and pixels). Build it with "
                "build_model(config), or set model.input_spec as in "
                "slowfast_mvit.builders.input_spec"
            )
        return self.model.input_spec

    @property
    def class_names(self) -> list[str]:
        """The names of the classes; "class 17" where the model has none."""
        names = self.input_spec["class_names"]
        return names or [f"class {label}" for label in range(self.model.num_classes)]

    @torch.inference_mode()
    def predict(
        self, video: str | Path, *, top_k: int = 5, num_clips: int = NUM_CLIPS, num_crops: int = 1
    ) -> list[Prediction]:
        """Return the most probable classes of a video; the arguments are those of ``predict``."""
        spec = self.input_spec
        check_top_k(top_k)
        reading = reading_of(spec, num_clips=num_clips, num_crops=num_crops)
        record = VideoRecord(str(video), str(video), UNLABELLED)
        pixels, places = read_views(record, reading.clip, reading.plan)
        device = next(self.model.parameters()).device
        with evaluation_mode(self.model):
            logits = self.model(normalise(pixels.to(device), spec["mean"], spec["std"]))  # (U, K)
        probs = logits.float().softmax(dim=1)[places].mean(dim=0)
        names = self.class_names
        return [Prediction(k, names[k], prob) for k, prob in best_of(probs.cpu().numpy(), top_k)]

    def timeline(
        self,
        video: str | Path,
        *,
        window_s: float | None = None,
        stride_s: float | None = None,
        batch: int | None = None,
    ) -> Timeline:
        """Return the classes of a video over time, by windows that slide over it.

        Each frame is decoded once, and few are in memory at a time, however long the video is.

        Args:
            video: a video file, a folder of frames, or an image.
            window_s: length of a window in seconds; by default the length of a clip.
            stride_s: seconds from a window to the next; by default half of a window.
            batch: views in each forward pass; by default 5, or 32 on a GPU.

        Raises:
            DecodeError: the video cannot be read.
            ConfigError: the model has no ``input_spec``, or a number is impossible.
        """
        reading = reading_of(
            self.input_spec, is_timeline=True, window_s=window_s, stride_s=stride_s
        )
        (scored,) = self.scores([VideoRecord(str(video), str(video), UNLABELLED)], reading, batch)
        if isinstance(scored, FailedVideo):
            raise DecodeError(scored.reason, scored.file or scored.path)
        return self.timeline_of(scored)

    def timeline_of(self, scored: Scored) -> Timeline:
        """Return the timeline of a video whose windows are scored."""
        return timeline_of(
            np.stack(scored.probs), scored.spans_s, scored.looked.duration_s, self.class_names
        )

    def scores(
        self,
        videos: Sequence[VideoRecord],
        reading: Reading,
        batch: int | None = None,
        on_progress: Callable[[float], object] = lambda share: None,
    ) -> Iterator[Scored | FailedVideo]:
        """Return the scores of many videos; see ``prediction.scoring.score``."""
        is_on_cpu = next(self.model.parameters()).device.type == "cpu"
        return score(
            self.model,
            videos,
            reading,
            batch=batch or (CPU_BATCH if is_on_cpu else GPU_BATCH),
            mean=self.input_spec["mean"],
            std=self.input_spec["std"],
            on_progress=on_progress,
        )


def predict(
    model: MViT,
    path: str | Path,
    *,
    top_k: int = 5,
    num_clips: int = NUM_CLIPS,
    num_crops: int = 1,
) -> list[Prediction]:
    """Return the most probable classes of a video.

    Args:
        model: with an ``input_spec``, as ``build_model`` and training set it; runs where it is.
        path: a video file, a folder of frames, or an image.
        top_k: number of classes, best first; all of them if there are fewer.
        num_clips: clips spread over the video, whose probabilities are averaged.
        num_crops: 1 (centre) or 3 crops of each clip.

    Raises:
        DecodeError: the video cannot be read.
        ConfigError: the model has no ``input_spec``, or a number above is impossible.
    """
    return Predictor(model).predict(path, top_k=top_k, num_clips=num_clips, num_crops=num_crops)


def load(
    weights: str | Path,
    *,
    device: str | torch.device | None = None,
    config_file: str | Path | None = None,
    ema: bool = False,
) -> Predictor:
    """Load trained weights, ready to predict.

    Args:
        weights: a checkpoint, a run folder, a folder of converted weights, a name of
            ``list_models(with_weights=True)``, or an https address.
        device: by default the GPU where there is one.
        config_file: the config of the weights, if the checkpoint has none.
        ema: load the moving average of the weights in a checkpoint.

    Raises:
        WeightsError: the weights cannot be read.
        ConfigError: they have no ``input_spec``, or there is no such device.
    """
    path, place = weights_named(str(weights)), _device(device)
    model = builders.model_of_checkpoint(path, config_file, ema=ema)
    if model.input_spec is None:
        raise ConfigError(
            f"{path}: has no input_spec (frames and pixels). Name the config it was "
            "trained with, as in --cfg Kinetics/MVITv2_S_16x4.yaml"
        )
    return Predictor(model.to(place))


def check_top_k(top_k: int) -> None:
    """Raise a ConfigError for an impossible number of classes."""
    if top_k < 1:
        raise ConfigError(f"top_k must be at least 1, got {top_k}")


def _device(name: str | torch.device | None) -> torch.device:
    """Return a device by its name; by default the GPU where there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" has no values
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {name}: not a device of this machine "
            f"({str(error).splitlines()[0]}). Choose cpu, cuda or cuda:1"
        ) from error
    return device
