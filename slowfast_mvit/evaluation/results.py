"""Metrics of a test, and the files that contain them: test_results.json, test_scores.npz.

Both contain measured values, no paths and no times: equal scores give equal bytes.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from slowfast_mvit.errors import UserError
from slowfast_mvit.evaluation.files import explained_damage, read_json
from slowfast_mvit.evaluation.metrics import METRICS, per_class_accuracy
from slowfast_mvit.storage import read_npz, write_atomically, write_text_atomically
from slowfast_mvit.structures import EvalResult, FailedVideo, VideoScores

# Arrays of test_scores.npz, and the kinds of their types.
SCORE_ARRAYS = {"video_ids": "U", "labels": "iu", "view_probs": "f", "views": "iu", "probs": "f"}
MAX_CLASSES = 1_000_000  # the most that MODEL.NUM_CLASSES may be
EARLIEST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
NUM_REASONS_SHOWN = 3
# Fields of ``EvalResult`` in test_results.json, in addition to metrics and failed videos.
RESULT_KEYS = ("num_videos", "num_views", "failed", "per_class", "config_digest")


def summarise(
    scores: VideoScores,
    *,
    class_names: Sequence[str] | None,
    failed_videos: Sequence[FailedVideo],
    num_listed: int,
    config_digest: str,
) -> EvalResult:
    """Return the metrics of a test.

    Args:
        scores: every video that could be read.
        class_names: K names in the order of their indices; None names them "class 17".
        failed_videos: videos that could not be read. They do not count in the rates.
        num_listed: videos in the list.
        config_digest: digest of the keys that decide the numbers.

    Raises:
        UserError: when no video could be scored, or there are not K class names.
        MissingViewsError: when scored and failed videos do not add up to the list.
    """
    if not scores.video_ids:
        raise UserError(_nothing_scored(failed_videos, num_listed))
    names = distinct_names(class_names, scores.probs.shape[1])
    rates = per_class_accuracy(scores.probs, scores.labels)
    return EvalResult(
        metrics={name: rate(scores.probs, scores.labels) for name, rate in METRICS.items()},
        num_videos=len(scores.video_ids),
        failed=len(failed_videos),
        num_listed=num_listed,
        num_views=len(scores.views),
        per_class={
            name: float(rate) for name, rate in zip(names, rates, strict=True) if not np.isnan(rate)
        },
        config_digest=config_digest,
        failed_videos=tuple(sorted(failed_videos, key=lambda failed: failed.video_id)),
    )


def distinct_names(class_names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """Return K names, each once: a name that several classes share is followed by their index.

    Without names the classes are called "class 0", "class 1", ...

    Raises:
        UserError: when there are names, but not ``num_classes`` of them.
    """
    if class_names is None:
        return tuple(f"class {index}" for index in range(num_classes))
    if len(class_names) != num_classes:
        raise UserError(
            f"there are {len(class_names)} class names, but the model has {num_classes} classes. "
            "Give one name a line, in the order of the class indices"
        )
    times = Counter(class_names)
    return tuple(
        name if times[name] == 1 else f"{name} [{index}]" for index, name in enumerate(class_names)
    )


def save_results(result: EvalResult, path: str | Path) -> Path:
    """Write test_results.json, atomically. Failed videos are in it by name, not by path."""
    content = {key: getattr(result, key) for key in RESULT_KEYS} | result.metrics
    content["failed_videos"] = [
        {"video_id": failed.video_id, "reason": _without_path(failed)}
        for failed in result.failed_videos
    ]
    return write_text_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def load_results(path: str | Path) -> EvalResult:
    """Read test_results.json; the paths of failed videos are empty.

    Raises:
        UserError: when the file is missing, damaged or something else.
    """
    with explained_damage(path, "test_results.json"):
        content = read_json(Path(path))
        fields = {key: content[key] for key in RESULT_KEYS}
        # A metric added since the file was written may be missing.
        metrics = {name: content[name] for name in ("top1", "top5")}
        metrics |= {name: content[name] for name in METRICS if name in content}
        failed = [FailedVideo(f["video_id"], "", f["reason"]) for f in content["failed_videos"]]
        _require_types(metrics, fields, failed)
        num_listed = fields["num_videos"] + fields["failed"]
        return EvalResult(metrics, **fields, num_listed=num_listed, failed_videos=tuple(failed))


def _require_types(
    metrics: dict[str, Any], fields: dict[str, Any], failed: Sequence[FailedVideo]
) -> None:
    """Refuse values that the report could not show.

    Raises:
        ValueError: names the first.
    """
    if not isinstance(fields["per_class"], dict):
        raise ValueError("per_class is not a table")
    for name, rate in [*metrics.items(), *fields["per_class"].items()]:
        if type(rate) not in (int, float) or not 0 <= rate <= 100:  # NaN is not
            raise ValueError(f"{name} is {rate!r}, not a number from 0 to 100")
    for name in ("num_videos", "num_views", "failed"):
        if type(fields[name]) is not int or fields[name] < 0:
            raise ValueError(f"{name} is {fields[name]!r}, not a whole number of 0 or more")
    texts = [fields["config_digest"], *(text for f in failed for text in (f.video_id, f.reason))]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("config_digest or a failed video is not text")


def save_scores(scores: VideoScores, path: str | Path) -> Path:
    """Write test_scores.npz, atomically: ``numpy.load`` reads it without pickle.

    Arrays: video_ids (N) unicode, labels (N) int64, view_probs (N, V, K) float16,
    views (V, 2) int64, probs (N, K) float32.
    """
    return write_atomically(path, lambda file: _write_npz(scores, file))


def load_scores(path: str | Path) -> VideoScores:
    """Read test_scores.npz.

    Raises:
        UserError: when the file is missing, damaged or something else.
    """
    with explained_damage(path, "test_scores.npz"):
        if not Path(path).is_file():  # a pipe would block
            raise FileNotFoundError("no such file")
        arrays: dict[str, Any] = read_npz(Path(path), list(SCORE_ARRAYS))
        for name, kinds in SCORE_ARRAYS.items():
            if arrays[name].dtype.kind not in kinds:
                raise ValueError(f"{name} is of type {arrays[name].dtype}")
        video_ids = tuple(arrays.pop("video_ids").tolist())
        scores = VideoScores(video_ids=video_ids, **arrays)
        _require_values(scores)
        return scores


def _require_values(scores: VideoScores) -> None:
    """Refuse values that metrics could not be of.

    Raises:
        ValueError: names the first.
    """
    num_classes = scores.probs.shape[1]
    if not scores.video_ids or not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"it has {len(scores.video_ids)} videos and {num_classes:,} classes")
    if scores.labels.min() < 0 or scores.labels.max() >= num_classes:
        raise ValueError(f"a label is not from 0 to {num_classes - 1}")
    if scores.views.ndim != 2 or scores.views.shape[0] < 1 or scores.views.shape[1] != 2:
        raise ValueError(f"views has the shape {scores.views.shape}")
    for probs in (scores.probs, scores.view_probs):
        if not (np.isfinite(probs).all() and probs.min() >= 0):
            raise ValueError("a probability is negative or not finite")


def _write_npz(scores: VideoScores, file: IO[bytes]) -> None:
    """Write as ``numpy.savez``, which would add the time of day."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in SCORE_ARRAYS:
            member = zipfile.ZipInfo(f"{name}.npy", date_time=EARLIEST_ZIP_DATE)
            member.create_system = 3  # else it would name the operating system
            array = np.asarray(getattr(scores, name))
            if name == "video_ids":
                array = array.astype(np.str_)
            with archive.open(member, "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.ascontiguousarray(array), allow_pickle=False)


def _without_path(failed: FailedVideo) -> str:
    file = failed.video_id if failed.file == failed.path else failed.file
    return replace(failed, file=file).message


def _nothing_scored(failed_videos: Sequence[FailedVideo], num_listed: int) -> str:
    lines = [
        f"none of the {num_listed:,} listed videos could be scored. Check the list, "
        "DATA.PATH_TO_DATA_DIR and DATA.PATH_PREFIX"
    ]
    lines += [f"  {f.video_id!r}: {f.message}" for f in failed_videos[:NUM_REASONS_SHOWN]]
    if len(failed_videos) > NUM_REASONS_SHOWN:
        lines.append(f"  and {len(failed_videos) - NUM_REASONS_SHOWN:,} more")
    return "\n".join(lines)
