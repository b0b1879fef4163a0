"""A config file is read strictly, and every problem is told at once, with its place."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from slowfast_mvit.config import load_config
from slowfast_mvit.errors import ConfigError


def write(folder: Path, text: str, name: str = "my_run.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def complaint(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_a_key_is_an_attribute_in_lower_case(tmp_path):
    path = write(tmp_path, "NUM_GPUS: 2\nDATA:\n  NUM_FRAMES: 16\n")

    config = load_config(path)

    assert config.num_gpus == 2
    assert config.data.num_frames == 16
    assert config.is_set("DATA.NUM_FRAMES")
    assert not config.is_set("DATA.SAMPLING_RATE")


def test_all_problems_are_told_at_once(tmp_path):
    path = write(
        tmp_path,
        "DATA:\n  NUM_FRAMES: 16\n  SAMPLING_RATE: four\nMVIT:\n  DEPHT: 16\n"
        "SOLVER:\n  LR_POLICY: cosin\nMODEL:\n  ARCH: slowfast\n  NUM_CLASSES: 0\n",
    )

    assert complaint(path) == (
        f"{path}: 5 problems\n"
        "  line 3    DATA.SAMPLING_RATE: expected a whole number, got 'four'\n"
        "  line 5    MVIT.DEPHT: unknown key. Did you mean MVIT.DEPTH?\n"
        "  line 7    SOLVER.LR_POLICY: 'cosin' is not a choice. "
        "Choose from: cosine, steps_with_relative_lrs\n"
        "  line 9    MODEL.ARCH: 'slowfast' is outside this project's scope, which is MViT for "
        "recognition. Choose from: mvit; for the rest there is PySlowFast\n"
        "  line 10   MODEL.NUM_CLASSES: must be at least 1, got 0"
    )


def test_a_problem_on_the_command_line_says_so(tmp_path):
    path = write(tmp_path, "NUM_GPUS: two\n")

    assert complaint(path, "DATA.NUM_FRAMES", "x", "TRAIN.ENABLE") == (
        f"{path}: 1 problem\n"
        "  line 1    NUM_GPUS: expected a whole number, got 'two'\n"
        "command line: 2 problems\n"
        "  TRAIN.ENABLE: has no value. Write KEY VALUE or KEY=VALUE\n"
        "  DATA.NUM_FRAMES: expected a whole number, got 'x'"
    )


def test_a_config_without_a_problem_is_read_in_silence(tmp_path, caplog):
    path = write(tmp_path, "DATA:\n  NUM_FRAMES: 16\n")

    with caplog.at_level(logging.INFO):
        load_config(path)

    assert caplog.records == []
