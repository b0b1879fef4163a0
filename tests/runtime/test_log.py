"""Log lines, JSON lines and progress."""

import json
import logging
import sys

import pytest

from slowfast_mvit.errors import printable
from slowfast_mvit.runtime.log import (
    IN_BAR_TOO,
    Progress,
    StatsLog,
    duration,
    memory_in_use,
    setup_logging,
)


@pytest.fixture
def package():
    """The package's logger, put back as it was."""
    logger = logging.getLogger("slowfast_mvit")
    handlers, level = list(logger.handlers), logger.level
    yield logging.getLogger("slowfast_mvit.test")
    for handler in set(logger.handlers) - set(handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)


def test_lines_go_to_the_terminal_and_to_a_file(tmp_path, capsys, package):
    setup_logging(tmp_path / "run")

    package.info("saved %s", "it")

    assert capsys.readouterr().out.endswith("INFO saved it\n")
    assert (tmp_path / "run" / "stdout.log").read_text().endswith("INFO saved it\n")


def test_a_second_set_up_replaces_the_first(tmp_path, capsys, package):
    setup_logging(tmp_path / "one")
    setup_logging(tmp_path / "two")

    package.info("once")

    assert capsys.readouterr().out.count("once") == 1
    assert (tmp_path / "one" / "stdout.log").read_text() == ""


def test_other_processes_than_the_first_are_silent(tmp_path, capsys, package, monkeypatch):
    monkeypatch.setattr("slowfast_mvit.runtime.log.is_main", lambda: False)
    setup_logging(tmp_path / "run")

    package.info("hello")
    StatsLog(tmp_path).write({"_type": "val_epoch"})

    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_hostile_names_cannot_steer_the_terminal(tmp_path, capsys, package, monkeypatch):
    # pytest keeps what reaches the root logger, and pytest-xdist cannot send a lone surrogate.
    monkeypatch.setattr(logging.getLogger("slowfast_mvit"), "propagate", False)
    setup_logging(tmp_path)

    package.warning("%s", "\x1b[2J\r\udcff\u202ename \u00fc \u4f60.mp4")

    out = capsys.readouterr().out
    assert out.endswith("\\x1b[2J\\r\\udcff\\u202ename \u00fc \u4f60.mp4\n")
    assert "\\x1b[2J" in (tmp_path / "stdout.log").read_text(encoding="utf-8")


def test_line_ends_are_not_escaped():
    assert printable("two\nlines\t") == "two\nlines\\t"


def test_records_are_lines_as_pyslowfast_writes_them(tmp_path):
    stats = StatsLog(tmp_path)

    stats.write({"lr": 1.2345678901234567e-06, "_type": "train_epoch", "loss": float("nan")})

    (line,) = stats.path.read_text().splitlines()
    assert line == (
        'json_stats: {"_type": "train_epoch", "loss": null, "lr": 1.2345678901234567e-06}'
    )
    assert json.loads(line.removeprefix("json_stats: "))["lr"] == 1.2345678901234567e-06


def test_records_are_read_back_by_kind(tmp_path):
    stats = StatsLog(tmp_path)
    assert stats.read() == []
    stats.write({"_type": "train_epoch", "epoch": "1/2"})
    stats.write({"_type": "val_epoch", "epoch": "1/2"})

    assert [record["_type"] for record in stats.read()] == ["train_epoch", "val_epoch"]
    assert stats.read("val_epoch") == [{"_type": "val_epoch", "epoch": "1/2"}]


def test_a_torn_line_is_logged_and_skipped(tmp_path, caplog):
    stats = StatsLog(tmp_path)
    stats.write({"_type": "train_epoch", "epoch": "1/2"})
    with open(stats.path, "a") as file:
        file.write('json_stats: {"_type": "tr')

    assert len(stats.read()) == 1
    assert "truncated line" in caplog.text


def wrote_two_epochs(folder):
    """The log of two epochs of four steps, with a line after each second step."""
    stats = StatsLog(folder)
    for epoch in (1, 2):
        for step in (2, 4):
            stats.write({"_type": "train_iter_", "epoch": f"{epoch}/10", "iter": f"{step}/4"})
        stats.write({"_type": "train_epoch", "epoch": f"{epoch}/10"})
        stats.write({"_type": "val_epoch", "epoch": f"{epoch}/10"})
    return stats


@pytest.mark.parametrize(
    ("goes_on_at", "num_kept"),
    [((0, 0), 0), ((0, 3), 1), ((1, 0), 4), ((1, 1), 4), ((1, 2), 5), ((1, 4), 6), ((2, 0), 8)],
)
def test_records_of_repeated_steps_are_dropped(tmp_path, goes_on_at, num_kept):
    stats = wrote_two_epochs(tmp_path)
    lines = stats.path.read_text().splitlines()

    stats.keep_until(*goes_on_at)

    assert stats.path.read_text().splitlines() == lines[:num_kept]


def test_a_torn_line_does_not_swallow_the_next(tmp_path):
    stats = wrote_two_epochs(tmp_path)
    stats.path.write_text(stats.path.read_text()[:-5])

    stats.write({"_type": "train_epoch", "epoch": "3/10"})

    assert stats.read()[-1] == {"_type": "train_epoch", "epoch": "3/10"}
    assert len(stats.read()) == 8


def test_lines_that_are_no_records_are_left_out(tmp_path, caplog):
    (tmp_path / "json_stats.log").write_bytes(b'\x00\x00\n3\njson_stats: {"_type": "val_epoch"}\n')

    assert StatsLog(tmp_path).read() == [{"_type": "val_epoch"}]
    assert len(caplog.records) == 2


def test_used_and_total_memory_are_reported():
    in_use, whole = memory_in_use().removesuffix("G").split("/")

    assert 0 < float(in_use) < float(whole)


class Terminal:
    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal(sys.stderr))

    assert list(Progress("abc", total=3, what="testing", log_period=1)) == ["a", "b", "c"]

    assert "testing" in capsys.readouterr().err


def test_a_bar_shows_the_numbers_of_training_and_the_terminal_no_lines_of_them(
    tmp_path, capsys, monkeypatch, package
):
    monkeypatch.setattr(sys, "stderr", Terminal(sys.stderr))
    monkeypatch.setattr(sys, "stdout", Terminal(sys.stdout))
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    setup_logging(tmp_path)

    steps = Progress(range(4), total=4, what="epoch 1/2", start=2)
    for _ in steps:
        steps.show("loss 0.5")
        package.info("step 3 of 4: loss 0.5", extra={IN_BAR_TOO: True})
    package.info("the epoch is done")

    shown = capsys.readouterr()
    assert "epoch 1/2" in shown.err and "loss 0.5" in shown.err
    assert "50%" in shown.err  # where it began
    assert "step 3" not in shown.out and "the epoch is done" in shown.out
    assert "step 3 of 4" in (tmp_path / "stdout.log").read_text()


def test_progress_is_lines_with_an_eta_elsewhere(caplog):
    caplog.set_level("INFO")

    assert list(Progress("abcde", total=5, what="testing", log_period=2)) == list("abcde")

    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"testing: {n} of 5, ETA 0:00:00" for n in (2, 4, 5)]


def test_progress_logs_nothing_without_a_period(caplog, capsys):
    caplog.set_level("INFO")

    assert list(Progress("ab", total=2, what="epoch 1/2")) == ["a", "b"]

    assert caplog.text == "" and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00:00"), (3725.6, "1:02:06"), (90000, "1 day, 1:00:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
