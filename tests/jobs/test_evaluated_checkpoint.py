"""TEST.WEIGHTS: the choice of the weights to test, and its errors."""

import pytest
import torch

from slowfast_mvit import builders
from slowfast_mvit.cli import main
from slowfast_mvit.config import load_config
from slowfast_mvit.errors import ConfigError, ShardedCheckpointError, WeightsError
from slowfast_mvit.jobs.checkpoints import load_evaluated_checkpoint
from slowfast_mvit.runtime.checkpoint import save_best, save_checkpoint


def weights_filled_with(model, value):
    return {name: torch.full_like(tensor, value) for name, tensor in model.state_dict().items()}


@pytest.fixture
def run(tiny_config, tmp_path):
    """The OUTPUT_DIR of a run with weights of 1 and 2, moving averages of 11 and 12, best of 21."""
    output_dir = tmp_path / "out"
    model = builders.build_model(load_config(tiny_config))
    plain = {"cfg_text": "", "extra": {}}
    for epoch, value in enumerate((1.0, 2.0)):
        save_checkpoint(
            output_dir,
            epoch=epoch,
            model_state=weights_filled_with(model, value),
            optimizer_state={},
            ema_state=weights_filled_with(model, 10 + value),
            **plain,
        )
    save_best(output_dir, epoch=0, model_state=weights_filled_with(model, 21.0), **plain)
    return output_dir


def load(tiny_config, output_dir, *words):
    config = load_config(tiny_config, [*words, "OUTPUT_DIR", str(output_dir)])
    model = builders.build_model(config)
    name = load_evaluated_checkpoint(config, output_dir, model).text
    values = {value.item() for parameter in model.parameters() for value in parameter.unique()}
    return name, values


@pytest.mark.parametrize(
    ("weights", "value", "name"),
    [
        ("last", 2.0, "weights of checkpoint_epoch_00002.pyth"),
        ("ema", 12.0, "moving average in checkpoint_epoch_00002.pyth"),
        ("best", 21.0, "weights of best.pyth, which validated best, of epoch 1"),
    ],
)
def test_the_chosen_weights_are_loaded_and_named(tiny_config, run, weights, value, name):
    assert load(tiny_config, run, "TEST.WEIGHTS", weights) == (name, {value})


def test_a_named_checkpoint_has_its_weights_and_its_moving_average(tiny_config, run):
    path = run / "checkpoints" / "checkpoint_epoch_00001.pyth"
    named = ("TEST.CHECKPOINT_FILE_PATH", str(path))

    assert load(tiny_config, run, *named)[1] == {1.0}
    assert load(tiny_config, run, *named, "TEST.WEIGHTS", "ema")[1] == {11.0}
    for other in ("best", "random"):
        with pytest.raises(ConfigError, match=rf"names one file and TEST\.WEIGHTS {other} other"):
            load(tiny_config, run, *named, "TEST.WEIGHTS", other)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("last", "no weights to test: .*set TEST.WEIGHTS random"),
        ("ema", "there is no checkpoint in .* to take the moving average from"),
        ("best", r"best\.pyth: no such file, and TEST.WEIGHTS is best"),
    ],
)
def test_missing_weights_are_an_error(tiny_config, tmp_path, weights, message):
    with pytest.raises(WeightsError, match=message):
        load(tiny_config, tmp_path / "empty", "TEST.WEIGHTS", weights)


def test_random_weights_are_tested_when_they_are_asked_for(tiny_config, run):
    name, values = load(tiny_config, run, "TEST.WEIGHTS", "random")

    assert name == "random weights (TEST.WEIGHTS random)"
    assert len(values) > 100


def test_a_checkpoint_without_a_moving_average_is_not_tested_as_one(tiny_config, run):
    best = ("TEST.CHECKPOINT_FILE_PATH", str(run / "checkpoints" / "best.pyth"))

    with pytest.raises(WeightsError, match=r"best\.pyth: has no moving average \(ema_state"):
        load(tiny_config, run, *best, "TEST.WEIGHTS", "ema")


@pytest.mark.parametrize("weights", ["last", "ema"])
def test_a_newer_sharded_checkpoint_is_an_error(tiny_config, run, weights):
    folder = run / "sharded" / "epoch_00002_step_00004"
    folder.mkdir(parents=True)
    (folder / "manifest.json").touch()

    with pytest.raises(ShardedCheckpointError, match="dcp_to_torch") as caught:
        load(tiny_config, run, "TEST.WEIGHTS", weights)

    assert caught.value.folder == folder
    assert load(tiny_config, run, "TEST.WEIGHTS", "best")[1] == {21.0}


def test_the_report_names_the_weights(tiny_config, run):
    assert main(["test", "--cfg", str(tiny_config), "TEST.WEIGHTS", "ema"]) == 0

    assert "moving average in checkpoint_epoch_00002.pyth" in (run / "report.html").read_text()
