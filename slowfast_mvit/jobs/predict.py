"""Prediction: named probabilities of a video file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from slowfast_mvit import builders
from slowfast_mvit.data.loading.items import read_views
from slowfast_mvit.data.views.pixels import normalise
from slowfast_mvit.errors import ConfigError, printable
from slowfast_mvit.jobs.checkpoints import weights_named
from slowfast_mvit.models import MViT
from slowfast_mvit.runtime.log import setup_logging
from slowfast_mvit.structures import ClipSpec, VideoRecord, ViewPlan


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


@torch.inference_mode()
def predict(
    model: MViT, path: str | Path, *, top_k: int = 5, num_clips: int = 5, num_crops: int = 1
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
    spec = model.input_spec
    if spec is None:
        raise ConfigError(
            "this model has no input_spec (frames and pixels). Build it with build_model(config), "
            "or set model.input_spec as in slowfast_mvit.builders.input_spec"
        )
    if top_k < 1 or num_clips < 1 or num_crops not in (1, 3):
        raise ConfigError(
            f"top_k and num_clips must be at least 1 and num_crops 1 or 3, "
            f"got {top_k}, {num_clips} and {num_crops}"
        )
    clip = ClipSpec(
        num_frames=spec["num_frames"],
        sampling_rate=spec["sampling_rate"],
        target_fps=spec["target_fps"],
        policy=spec["policy"],
        segment_clips=spec.get("segment_clips", "same"),  # older checkpoints lack it
        offset_sampling=True,
    )
    plan = ViewPlan(
        num_clips,
        num_crops,
        scale_px=spec["scale_px"],
        crop_px=spec["crop_px"],
        resizing=spec.get("resizing", "clip"),
    )
    pixels, places = read_views(VideoRecord(str(path), str(path), 0), clip, plan)
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    logits = model(normalise(pixels.to(device), spec["mean"], spec["std"]))  # (U, K)
    model.train(was_training)
    probs = logits.float().softmax(dim=1)[places].mean(dim=0)

    names = spec["class_names"] or [f"class {label}" for label in range(len(probs))]
    best = probs.topk(min(top_k, len(probs)))
    return [
        Prediction(label, names[label], prob)
        for label, prob in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def predict_job(
    video: str,
    *,
    weights: str,
    config_file: str | None,
    ema: bool,
    top_k: int,
    num_clips: int,
    device: str | None = None,
) -> None:
    """Print the best classes of one video.

    Raises:
        ConfigError: the weights have no input spec, or there is no such device.
    """
    weights, place = weights_named(weights), _device(device)
    setup_logging()
    logging.getLogger("slowfast_mvit").setLevel(logging.WARNING)  # print the prediction alone
    model = builders.model_of_checkpoint(weights, config_file, ema=ema)
    if model.input_spec is None:
        raise ConfigError(
            f"{weights}: has no input_spec (frames and pixels). Name the config it was "
            "trained with, as in --cfg Kinetics/MVITv2_S_16x4.yaml"
        )
    for prediction in predict(model.to(place), video, top_k=top_k, num_clips=num_clips):
        print(f"{100 * prediction.prob:6.2f} %  {printable(prediction.name)}")


def _device(name: str | None) -> torch.device:
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
