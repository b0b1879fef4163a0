"""A run from a config, seen through everything that shows it."""

import pytest

from slowfast_mvit.cli import main
from slowfast_mvit.runtime.log import StatsLog


def test_a_resumed_run_is_logged_without_a_gap_or_a_repeat(tiny_config, capsys):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    output_dir = tiny_config.parent / "out"
    words = ["train", "--cfg", str(tiny_config), "TENSORBOARD.ENABLE", "True", "LOG_PERIOD", "1"]

    assert main([*words, "SOLVER.MAX_EPOCH", "1"]) == 0
    log = output_dir / "json_stats.log"
    log.write_text(log.read_text() + log.read_text().replace('"1/1"', '"2/2"') + "json_stats: {to")
    assert main(words) == 0
    capsys.readouterr()
    assert main(["watch", str(output_dir), "--once"]) == 0

    records = StatsLog(output_dir).read()
    reported = [(record["_type"], record["epoch"][0], record.get("iter")) for record in records]
    assert reported == [
        (kind, epoch, step)
        for epoch in "12"
        for kind, step in [
            ("train_iter_", "1/2"),
            ("train_iter_", "2/2"),
            ("train_epoch", None),
            ("val_iter", "1/1"),
            ("val_epoch", None),
        ]
    ]
    events = accumulator.EventAccumulator(str(output_dir / "tensorboard"))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("Train/loss")}
    expected = [record["loss"] for record in records if record["_type"] == "train_iter_"]
    assert list(losses) == [1, 2, 3, 4]
    assert list(losses.values()) == pytest.approx(expected, rel=1e-6)
    assert [event.step for event in events.Scalars("Val/Top1_err")] == [2, 4]
    (text, *_) = (
        event.tensor_proto.string_val[0] for event in events.Tensors("config/text_summary")
    )
    assert b"    TRAIN:" in text and b"TENSORBOARD:" in text
    shown = capsys.readouterr().out
    assert "finished" in shown and "100.0 %   epoch 2/2" in shown


def test_the_rates_of_a_run_are_logged_where_it_starts_and_where_it_resumes(tiny_config, capsys):
    words = ["train", "--cfg", str(tiny_config), "SOLVER.COSINE_AFTER_WARMUP", "True"]
    words += ["SOLVER.WARMUP_START_LR", "0", "SOLVER.WARMUP_EPOCHS"]

    assert main([*words, "3", "SOLVER.MAX_EPOCH", "1"]) == 0
    first = capsys.readouterr().out
    assert main([*words, "0", "SOLVER.MAX_EPOCH", "4"]) == 0
    second = capsys.readouterr().out

    # The second of two steps is half an epoch into the warm-up of three.
    assert "learning rate: at most 0.0001667, in epoch 1 of 1; SOLVER.BASE_LR 0.001" in first
    assert "17 % of SOLVER.BASE_LR (0.001): the last step of the run is inside the warm-up" in first
    assert "learning rate: at most 0.001, in epoch 1 of 4" in second
    assert "jumps from 0.0001667 in the last step to 0.0008536 in the next" in second
