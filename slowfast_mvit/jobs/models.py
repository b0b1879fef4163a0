"""``slowfast-mvit models``: the published weights by name."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from slowfast_mvit.models.variants import VARIANTS
from slowfast_mvit.weights.architecture import fingerprint, published_state
from slowfast_mvit.weights.zoo import ZOO, PublishedWeights

_HEAD = ("weights", "data", "top-1", "top-5", "test", "params", "GFLOPs", "licence", "note")


def models_job(as_json: bool) -> None:
    """Print a table of the published weights, or JSON with a hash of their names and shapes."""
    rows = published()
    if as_json:
        marks = [fingerprint(published_state(weights)) for weights in ZOO.values()]
        marked = [{**row, "fingerprint": mark} for row, mark in zip(rows, marks, strict=True)]
        print(json.dumps(marked, indent=2))
        return
    table = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print("  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip())
    print("\nGive a name as --weights, or to slowfast_mvit.create_model.")


def published() -> list[dict[str, Any]]:
    """Return the rows of the zoo as plain values, with parameters and GFLOPs of a view."""
    return [
        {
            "name": name,
            **asdict(weights),
            "num_classes": weights.num_classes,
            "protocol": weights.protocol(),
            "sha256": weights.sha256,
            "num_params": VARIANTS[weights.model].num_params,
            "gflops": _gflops(weights),
        }
        for name, weights in ZOO.items()
    ]


def _gflops(weights: PublishedWeights) -> float | None:
    """Return the count of the model; None where these weights have clips of another size."""
    variant, spec = VARIANTS[weights.model], weights.input_spec()
    is_its_size = variant.input_size[:2] == (spec["num_frames"], spec["crop_px"])
    return variant.gflops if is_its_size else None


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        row["data"],
        *("-" if row[key] is None else str(row[key]) for key in ("top1", "top5")),
        row["protocol"],
        f"{row['num_params'] / 1e6:.1f} M",
        f"{row['gflops']:.1f}" if row["gflops"] else "-",
        row["licence"],
        row["note"],
    )
