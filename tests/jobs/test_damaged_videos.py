"""A damaged video is known before the first epoch, and the report of a test names it."""

from __future__ import annotations

import json
import shutil

import pytest

from slowfast_mvit.cli import main


@pytest.fixture
def damaged(tiny_config, motion_data):
    """The name of a video that check_videos.py found damaged, and the arguments of a run on it."""
    folder = tiny_config.parent / "data"
    shutil.copytree(motion_data, folder)
    name = (folder / "train.csv").read_text().split()[0]
    (folder / name).write_bytes(b"12345")
    record = {"path": name, "bytes": 5, "status": "failed", "reason": "cut short: 5 bytes"}
    (folder / "check.jsonl").write_text(json.dumps(record) + "\n")
    return name, ["--cfg", str(tiny_config), "DATA.PATH_TO_DATA_DIR", str(folder)]


def test_training_does_not_start_on_too_many_damaged_videos(damaged, tiny_config, capsys):
    name, words = damaged

    assert main(["train", *words]) == 2

    refusal = capsys.readouterr().err
    assert "1 of 16 videos of " in refusal and f"{name}: cut short: 5 bytes" in refusal
    assert not list((tiny_config.parent / "out").rglob("*.pyth"))


@pytest.mark.nightly
def test_the_report_names_what_training_could_not_read(damaged, tiny_config):
    name, words = damaged
    words = [*words, "DATA.MAX_FAILED_FRACTION", "0.5", "SOLVER.MAX_EPOCH", "1"]

    assert main(["train", *words]) == main(["test", *words]) == 0

    report = (tiny_config.parent / "out" / "report.html").read_text()
    assert f"training could not read 1 of its videos, see failed_videos.csv: {name} (" in report
