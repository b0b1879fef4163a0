"""One video in, named probabilities out."""

import pytest
import torch

import slowfast_mvit as sm
from slowfast_mvit.errors import ConfigError, DecodeError


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return sm.build_model(sm.load_config(tiny_config))


def test_probabilities_come_best_first_and_sum_to_one(model, motion_data):
    video = next((motion_data / "val").glob("*.mp4"))

    predictions = sm.predict(model, video, top_k=8)

    probs = [prediction.prob for prediction in predictions]
    assert probs == sorted(probs, reverse=True)
    assert sum(probs) == pytest.approx(1, abs=1e-5)
    assert sorted(prediction.label for prediction in predictions) == list(range(8))


def test_names_are_used_where_the_model_knows_them(model, motion_data):
    video = next((motion_data / "val").glob("*.mp4"))

    model.input_spec["class_names"] = [f"move {index}" for index in range(8)]
    named = sm.predict(model, video, top_k=1)[0]
    model.input_spec["class_names"] = None
    unnamed = sm.predict(model, video, top_k=1)[0]

    assert named.name == f"move {named.label}"
    assert unnamed.name == f"class {unnamed.label}"


def test_the_model_stays_in_the_mode_it_was_in(model, motion_data):
    video = next((motion_data / "val").glob("*.mp4"))

    sm.predict(model.train(), video)

    assert model.training


def test_what_cannot_be_done_is_said(model, tmp_path):
    with pytest.raises(DecodeError, match="nothing"):
        sm.predict(model, tmp_path / "nothing.mp4")
    with pytest.raises(ConfigError, match="top_k"):
        sm.predict(model, tmp_path / "nothing.mp4", top_k=0)
    model.input_spec = None
    with pytest.raises(ConfigError, match="input_spec"):
        sm.predict(model, tmp_path / "nothing.mp4")
