"""The benchmark of augmentation runs, and prints what it promises."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("timm", reason="its operations on PIL images are the reference")

from benchmarks import augment
from slowfast_mvit.data.views.train_views import METHODS


def test_it_compares_every_method_with_the_pyslowfast_way(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(augment, "NUM_FRAMES", 1)
    monkeypatch.setattr(augment, "SIDE", 32)

    status = augment.main(["--draws", "1", "--results", str(tmp_path)])

    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    (file,) = tmp_path.iterdir()
    assert status == 0
    assert json.loads(file.read_text()) == record
    assert set(METHODS) | {"pyslowfast"} <= set(record["cpu_ms_per_view"])
    assert all(record[f"{method}_vs_pyslowfast"] > 0 for method in METHODS)
