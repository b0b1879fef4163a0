"""The published test of weights, and the card that compares."""

from __future__ import annotations

import json

import pytest
import torch
from clips import write_clip

import slowfast_mvit as sm
from slowfast_mvit.builders import input_spec
from slowfast_mvit.cli import main
from slowfast_mvit.jobs.certify import card_of, published_test, wilson_interval
from slowfast_mvit.weights.zoo import DATA_SETS, ZOO


@pytest.mark.parametrize(
    ("num_right", "num_videos", "expected"),
    [  # statsmodels.stats.proportion.proportion_confint(..., method="wilson")
        (81, 100, (72.22, 87.49)),
        (0, 10, (0.0, 27.75)),
        (16_124, 19_906, (80.45, 81.54)),
    ],
)
def test_the_interval_is_wilsons(num_right, num_videos, expected):
    assert wilson_interval(num_right, num_videos) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("name", [name for name, row in ZOO.items() if row.top1 is not None])
def test_the_test_is_the_published_one(name):
    row = ZOO[name]
    config = published_test(name, [])

    assert input_spec(config) == {**row.input_spec(), "class_names": None}
    views = (config.test.num_ensemble_views, config.test.num_spatial_crops)
    assert views == (row.views or DATA_SETS[row.data].views)


@pytest.mark.parametrize(
    ("right", "scored", "failed", "missing", "verdict"),
    [
        (16_124, 19_906, 0, 0, "agrees with the published number"),
        (15_850, 19_700, 6, 206, "agrees with the published number"),
        (14_000, 19_906, 0, 0, "below the published number by more than the interval allows"),
        (17_000, 19_906, 0, 0, "above the published number by more than the interval allows"),
        (75, 100, 0, 19_806, "agrees with the published number, but most videos are missing"),
    ],
)
def test_missing_videos_widen_the_interval(right, scored, failed, missing, verdict):
    card = card_of("mvitv2_s_16x4.k400", num_right=right, num_scored=scored, num_failed=failed)

    assert card.num_missing == missing
    assert card.verdict == verdict
    assert card.low <= 100 * right / scored <= card.high
    assert "measured by others: 81.1 (mvitv2_s_16x4.mm_converted_k400)" in card.text()


def test_a_name_without_an_accuracy_is_refused(capsys):
    assert main(["certify", "--weights", "mvitv2_s_16x4.k40", "--data", "."]) == 2
    assert "Weights of this model: mvitv2_s_16x4.k400, " in capsys.readouterr().err


def test_other_weights_are_not_certified_under_a_published_name(capsys):
    command = ["certify", "--weights", "mvitv2_s_16x4.k400", "--data", "."]

    assert main([*command, "TEST.CHECKPOINT_FILE_PATH", "mine.pyth"]) == 2
    assert "mine.pyth: certify tests the published weights" in capsys.readouterr().err


@pytest.mark.nightly
def test_a_small_set_gets_a_card(tmp_path, monkeypatch, capsys):
    row = ZOO["mvitv2_s_16x4.k400"]
    checkpoints = tmp_path / "hub/checkpoints"
    checkpoints.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(sm.create_model(row.model).state_dict(), checkpoints / row.file_name)
    (tmp_path / "data").mkdir()
    lines = [f"{write_clip(tmp_path / f'data/{label}.mp4')} {label}\n" for label in range(2)]
    (tmp_path / "data/test.csv").write_text("".join(lines))
    command = ["certify", "--weights", "mvitv2_s_16x4.k400", "--data", "data"]
    overrides = ["TEST.NUM_ENSEMBLE_VIEWS", "1", "DATA_LOADER.NUM_WORKERS", "0"]

    assert main([*command, *overrides]) == 0

    card = json.loads((tmp_path / "runs/certify/mvitv2_s_16x4.k400/certificate.json").read_text())
    assert (card["num_scored"], card["num_missing"]) == (2, 19_904)
    assert card["published"] == 81.0
    assert "changed: TEST.NUM_ENSEMBLE_VIEWS 1" in capsys.readouterr().out
    assert card["verdict"].endswith("by another test than the published one")
