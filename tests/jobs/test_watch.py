"""A run watched in a terminal: what is shown of it, in any state of its files."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slowfast_mvit.cli import main
from slowfast_mvit.errors import UserError
from slowfast_mvit.evaluation.results import save_results
from slowfast_mvit.jobs.watch import History, status_view, watch_job
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.runtime.run_state import RunState, recorded_run_state
from slowfast_mvit.structures import EvalResult

REPOSITORY = Path(__file__).resolve().parents[2]
TITLES = ("loss 3", "top-1 error 70 %", "lr 0.002")

pytest.importorskip("plotext")


def step_record(epoch, step, **changes):
    record = {
        "_type": "train_iter_",
        "epoch": f"{epoch}/4",
        "iter": f"{step}/20",
        "loss": 6.0 - epoch - step / 20,
        "lr": 1e-3 * epoch,
        "top1_err": 90.0 - 10 * epoch,
        "dt": 0.5,
        "dt_data": 0.02,
        "clips_per_s": 256.0,
        "eta": "1:02:03",
        "gpu_mem": "11.20G",
        "num_skipped": 1,
        "num_failed": 2,
    }
    return record | changes


def records(num_epochs=2):
    for epoch in range(1, num_epochs + 1):
        yield step_record(epoch, 10)
        yield step_record(epoch, 20)
        yield {"_type": "train_epoch", "epoch": f"{epoch}/4"}
        errors = {"top1_err": 70.0 + 5 * (epoch - 1), "min_top1_err": 70.0, "top5_err": 30.0}
        yield {"_type": "val_epoch", "epoch": f"{epoch}/4", **errors}


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "k400"
    for record in records():
        StatsLog(folder).write(record)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "checkpoint_epoch_00002.pyth").touch()
    (folder / "checkpoints" / ".tmp-1-ckpt_epoch_00003.pyth").touch()
    (folder / "stdout.log").write_text("first\nsecond\nthird\nsaved \x1b[2J it\n")
    return folder


def view(folder, monkeypatch, *, state=None, width=80, height=24):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", str(height))
    return status_view(folder, History(folder / "json_stats.log"), state)


def save_test(folder, top1=75.0):
    folder.mkdir(exist_ok=True)
    result = EvalResult(
        metrics={"top1": top1, "top5": 100.0},
        num_videos=8,
        failed=0,
        num_listed=8,
        num_views=6,
        per_class={"grow": top1},
        config_digest="0",
    )
    save_results(result, folder / "test_results.json")


def test_one_view_shows_state_progress_curves_and_log(run_folder, capsys):
    assert main(["watch", str(run_folder), "--once"]) == 0

    shown = capsys.readouterr().out
    for expected in (
        f"{run_folder}",
        "50.0 %   epoch 2/4   ETA 1:02:03",
        "step 20/20  256.0 clips/s  0.500 s a step  (0.020 s for data)  GPU 11.20G",
        "failed videos 2",
        "skipped steps 1",
        "checkpoint checkpoint_epoch_00002.pyth, 0 s ago",
        "validated epoch 2/4: top-1 error 75.00 %  (least 70.00 %)  top-5 error 30.00 %",
        *TITLES,
        "epoch (o: validation)",
        "second\nthird\nsaved \\x1b[2J it",
    ):
        assert " ".join(expected.split()) in " ".join(shown.split())
    assert any("⠀" < sign <= "⣿" for sign in shown)
    assert "\x1b" not in shown


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 12), (200, 60), (80, 8)])
def test_a_view_fits_its_terminal(run_folder, monkeypatch, width, height):
    (run_folder / "stdout.log").write_text("x" * 300 + "\n")

    lines = view(run_folder, monkeypatch, width=width, height=height)

    assert len(lines) < height
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("width", "height", "num_charts"), [(80, 24, 3), (60, 24, 2), (40, 30, 1), (80, 12, 0)]
)
def test_a_small_terminal_gets_fewer_charts_and_no_flat_ones(
    run_folder, monkeypatch, width, height, num_charts
):
    text = "\n".join(view(run_folder, monkeypatch, width=width, height=height))

    assert [title for title in TITLES if title in text] == list(TITLES[:num_charts])


@pytest.mark.parametrize(
    ("state", "silence_s", "expected"),
    [
        (None, 90, "running or stopped: last line 90 s ago"),
        (RunState("running", 0.0), 90, "running: last line 90 s ago"),
        (RunState("running", 0.0), 400, "SILENT, killed or hanging: last line 0:06:40 ago"),
        (RunState("stopped", 0.0, "stopped by SIGTERM"), 400, "ago: stopped by SIGTERM"),
        (RunState("failed", 0.0, "train.csv: 1 problem"), 400, "ago: train.csv: 1 problem"),
        (RunState("finished", 0.0), 400, "finished"),
    ],
    ids=["not recorded", "running", "killed", "stopped", "failed", "finished"],
)
def test_the_state_is_what_the_run_recorded_and_the_age_of_its_log(
    run_folder, monkeypatch, state, silence_s, expected
):
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s)
    for name in ("json_stats.log", "stdout.log"):
        os.utime(run_folder / name, (now_s - silence_s,) * 2)

    lines = view(run_folder, monkeypatch, state=state, width=200)

    assert expected in lines[0]


def test_a_run_with_long_windows_is_silent_later(run_folder, monkeypatch):
    StatsLog(run_folder).write(step_record(3, 10, dt=30.0))  # ten steps take five minutes
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 400)

    lines = view(run_folder, monkeypatch, state=RunState("running", 0.0), width=200)

    assert "running: last line" in lines[0]


def test_training_and_testing_leave_a_finished_run_with_its_figure(tiny_config, capsys):
    words = ["--cfg", str(tiny_config), "SOLVER.MAX_EPOCH", "1"]
    assert main(["run_net", *words]) == 0
    folder = tiny_config.parent / "out"
    capsys.readouterr()

    assert main(["watch", str(folder), "--once"]) == 0

    shown = capsys.readouterr().out
    assert "finished" in shown and "100.0 %   epoch 1/1" in shown
    assert "test: top-1 " in shown and f"{folder / 'report.html'}" in shown.replace("\n", "")


def test_the_results_of_a_test_are_shown_unless_training_resumed(run_folder, monkeypatch):
    save_test(run_folder)
    save_test(run_folder / "test_5_clips", top1=80.0)

    text = "\n".join(view(run_folder, monkeypatch, width=200))

    assert f"test: top-1 75.00 %, top-5 100.00 %   {run_folder / 'report.html'}" in text
    assert "test: top-1 80.00 %" in text
    later_s = time.time() + 10
    os.utime(run_folder / "json_stats.log", (later_s, later_s))
    assert "test:" not in "\n".join(view(run_folder, monkeypatch, width=200))


def test_results_are_shown_when_the_log_ends_with_those_of_a_test(run_folder, monkeypatch):
    save_test(run_folder)
    StatsLog(run_folder).write({"split": "test_final", "top1_acc": "75.00", "top5_acc": "100.00"})
    later_s = time.time() + 10
    os.utime(run_folder / "json_stats.log", (later_s, later_s))

    assert "test: top-1 75.00 %" in "\n".join(view(run_folder, monkeypatch, width=200))
    StatsLog(run_folder).write(step_record(3, 10))
    os.utime(run_folder / "json_stats.log", (later_s, later_s))
    assert "test:" not in "\n".join(view(run_folder, monkeypatch, width=200))


@pytest.mark.parametrize(
    "changes",
    [{"iter": 3}, {"iter": "1/0"}, {"iter": None}, {"loss": "x"}, {"num_skipped": []}],
)
def test_a_line_with_other_types_is_left_out(run_folder, changes):
    history = History(run_folder / "json_stats.log")
    history.update()
    expected = dict(history.last)

    StatsLog(run_folder).write(step_record(4, 20, **changes))
    StatsLog(run_folder).write({"_type": "val_epoch", "top1_err": 1.0})

    assert "epoch 2/4" in "\n".join(status_view(run_folder, history, None))
    assert history.last == expected


def test_values_that_are_not_finite_are_left_out_of_the_curves(tmp_path, monkeypatch):
    for step in (10, 20):
        StatsLog(tmp_path).write(step_record(1, step, loss=None, lr=None if step == 20 else 0.1))

    text = "\n".join(view(tmp_path, monkeypatch))

    assert "loss nan" in text and "lr nan" in text and "top-1 error 80 %" in text


def test_lines_are_read_as_they_are_appended_and_torn_ones_when_they_are_whole(run_folder):
    history = History(run_folder / "json_stats.log")
    history.update()
    assert len(history.curves["loss"]) == 4
    line = 'json_stats: {"_type": "train_iter_", "epoch": "3/4", "iter": "10/20", "loss": 1.0}\n'
    with open(run_folder / "json_stats.log", "a") as file:
        file.write("\x00\x00 garbage\n" + line[:40])

    history.update()
    assert len(history.curves["loss"]) == 4
    with open(run_folder / "json_stats.log", "a") as file:
        file.write(line[40:])
    history.update()
    assert history.curves["loss"][4:] == [(2.5, 1.0)]


def test_a_log_that_a_resumed_run_replaced_is_read_from_its_start(run_folder):
    history = History(run_folder / "json_stats.log")
    history.update()

    StatsLog(run_folder).keep_until(epoch=1, step=10)
    history.update()

    assert [epoch for epoch, _ in history.curves["loss"]] == [0.5, 1.0, 1.5]
    assert history.curves["val"] == [(1, 70.0)]


def test_a_folder_without_a_run_and_none_at_all_are_reported(tmp_path, capsys):
    assert main(["watch", str(tmp_path), "--once"]) == 0
    assert "no json_stats.log there yet" in capsys.readouterr().out
    (tmp_path / "stdout.log").write_text("reading the list\n")
    assert main(["watch", str(tmp_path), "--once"]) == 0
    shown = capsys.readouterr().out
    assert "no step of training is logged yet" in shown and "reading the list" in shown

    for folder in (tmp_path / "nowhere", "s3://bucket/run"):
        assert main(["watch", str(folder)]) == 2
        assert "no such local folder" in capsys.readouterr().err


def test_without_plotext_the_message_names_the_extra(run_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotext", None)

    with pytest.raises(UserError, match=r'pip install "slowfast_mvit\[watch\]"'):
        watch_job(str(run_folder))


def watch_in_a_terminal(folder, is_done):
    """Run watch in a terminal, with Ctrl-C once ``is_done``; returns its output and exit status."""
    controller, terminal = pty.openpty()
    # A job that a script starts in the background ignores SIGINT, and so would its children.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from slowfast_mvit.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    watch = subprocess.Popen(
        [sys.executable, "-c", program, "watch", str(folder)],
        stdout=terminal,
        env=os.environ
        | {"PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"}
        | {"COLUMNS": "80", "LINES": "24"},
    )
    os.close(terminal)
    shown, is_interrupted, end_s = b"", False, time.monotonic() + 120
    try:
        while watch.poll() is None and time.monotonic() < end_s:
            if select.select([controller], [], [], 0.2)[0]:
                shown += os.read(controller, 1 << 16)
            if is_done(shown) and not is_interrupted:
                watch.send_signal(signal.SIGINT)
                is_interrupted = True
        while select.select([controller], [], [], 0)[0]:
            shown += os.read(controller, 1 << 16)
    except OSError:  # Linux, when the other end is closed
        watch.wait(timeout=60)
    finally:
        watch.kill()
        status = watch.wait()
        os.close(controller)
    return shown.decode("utf-8", errors="replace"), status


@pytest.mark.nightly
def test_a_terminal_is_redrawn_until_ctrl_c(run_folder):
    shown, status = watch_in_a_terminal(run_folder, lambda shown: shown.count(b"\x1b[H") >= 2)

    assert shown.count("\x1b[H") >= 2
    assert "epoch 2/4" in shown and any("⠀" < sign <= "⣿" for sign in shown)
    assert status == 0


def test_watching_a_finished_run_ends_with_the_figure_of_its_test(run_folder):
    save_test(run_folder)
    with recorded_run_state(run_folder):
        pass

    shown, status = watch_in_a_terminal(run_folder, lambda shown: False)

    assert shown.count("\x1b[H") == 1
    assert "finished" in shown and "test: top-1 75.00 %" in shown
    assert status == 0
