"""Shipped files are read from any folder, and the words after --cfg are split."""

from __future__ import annotations

import pytest

from slowfast_mvit.config import find_config, load_config, shipped_configs, split_cfg_words
from slowfast_mvit.errors import ConfigError


@pytest.mark.parametrize(
    "name",
    [
        "Kinetics/MVITv2_S_16x4.yaml",
        "Kinetics/MVITv2_S_16x4",
        "configs/Kinetics/MVITv2_S_16x4.yaml",
        "./configs/Kinetics/MVITv2_S_16x4.yaml",
    ],
)
def test_a_shipped_file_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert find_config(name) == shipped_configs()["Kinetics/MVITv2_S_16x4.yaml"]
    assert load_config(name).mvit.variant == "S"


def test_a_user_file_has_priority(tmp_path, monkeypatch):
    user_file = tmp_path / "configs" / "Kinetics" / "MVITv2_S_16x4.yaml"
    user_file.parent.mkdir(parents=True)
    user_file.write_text("MVIT:\n  VARIANT: B\n")
    monkeypatch.chdir(tmp_path)

    assert load_config("configs/Kinetics/MVITv2_S_16x4.yaml").mvit.variant == "B"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine/my_rum.yaml", "Did you mean mine/my_run.yaml?"),
        ("Kinetics/MVITv2_S_16x5.yaml", "Did you mean Kinetics/MVITv2_S_16x4.yaml?"),
        (
            "MVITv2_L_40x3_test.yaml",
            "Did you mean Kinetics/MVITv2_L_40x3.yaml or SSv2/MVITv2_L_40x3.yaml?",
        ),
        ("qqq", "Shipped with this project: "),
        ("mine", "is a folder"),
    ],
)
def test_a_file_that_is_not_there_gets_a_hint(name, words, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_run.yaml").write_text("")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError) as caught:
        load_config(name)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("words", "files", "overrides"),
    [
        (["a.yaml"], ["a.yaml"], []),
        (["a.yaml", "b.yml"], ["a.yaml", "b.yml"], []),
        (["a.yaml", "NUM_GPUS", "1"], ["a.yaml"], ["NUM_GPUS", "1"]),
        (["a.yaml", "X", "b.yaml"], ["a.yaml"], ["X", "b.yaml"]),
        (["NUM_GPUS", "1"], [], ["NUM_GPUS", "1"]),
    ],
)
def test_words_after_cfg_are_files_up_to_the_first_that_is_not(words, files, overrides):
    assert split_cfg_words(words) == (files, overrides)
