"""Records go to the log, to the metric writers and to a line."""

import logging

import pytest
from tiny_run import tiny_batches

from slowfast_mvit.engine.reporter import ReportedLoader, Reporter, describe
from slowfast_mvit.runtime.log import IN_BAR_TOO, Progress, StatsLog

RECORD = {
    "_type": "train_iter_",
    "epoch": "1/2",
    "iter": "10/20",
    "loss": 1.23456,
    "lr": 0.00012345678901,
    "gpu_mem": "0.00G",
    "num_failed": 1200,
    "num_skipped": 0,
    "clips_per_s": 37.25,
}


class Collected:
    """A metric writer that keeps what it is given."""

    def __init__(self):
        self.records = []

    def write(self, record):
        self.records.append(record)


def test_a_record_goes_to_the_log_the_writers_and_a_line(tmp_path, caplog):
    caplog.set_level("INFO")
    writer = Collected()

    Reporter(StatsLog(tmp_path), [writer]).report(RECORD)

    assert StatsLog(tmp_path).read() == [RECORD] == writer.records
    (line,) = caplog.records
    assert line.getMessage() == (
        "epoch 1/2 training: step 10/20  loss 1.2346  lr 0.000123457  failed videos 1,200  "
        "37.2 clips/s"
    )
    assert not getattr(line, IN_BAR_TOO)


def test_a_bar_takes_the_place_of_the_line_of_a_step(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    shown = []
    bar = Progress([], total=20, what="epoch 1/2")
    monkeypatch.setattr(bar, "show", shown.append)

    Reporter(StatsLog(tmp_path)).report(RECORD, bar)

    assert shown == ["loss 1.2346  lr 0.000123457"]
    assert getattr(caplog.records[0], IN_BAR_TOO)


def test_only_the_main_process_reports(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("slowfast_mvit.engine.reporter.is_main", lambda: False)
    writer = Collected()

    Reporter(StatsLog(tmp_path), [writer]).report(RECORD)

    assert writer.records == [] and caplog.text == "" and not list(tmp_path.iterdir())


def test_numbers_of_any_kind_are_put_describe():
    assert describe({"loss": float("nan"), "num_failed": 0}) == "loss nan"


def reported(folder, num_batches=5):
    return ReportedLoader(
        tiny_batches(num_batches),
        epoch_validated=2,
        max_epoch=9,
        reporter=Reporter(StatsLog(folder)),
        log_period=2,
    )


def test_a_validation_reports_its_progress_and_gives_every_batch(tmp_path, caplog):
    caplog.set_level("INFO")
    loader = reported(tmp_path)

    batches = list(loader.epoch(0))

    assert [batch.video_ids for batch in batches] == [tuple("abcdef")] * 5
    records = StatsLog(tmp_path).read("val_iter")
    assert [(record["epoch"], record["iter"]) for record in records] == [
        ("3/9", "2/5"),
        ("3/9", "4/5"),
    ]
    assert records[0].keys() == {"_type", "epoch", "iter", "time_diff", "eta"}
    assert caplog.records[0].getMessage().startswith("epoch 3/9 validating: step 2/5")
    assert (len(loader), loader.num_videos) == (5, 30)


@pytest.mark.parametrize("was_finished", [True, False])
def test_a_validation_that_is_done_again_is_reported_once(tmp_path, was_finished):
    stats = StatsLog(tmp_path)
    stats.write({"_type": "train_epoch", "epoch": "3/9"})
    list(reported(tmp_path).epoch(0))
    if was_finished:
        stats.write({"_type": "val_epoch", "epoch": "3/9"})

    stats.keep_until(epoch=3, step=0)

    kinds = [record["_type"] for record in stats.read()]
    steps = ["val_iter", "val_iter", "val_epoch"] if was_finished else []
    assert kinds == ["train_epoch", *steps]
