"""``slowfast-mvit certify``: test published weights as their authors did, and compare."""

from __future__ import annotations

import json
import logging
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from slowfast_mvit.builders import input_spec
from slowfast_mvit.config import Config, load_config
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.evaluation.results import load_results
from slowfast_mvit.jobs.pretrained_weights import CONFIG_OF_MODEL
from slowfast_mvit.jobs.report import RESULTS_FILE
from slowfast_mvit.jobs.test import test_job
from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.storage import write_text_atomically
from slowfast_mvit.weights.zoo import DATA_SETS, ZOO, PublishedWeights, hint, name_in_zoo

logger = logging.getLogger(__name__)

CARD_FILE = "certificate.json"
_Z = 1.959964  # of 95 %
_KEYS = {
    "num_frames": "DATA.NUM_FRAMES",
    "sampling_rate": "DATA.SAMPLING_RATE",
    "mean": "DATA.MEAN",
    "std": "DATA.STD",
}


@dataclass(frozen=True)
class Card:
    """The comparison of a test with the published number.

    Attributes:
        weights: name in the zoo.
        data: the data set.
        protocol: the published test.
        changes: overrides of the user, which may change the protocol.
        published: top-1 in percent.
        measured: top-1 in percent of the videos that were scored.
        others: top-1 of other measurements of the same weights, by name.
        num_scored: videos.
        num_missing: videos that could not be read, or are in the data set and not in the list.
        low: lower end of the 95 % interval, as if every missing video were wrong.
        high: upper end, as if every missing video were right.
        verdict: one sentence.
    """

    weights: str
    data: str
    protocol: str
    changes: str
    published: float
    measured: float
    others: dict[str, float]
    num_scored: int
    num_missing: int
    low: float
    high: float
    verdict: str

    def text(self) -> str:
        """Return the card for the terminal."""
        others = ", ".join(f"{top1:.1f} ({name})" for name, top1 in self.others.items())
        lines = {
            "weights": self.weights,
            "test": f"{self.data}, {self.protocol}"
            + (f"; changed: {self.changes}" if self.changes else ""),
            "videos": f"{self.num_scored:,} scored, {self.num_missing:,} missing",
            "top-1": f"{self.measured:.2f} %, 95 % interval {self.low:.2f} to {self.high:.2f}",
            "published": f"{self.published:.2f} %"
            + (f"; measured by others: {others}" * bool(others)),
            "verdict": self.verdict,
        }
        return "\n".join(f"{name + ':':<11}{text}" for name, text in lines.items())


def certify_job(weights: str, data: str, out: str, overrides: list[str]) -> None:
    """Test published weights and print a card; the same command resumes a test that was killed.

    Args:
        weights: a name of the zoo.
        data: folder with the list of validation videos, as for ``test``.
        out: OUTPUT_DIR; "" for ``runs/certify/NAME``.
        overrides: KEY VALUE pairs.

    Raises:
        ConfigError: there are no such weights, or none with a published accuracy.
    """
    name = name_in_zoo(weights)
    if name is None or ZOO[name].top1 is None:
        raise ConfigError(
            f"--weights {weights}: no published weights with an accuracy have this name."
            f"{hint(weights)} slowfast-mvit models lists them"
        )
    folder = out or f"runs/certify/{name}"
    places = ["DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", folder]
    config = published_test(name, [*places, *overrides])
    if config.test.checkpoint_file_path != name:
        raise ConfigError(
            f"TEST.CHECKPOINT_FILE_PATH {config.test.checkpoint_file_path}: certify tests the "
            f"published weights {name}. To test others, use slowfast-mvit test"
        )
    test_job(config)
    if not is_main():
        return
    result = load_results(Path(folder) / RESULTS_FILE)
    card = card_of(
        name,
        num_right=round(result.top1 * result.num_videos / 100),
        num_scored=result.num_videos,
        num_failed=result.failed,
        changes=shlex.join(overrides),
        is_published_test=config.digest() == published_test(name, places).digest(),
    )
    write_text_atomically(Path(folder) / CARD_FILE, json.dumps(vars(card), indent=2) + "\n")
    print(card.text())


def published_test(name: str, overrides: list[str]) -> Config:
    """Return the config of the published test of weights in the zoo.

    Args:
        name: key of ``ZOO``.
        overrides: KEY VALUE pairs, which take precedence.
    """
    row = ZOO[name]
    file = _config_file(row)
    spec, found = row.input_spec(), input_spec(load_config(file))
    clips, crops = row.views or DATA_SETS[row.data].views
    changes: dict[str, Any] = {
        key: spec[field] for field, key in _KEYS.items() if spec[field] != found[field]
    }
    changes |= {
        "MODEL.NUM_CLASSES": row.num_classes,
        "TEST.NUM_ENSEMBLE_VIEWS": clips,
        "TEST.NUM_SPATIAL_CROPS": crops,
        "TEST.CHECKPOINT_FILE_PATH": name,
        "NUM_GPUS": torch.cuda.device_count(),
    }
    return load_config(file, [*(str(x) for pair in changes.items() for x in pair), *overrides])


def _config_file(row: PublishedWeights) -> str:
    if row.data == "in1k":
        return f"ImageNet/MVITv2_{row.model.split('_')[1].upper()}.yaml"
    file = CONFIG_OF_MODEL[row.model]
    return file.replace("Kinetics", "SSv2") if row.data == "ssv2" else file


def card_of(
    name: str,
    *,
    num_right: int,
    num_scored: int,
    num_failed: int,
    changes: str = "",
    is_published_test: bool = True,
) -> Card:
    """Compare a test with the published number.

    Args:
        name: key of ``ZOO``.
        num_right: videos whose most probable class is right.
        num_scored: videos with scores.
        num_failed: videos of the list that could not be read.
        changes: overrides of the user, for the card.
        is_published_test: none of them may change a score.
    """
    row = ZOO[name]
    published = row.top1 or math.nan
    listed = num_scored + num_failed
    num_missing = max(listed, DATA_SETS[row.data].num_val or 0) - num_scored
    total = num_scored + num_missing
    low, _ = wilson_interval(num_right, total)
    _, high = wilson_interval(num_right + num_missing, total)
    if low <= published <= high:
        verdict = "agrees with the published number"
    else:
        side = "above" if published < low else "below"
        verdict = f"{side} the published number by more than the interval allows"
    if num_missing > num_scored:
        verdict += ", but most videos are missing"
    if not is_published_test:
        verdict += ", by another test than the published one"
    return Card(
        weights=name,
        data=row.data,
        protocol=row.protocol(),
        changes=changes,
        published=published,
        measured=100 * num_right / num_scored,
        others={
            key: other.top1
            for key, other in ZOO.items()
            if key == name.replace(".in21k_", ".").replace(".", ".mm_converted_") and other.top1
        },
        num_scored=num_scored,
        num_missing=num_missing,
        low=low,
        high=high,
        verdict=verdict,
    )


def wilson_interval(num_right: int, num_videos: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a rate, in percent (Wilson 1927)."""
    rate, z2 = num_right / num_videos, _Z**2 / num_videos
    centre = rate + z2 / 2
    half = math.sqrt(z2 * rate * (1 - rate) + z2**2 / 4)
    return 100 * (centre - half) / (1 + z2), 100 * (centre + half) / (1 + z2)
