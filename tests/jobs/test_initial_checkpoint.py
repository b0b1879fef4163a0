"""TRAIN.CHECKPOINT_FILE_PATH: the errors where no run can resume from it, and the load report."""

import json

import pytest

from slowfast_mvit import builders
from slowfast_mvit.cli import main
from slowfast_mvit.config import load_config
from slowfast_mvit.runtime.checkpoint import save_checkpoint


@pytest.fixture
def other_run(tiny_config, tmp_path):
    """A checkpoint of another run, after the first of its epochs."""
    config = load_config(tiny_config)
    model = builders.build_model(config)
    return save_checkpoint(
        tmp_path / "other",
        epoch=0,
        model_state=model.state_dict(),
        optimizer_state=builders.build_optimizer(config, model).state_dict(),
        cfg_text=config.to_yaml(),
        extra={"input_spec": model.input_spec, "seed": 0},
    )


def train(tiny_config, checkpoint, *words):
    named = ["TRAIN.CHECKPOINT_FILE_PATH", str(checkpoint)]
    return main(["train", "--cfg", str(tiny_config), *named, *words])


def test_a_finished_run_is_not_resumed_and_the_error_says_why(tiny_config, other_run, capsys):
    status = train(tiny_config, other_run, "SOLVER.MAX_EPOCH", "1")

    message = capsys.readouterr().err
    assert status == 2
    assert "its run has finished 1 epochs, and SOLVER.MAX_EPOCH is 1" in message
    assert "set TRAIN.CHECKPOINT_EPOCH_RESET True" in message
    assert "set SOLVER.MAX_EPOCH above 1" in message


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["SOLVER.ZERO_WD_1D_PARAM", "True"], "parameter groups"),
        (["MODEL.NUM_CLASSES", "9"], "does not fit this model"),
    ],
    ids=["groups", "classes"],
)
def test_an_error_of_resuming_names_the_key_that_takes_the_weights_alone(
    tiny_config, other_run, capsys, words, reason
):
    status = train(tiny_config, other_run, *words)

    message = capsys.readouterr().err
    assert status == 2
    assert reason in message and "TRAIN.CHECKPOINT_EPOCH_RESET" in message


def test_a_file_that_fills_little_starts_a_run_only_on_request(
    tiny_config, other_run, tmp_path, capsys
):
    deeper = ["MVIT.DEPTH", "4", "TRAIN.CHECKPOINT_EPOCH_RESET", "True", "SOLVER.MAX_EPOCH", "1"]

    status = train(tiny_config, other_run, *deeper)
    message = capsys.readouterr().err
    assert train(tiny_config, other_run, *deeper, "TRAIN.CHECKPOINT_MIN_FILLED", "0.1") == 0

    initial = json.loads((tmp_path / "out" / "load_report.json").read_text())
    assert status == 2
    assert "90% are required. Nothing was loaded" in message and "CHECKPOINT_MIN_FILLED" in message
    assert {name[:9] for name in initial["missing"]} == {"blocks.2.", "blocks.3."}


def test_training_and_testing_write_a_load_report(tiny_config, other_run, tmp_path):
    cfg, reset = str(tiny_config), ["TRAIN.CHECKPOINT_EPOCH_RESET", "True"]

    assert train(tiny_config, other_run, *reset, "SOLVER.MAX_EPOCH", "1") == 0
    assert main(["test", "--cfg", cfg]) == 0

    initial = json.loads((tmp_path / "out" / "load_report.json").read_text())
    tested = json.loads((tmp_path / "out" / "test_load_report.json").read_text())
    assert (
        initial["path"] == str(other_run) and initial["source"] == "ours" and initial["epoch"] == 0
    )
    assert initial["filled"] == 1.0 and not initial["missing"]
    assert tested["path"].endswith("checkpoint_epoch_00001.pyth")
    assert set(tested["loaded"]) == set(initial["loaded"])
