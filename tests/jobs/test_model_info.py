"""LOG_MODEL_INFO logs what PySlowFast logs of a model, with the published figures."""

import logging

import pytest
import torch

from slowfast_mvit import builders
from slowfast_mvit.config import load_config
from slowfast_mvit.jobs.model_info import log_model_info


# As counted by fvcore on PySlowFast's models; the model zoo rounds them to 64.5, 225 and 10.2.
@pytest.mark.parametrize(
    ("name", "params", "gflops"),
    [
        ("SSv2/MVITv2_S_16x4.yaml", "34,363,950", "64.4567"),
        ("Kinetics/MVITv2_B_32x3.yaml", "51,230,128", "225.1700"),
        ("ImageNet/MVITv2_B.yaml", "51,472,744", "10.1587"),
    ],
)
def test_the_figures_are_the_published_ones(name, params, gflops, caplog):
    config = load_config(name)
    with torch.device("meta"):
        model = builders.build_model(config)

    with caplog.at_level(logging.INFO):
        log_model_info(config, model, crop_px=config.data.test_crop_size)

    _, *lines = caplog.messages
    assert lines[0] == f"Params: {params}"
    assert lines[1] == f"Mem: {int(params.replace(',', '')) * 4 / 1024**2:,.1f} MB"
    assert lines[2] == f"Flops: {gflops} G"


def test_nothing_is_logged_where_the_key_says_so(caplog):
    config = load_config(None, ["LOG_MODEL_INFO", "False"])

    with caplog.at_level(logging.INFO):
        log_model_info(config, torch.nn.Linear(1, 1), crop_px=32)

    assert caplog.messages == []
