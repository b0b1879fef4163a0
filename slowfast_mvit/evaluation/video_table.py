"""The data of the table of all videos in a report, for ``videos.js``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os.path import commonprefix

import numpy as np
from markupsafe import Markup

from slowfast_mvit.evaluation.page import visible
from slowfast_mvit.structures import VideoScores

VIDEOS_AT_ONCE = 1000


def video_table(scores: VideoScores, names: Sequence[str]) -> Markup:
    """Return the table as JSON for a script element: a list for each column, in the list's order.

    Names of videos are without what all of them begin and end with. Probabilities are in
    thousandths; ``agreement`` counts the views that predict the same class as all views together.

    Args:
        scores: of N videos.
        names: K names of classes.
    """
    rows, predicted = np.arange(len(scores.labels)), scores.probs.argmax(axis=1)
    ids = [str(visible(video_id)) for video_id in scores.video_ids]
    prefix = commonprefix(ids)  # noqa: RUF071 - of characters, such as "val/"
    ends = [name[len(prefix) :][::-1] for name in ids]
    suffix = commonprefix(ends)[::-1]  # noqa: RUF071 - such as ".mp4"
    columns = {
        "prefix": prefix,
        "suffix": suffix,
        "videos": [name[len(prefix) : len(name) - len(suffix)] for name in ids],
        "classes": [visible(name) for name in names],
        "true": scores.labels.tolist(),
        "predicted": predicted.tolist(),
        "p_true": _thousandths(scores.probs[rows, scores.labels]),
        "p_predicted": _thousandths(scores.probs[rows, predicted]),
        "agreement": _agreement(scores, predicted).tolist(),
        "num_views": len(scores.views),
    }
    text = json.dumps(columns, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # nothing in it can end the element


def _thousandths(probs: np.ndarray) -> list[int]:
    thousandths: list[int] = (1000 * probs).round().astype(np.int64).tolist()
    return thousandths


def _agreement(scores: VideoScores, predicted: np.ndarray) -> np.ndarray:
    """Return (N,) int64: views whose best class is the predicted one."""
    counts = np.zeros(len(predicted), dtype=np.int64)
    for start in range(0, len(predicted), VIDEOS_AT_ONCE):
        part = slice(start, start + VIDEOS_AT_ONCE)
        best = scores.view_probs[part].astype(np.float32).argmax(axis=2)
        counts[part] = (best == predicted[part, None]).sum(axis=1)
    return counts
